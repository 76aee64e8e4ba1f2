# SPDX-License-Identifier: MIT
"""Round trips against PyTorch: what it computes, and what lstm-model computes of the files that it wrote."""
import unittest

import numpy as np

from support import ConvertTest, run

try:
    import torch
    from torch import nn
except ImportError:
    torch = None

from convert import pytorch


@unittest.skipIf(torch is None, "there is no PyTorch here (Debian: python3-torch)")
class TorchTest(ConvertTest):
    def setUp(self):
        super().setUp()
        torch.manual_seed(3)

    def input(self, width, steps=12):
        return torch.randn(steps, width)

    def saved(self, state, legacy=False):
        path = self.dir / f"net{self.made}.pt"
        torch.save(state, path, _use_new_zipfile_serialization=not legacy)
        return path

    def check(self, module, x, y, *options, tolerance=1e-5):
        for legacy in (False, True):
            with self.subTest(legacy=legacy):
                self.verify(
                    self.convert("pytorch", self.saved(module.state_dict(), legacy), *options),
                    x.detach().numpy(),
                    y.detach().numpy(),
                    tolerance,
                )

    def test_stacks_of_every_kind(self):
        for module in (
            nn.LSTM(5, 7, 2),
            nn.LSTM(5, 7, 2, bias=False),
            nn.LSTM(4, 9, 2, proj_size=3),
            nn.GRU(3, 8, 3),
            nn.RNN(6, 5),
        ):
            with self.subTest(str(module)):
                x = self.input(module.input_size)
                holder = nn.ModuleDict({"rnn": module})
                self.check(holder, x, module(x[:, None])[0][:, 0])

    def test_an_rnn_of_relu(self):
        module, x = nn.RNN(6, 5, nonlinearity="relu"), self.input(6)
        self.check(nn.ModuleDict({"rnn": module}), x, module(x[:, None])[0][:, 0], "--net", "rnn:relu")

    def test_words_to_probabilities(self):
        net = nn.ModuleDict(
            {
                "embed": nn.Embedding(20, 6),
                "rnn": nn.LSTM(6, 8),
                "norm": nn.LayerNorm(8),
                "hidden": nn.Linear(8, 9),
                "head": nn.Linear(9, 20),
            }
        )
        ids = torch.randint(0, 20, (15,))
        y = torch.relu(net["hidden"](net["norm"](net["rnn"](net["embed"](ids)[:, None])[0][:, 0])))
        self.check(
            net,
            ids,
            torch.log_softmax(net["head"](y), -1),
            "--net",
            "embed, rnn, norm, hidden, relu, head, log_softmax",
        )

    def test_what_the_file_leaves_open_is_asked_for(self):
        net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        self.assertIn('--net "0, relu, 2"', self.refusal("pytorch", self.saved(net.state_dict())))
        self.assertIn(
            "which is neither in the file",
            self.refusal("pytorch", self.saved(net.state_dict()), "--net", "0, gated, 2"),
        )

    def test_checkpoints_wrappers_and_cells(self):
        cell, x = nn.LSTMCell(3, 4), self.input(3)
        h = c = torch.zeros(1, 4)
        out = []
        for step in x:
            h, c = cell(step[None], (h, c))
            out.append(h[0])
        y = torch.stack(out)
        state = {
            "epoch": 3,
            "lr": 0.1,
            "optimizer": torch.optim.Adam(cell.parameters()).state_dict(),
            "model_state_dict": {f"module.cell.{k}": v for k, v in cell.state_dict().items()},
        }
        for key in ([], ["--key", "model_state_dict"]):
            self.verify(self.convert("pytorch", self.saved(state), *key), x.numpy(), y.detach().numpy())
        self.assertIn("no tensors below 'ema'", self.refusal("pytorch", self.saved(state), "--key", "ema"))

    def test_number_types_views_and_shared_storages(self):
        module, x = nn.GRU(3, 4), self.input(3)
        for kind, tolerance in ((torch.float64, 1e-5), (torch.float16, 1e-5), (torch.bfloat16, 1e-5)):
            state = {f"rnn.{k}": v.to(kind) for k, v in module.state_dict().items()}
            state["rnn.weight_hh_l0"] = torch.stack([state["rnn.weight_hh_l0"], torch.ones(12, 4).to(kind)], -1)[
                ..., 0
            ]  # every other number of its storage
            module.load_state_dict({k[4:]: v.float() for k, v in state.items()})
            for legacy in (False, True):
                with self.subTest(kind=kind, legacy=legacy):
                    self.verify(
                        self.convert("pytorch", self.saved(state, legacy)),
                        x.numpy(),
                        module(x[:, None])[0][:, 0].detach().numpy(),
                        tolerance,
                    )

    def test_convolutions_run_with_the_past_in_front(self):
        conv = nn.utils.weight_norm(nn.Conv1d(4, 6, 3, dilation=2, groups=2))
        x = self.input(4)
        y = conv(nn.functional.pad(x.T[None], (4, 0)))[0].T
        self.check(nn.ModuleDict({"c": conv}), x, y, "--net", "c:dilation=2:groups=2")

    def test_a_slope_for_each_element_is_told_from_a_norm(self):
        net, x = nn.ModuleDict({"a": nn.Linear(3, 4), "p": nn.PReLU(4)}), self.input(3)
        nn.init.normal_(net["p"].weight)
        self.assertIn("p:prelu or p:norm", self.refusal("pytorch", self.saved(net.state_dict())))
        self.check(net, x, net["p"](net["a"](x)), "--net", "a, p:prelu")
        y = nn.functional.layer_norm(net["a"](x), [4], net["p"].weight, None, 0.01)
        self.check(net, x, y, "--net", "a, p:norm:eps=0.01")

    def test_modules_in_memory(self):
        net = nn.Sequential(
            nn.Linear(3, 5),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.5),
            nn.BatchNorm1d(5),
            nn.Linear(5, 4),
            nn.Hardsigmoid(),
            nn.LayerNorm(4, eps=0.1),
            nn.PReLU(4, init=0.1),
            nn.Softmax(-1),
        )
        net(torch.randn(50, 3))
        net.eval()
        x, target = self.input(3), self.dir / "m" / "1"
        pytorch.from_module(net).write(target)
        self.verify(target, x.numpy(), net(x).detach().numpy())
        rnn, target = nn.RNN(3, 4, nonlinearity="relu"), self.dir / "r" / "1"
        pytorch.from_module(rnn).write(target)
        self.verify(target, x.numpy(), rnn(x[:, None])[0][:, 0].detach().numpy())

    def test_modules_that_cannot_be_known_are_refused(self):
        for module, reason in (
            (nn.LSTM(2, 3, bidirectional=True), "bidirectional"),
            (nn.Sequential(nn.Conv1d(2, 2, 3, padding=1)), "no padding"),
            (nn.Sequential(nn.Conv2d(1, 1, 3)), "is a Conv2d"),
            (nn.TransformerEncoderLayer(4, 2), "no nn.Sequential"),
        ):
            with self.assertRaises(pytorch.Refused) as refused:
                pytorch.from_module(module)
            self.assertIn(reason, str(refused.exception))
        self.assertIn(
            "bidirectional", self.refusal("pytorch", self.saved(nn.LSTM(2, 3, bidirectional=True).state_dict()))
        )

    def test_a_whole_module_in_a_file_is_refused_by_name(self):
        for legacy in (False, True):
            self.assertIn("torch.nn.modules.rnn.LSTM", self.refusal("pytorch", self.saved(nn.LSTM(2, 3), legacy)))
        script = self.dir / "script.pt"
        torch.jit.script(nn.Linear(2, 3)).save(str(script))
        self.assertIn("TorchScript", self.refusal("pytorch", script))

    def test_every_cut_of_a_file_is_refused(self):
        for legacy in (False, True):
            whole = self.saved(nn.LSTM(2, 3).state_dict(), legacy).read_bytes()
            for size in [0, 1, 4, 100, len(whole) // 2, len(whole) - 1] + list(self.rng.integers(0, len(whole), 40)):
                (self.dir / "cut.pt").write_bytes(whole[:size])
                self.refusal("pytorch", self.dir / "cut.pt")

    def test_a_damaged_file_is_refused_or_gives_a_model(self):
        whole = self.saved(nn.LSTM(2, 3).state_dict(), True).read_bytes()
        for _ in range(300):
            bad = bytearray(whole)
            for at in self.rng.integers(0, len(bad), 3):
                bad[at] = self.rng.integers(0, 256)
            (self.dir / "bad.pt").write_bytes(bad)
            status, _, _, err = self.run_command("pytorch", self.dir / "bad.pt")
            self.assertIn((status, err.count("\n")), ((0, 0), (1, 1)), err)


if __name__ == "__main__":
    run()

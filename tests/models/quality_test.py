# SPDX-License-Identifier: MIT
"""The bundled models, as they are served, on what they were not trained on. Environment: LSTM_SERVER, the binary."""
import json
import os
import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "client" / "python"), str(ROOT / "tests" / "client" / "python"), str(ROOT / "models" / "train")]

import numpy as np

import french_data
import lstm
import telemetry_data
from test_client import Server

SESSIONS = 16  # in one batch


def quality(model):
    """What was measured when it was trained."""
    return json.loads((ROOT / "models" / "repository" / model / "1" / "quality.json").read_text())


class Served(unittest.TestCase):
    def setUp(self):
        server = Server()
        self.addCleanup(server.stop)
        self.client = lstm.connect(server.address, timeout=120)
        self.addCleanup(self.client.close)

    def sessions(self, model, **options):
        return [self.client.session(model, **options) for _ in range(SESSIONS)]


class FrenchTest(Served):
    def accuracy(self, model, gap):
        rng = np.random.default_rng(gap)
        stories = [french_data.story(rng, gap, test=True) for _ in range(256)]
        sessions = self.sessions(model, last_step_only=True)
        answers = [sessions[i % SESSIONS].send(words, reset_before=True) for i, (words, _) in enumerate(stories)]
        return np.mean([answer().argmax() == right for answer, (_, right) in zip(answers, stories)])

    def test_the_lstm_names_the_language_at_every_gap_and_the_rnn_does_what_was_written_down(self):
        for model in "french", "french-rnn":
            seeds = quality(model)["test_accuracy_by_gap_and_seed"]
            self.assertEqual(len(seeds), 3)
            self.assertEqual(len(quality(model)["validation_by_rate"]), 4)
            for gap in 5, 20, 50, 100, 200:
                measured, recorded = self.accuracy(model, gap), [seed[str(gap)] for seed in seeds]
                with self.subTest(model=model, gap=gap):
                    self.assertAlmostEqual(measured, recorded[quality(model)["exported_seed"] - 1], delta=0.05)
                    if model == "french":
                        self.assertGreaterEqual(min(measured, *recorded), 0.99)
        lstm_size, rnn_size = (quality(model)["parameters"] for model in ("french", "french-rnn"))
        self.assertAlmostEqual(rnn_size / lstm_size, 1, delta=0.01)

    def test_what_the_words_just_before_settle(self):
        with self.client.session("french") as s:
            for start, end in french_data.SHORT:
                self.assertEqual(s.vocabulary.decode(s.step_text("i grew up in spain . " + start)[-1].argmax()), end)
                s.reset()


class TelemetryTest(Served):
    def test_faults_of_an_unseen_seed_are_found_and_far_better_than_by_the_baselines(self):
        readings, labels, _ = telemetry_data.generate(telemetry_data.TEST_SEED, 20_000)
        with self.client.session("telemetry", outputs=["anomaly"]) as s:
            score = np.concatenate(list(s.stream(np.split(readings, 40))))[:, 0]
        measured = telemetry_data.f1(score > 0.5, labels)
        self.assertGreaterEqual(measured, 0.9)
        self.assertAlmostEqual(measured, quality("telemetry")["f1_by_step"], delta=0.001)
        train = np.concatenate([telemetry_data.generate(seed, 6000)[0] for seed in telemetry_data.TRAIN_SEEDS])
        validation, validation_labels, _ = telemetry_data.generate(telemetry_data.VALIDATION_SEED, 20_000)
        tuned = telemetry_data.baselines(train, validation)
        for name, values in telemetry_data.baselines(train, readings).items():
            with self.subTest(baseline=name):
                flags = values > telemetry_data.best_threshold(tuned[name], validation_labels)
                self.assertGreaterEqual(measured - telemetry_data.f1(flags, labels), 0.1)


class ShakespeareTest(Served):
    def test_bits_per_character_on_the_text_held_back(self):
        cases = pathlib.Path(os.environ.get("LSTM_CASES_DIR", ROOT / ".." / "shared" / "cases"))
        path = cases / "tinyshakespeare" / "input.txt"
        if not path.exists():
            self.skipTest(f"no text at {path}; LSTM_CASES_DIR says where the cases are")
        text = path.read_text()
        text = text[int(len(text) * 0.9):]
        length = len(text) // SESSIONS
        sessions = self.sessions("shakespeare")
        streams = [np.array(sessions[0].vocabulary.encode(text[i * length:(i + 1) * length])) for i in range(SESSIONS)]
        answers = [(ids[t + 1:t + 513], s.send(ids[t:t + 512][:len(ids) - 1 - t])) for t in range(0, length - 1, 512)
                   for ids, s in zip(streams, sessions)]
        bits = -np.concatenate([np.log2(answer()[np.arange(len(right)), right]) for right, answer in answers])
        self.assertEqual(len(bits), SESSIONS * (length - 1))
        self.assertLessEqual(bits.mean(), 2.15)
        self.assertAlmostEqual(bits.mean(), quality("shakespeare")["bits_per_character"], delta=0.001)


if __name__ == "__main__":
    unittest.main()

# SPDX-License-Identifier: MIT
"""Frozen graphs of TensorFlow 1: from the output back to the input, layer by layer; a loop, or a cell unrolled, is
the cells in it."""
import pathlib

import numpy as np

from .errors import Refused, parse_message
from .tensorflow import CELL, groups_of, natural

DTYPES = {
    1: ("<f4", "float_val"),
    2: ("<f8", "double_val"),
    3: ("<i4", "int_val"),
    9: ("<i8", "int64_val"),
    19: ("<f2", None),
}
THROUGH = (
    "Identity",
    "Reshape",
    "Transpose",
    "Squeeze",
    "ExpandDims",
    "StopGradient",
    "Snapshot",
    "StridedSlice",
    "Enter",
    "Cast",
    "PlaceholderWithDefault",
)
FUNCTIONS = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Elu": "elu",
    "Softplus": "softplus",
    "Abs": "abs",
    "Exp": "exp",
    "Log": "log",
    "Gelu": "gelu",
}
RECURRENT = (
    "Exit",
    "TensorArrayGatherV3",
    "TensorArrayReadV3",
    "Mul",
    "BlockLSTM",
    "BlockLSTMV2",
    "LSTMBlockCell",
    "GRUBlockCell",
    "Pack",
    "LoopCond",
    "Switch",
    "Merge",
)
ADDS = ("Add", "AddV2", "BiasAdd")
MOST_ELEMENTS = 1 << 29


def _array(name, tensor):
    if tensor.dtype not in DTYPES or tensor.tensor_shape.unknown_rank:
        return None
    kind, field = DTYPES[tensor.dtype]
    shape, count = [d.size for d in tensor.tensor_shape.dim], 1
    for n in shape:
        count *= n
    if any(n < 0 for n in shape) or len(shape) > 8 or count > MOST_ELEMENTS:
        raise Refused(f"constant '{name}' has shape {shape}")
    if tensor.tensor_content:
        if len(tensor.tensor_content) != count * np.dtype(kind).itemsize:
            raise Refused(
                f"constant '{name}' of shape {shape} has {len(tensor.tensor_content)} bytes, expected"
                f" {count * np.dtype(kind).itemsize}"
            )
        return np.frombuffer(tensor.tensor_content, dtype=kind).reshape(shape)
    values = (
        np.array(getattr(tensor, field), dtype=kind) if field else np.array(tensor.half_val, dtype="<u2").view("<f2")
    )
    if not 0 < values.size <= count:
        return None
    if count > 1 << 22 and values.size < count:  # a small file must not become a large model
        raise Refused(f"constant '{name}' of shape {shape} has {values.size} numbers")
    return np.concatenate([values, np.repeat(values[-1:], count - values.size)]).reshape(
        shape
    )  # the last one is repeated


class Node:
    def __init__(self, node):
        self.name, self.op = node.name.decode("utf-8"), node.op.decode("utf-8")
        self.input = [i.decode("utf-8") for i in node.input]
        self._attributes = {a.key: a.value for a in node.attr}

    def attr(self, name):
        """A missing one is all zeros, as TensorFlow's defaults that matter here are."""
        from . import tensorflow_pb2 as pb

        return self._attributes.get(name.encode(), pb.Attr())


class Walked:
    def __init__(self):
        self.items, self.made, self.notes, self.forget_bias, self.gate_order = [], {}, [], None, None


class Graph:
    def __init__(self, path):
        from . import tensorflow_pb2 as pb

        graph = parse_message(pb.Graph, pathlib.Path(path).read_bytes())
        try:
            self.nodes = {n.name: n for n in map(Node, graph.node)}
        except UnicodeDecodeError as e:
            raise Refused(f"no Graph of TensorFlow: {e}") from None
        if not self.nodes or len(self.nodes) != len(graph.node):
            raise Refused(
                f"no graph of TensorFlow: {len(graph.node)} nodes, {len(graph.node) - len(self.nodes)} names twice"
            )
        self.variables = {}
        for name, node in self.nodes.items():
            if node.op in ("VariableV2", "Variable", "VarHandleOp"):
                raise Refused(f"node '{name}' is a variable: the graph is not frozen, its weights are in a checkpoint")
            if node.op == "Const":
                array = _array(name, node.attr("value").tensor)
                if array is not None and array.dtype.kind == "f":
                    self.variables[name] = array

    def node(self, reference):
        name = reference.lstrip("^").split(":")[0]
        if name not in self.nodes:
            raise Refused(f"the graph has no node '{name}'")
        return self.nodes[name]

    def inputs(self, node):
        return [i for i in node.input if not i.startswith("^")]

    def constant(self, reference):
        """Name of the trained constant behind Identity and Enter, or None."""
        for _ in range(16):
            node = self.node(reference)
            if node.op == "Const":
                return node.name if node.name in self.variables else None
            if node.op not in ("Identity", "Enter", "Reshape", "Cast") or not self.inputs(node):
                return None
            reference = self.inputs(node)[0]
        return None

    def _output(self):
        used = {
            self.node(i).name for n in self.nodes.values() for i in n.input if i.lstrip("^").split(":")[0] in self.nodes
        }
        ends = [
            n
            for n in self.nodes.values()
            if n.name not in used and n.op not in ("Const", "NoOp", "Placeholder", "Assert")
        ]
        if len(ends) != 1:
            raise Refused(
                f"the graph ends in {', '.join(sorted(n.name for n in ends)[:8]) or 'nothing'}: say which with"
                " --output-node"
            )
        return ends[0].name

    def walk(self, output=None, input_node=None):
        walked, seen, at, bias, cells = Walked(), set(), output or self._output(), None, False

        def no_bias(node):
            if bias is not None:
                raise Refused(f"node '{node.name}' ({node.op}): a constant is added to it, expected a MatMul")

        while True:
            node = self.node(at)
            if node.name in seen:
                raise Refused(f"node '{node.name}' is its own input, outside of a loop")
            seen.add(node.name)
            inputs = self.inputs(node)
            if node.name == input_node or node.op == "Placeholder":
                no_bias(node)
                break
            constants = [self.constant(i) for i in inputs] if inputs else []
            if node.op in ADDS and len(inputs) == 2 and sum(c is not None for c in constants) == 1:
                no_bias(node)
                bias = next(c for c in constants if c)
                at = inputs[constants.index(None)]
            elif (
                node.op == "MatMul"
                and constants[1:]
                and constants[1]
                and not CELL.fullmatch(constants[1].rpartition("/")[0])
            ):
                if node.attr("transpose_a").b:
                    raise Refused(f"node '{node.name}': MatMul of a transposed value")
                name = constants[1]
                if node.attr("transpose_b").b:
                    walked.made[name + "/transposed"], name = self.variables[name].T, name + "/transposed"
                walked.items.append((f"{name}+{bias or ''}", {"linear": True}))
                at, bias = inputs[0], None
            elif node.op in ("Gather", "GatherV2", "ResourceGather") and constants and constants[0]:
                no_bias(node)
                walked.items.append((constants[0] + "+", {"embedding": True}))
                at = inputs[1]
            elif node.op in FUNCTIONS:
                no_bias(node)
                walked.items.append((FUNCTIONS[node.op], {}))
                at = inputs[0]
            elif node.op == "Relu6":
                no_bias(node)
                walked.items.append(("clip", {"alpha": 0, "beta": 6}))
                at = inputs[0]
            elif node.op in ("Minimum", "Maximum") and len(inputs) == 2 and sum(c is not None for c in constants) == 1:
                no_bias(node)
                limit = self.variables[next(c for c in constants if c)]
                if limit.size != 1:
                    raise Refused(f"node '{node.name}': {node.op} with a limit for each element, expected one")
                low, high = (-3.4e38, float(limit.flat[0])) if node.op == "Minimum" else (float(limit.flat[0]), 3.4e38)
                walked.items.append(("clip", {"alpha": low, "beta": high}))
                at = inputs[constants.index(None)]
            elif node.op in THROUGH or (node.op in ("Gather", "GatherV2") and not cells):
                at = inputs[0]
            elif node.op in RECURRENT:
                no_bias(node)
                at, cells = self._cells(node, walked), True
                if at is None:
                    break
            elif cells:
                walked.notes.append(f"the input of a step is taken to be what node '{node.name}' ({node.op}) gives")
                break
            else:
                raise Refused(f"node '{node.name}' is a {node.op}, which is no layer that is known here")
        walked.items.reverse()
        return walked

    def _cells(self, start, walked):
        """The cells that `start` is computed by, the last layer first; returns what they are fed, None for a
        placeholder."""
        scopes, sources, todo, seen, forget = set(), set(), [start.name], set(), set()
        while todo:
            node = self.node(todo.pop())
            if node.name in seen:
                continue
            seen.add(node.name)
            inputs = self.inputs(node)
            if node.op == "Const":
                array = self.variables.get(node.name)
                if array is not None and array.ndim > 0:
                    scopes.add(node.name)
                continue
            if node.op in ("TensorArrayScatterV3", "Unpack", "TensorArraySplitV3"):
                sources.add(inputs[2] if node.op.startswith("TensorArray") and len(inputs) > 2 else inputs[0])
                continue
            if node.op == "Placeholder":
                continue
            clip = node.op in ("Minimum", "Maximum") and any(map(self.constant, inputs))  # the loop's bound is no float
            if clip or node.op in ("ReverseV2", "ReverseSequence", "RandomUniform", "Relu", "Relu6"):
                why = {
                    "Rev": "it reads a sequence from its end, which cannot be streamed",
                    "Ran": "dropout is still on",
                    "Rel": "the cell's activation is not tanh",
                }
                clips = "the cell clips (cell_clip, proj_clip), which the manifest has no cell for"
                raise Refused(f"node '{node.name}' is a {node.op}: {why.get(node.op[:3], clips)}")
            if node.op in ADDS and len(inputs) == 2 and not any(self.node(i).op == "Const" for i in inputs):
                kinds = {self.node(i).op for i in inputs}
                if not kinds <= {"Mul", "Add", "AddV2", "Split", "BiasAdd", "MatMul", "Enter", "Identity", "Sub"} or (
                    kinds & {"Identity"} and not any(map(self.constant, inputs))
                ):
                    raise Refused(
                        f"node '{node.name}' adds {' and '.join(sorted(kinds))}: a residual connection within the loop"
                    )
            if node.op in ADDS and len(inputs) == 2:
                for a, b in (inputs, inputs[::-1]):
                    name = self.constant(b)
                    if self.node(a).op == "Split" and a.endswith(":2") and name and self.variables[name].ndim == 0:
                        forget.add(float(self.variables[name]))
            if node.op in ("BlockLSTM", "BlockLSTMV2", "LSTMBlockCell"):
                if node.attr("cell_clip").f > 0:
                    raise Refused(
                        f"node '{node.name}' clips its cell at {node.attr('cell_clip').f:g}, which the manifest has no"
                        " cell for"
                    )
                peepholes = [self.constant(i) for i in inputs[-4:-1]] if node.attr("use_peephole").b else []
                if [str(p).rpartition("/")[2] for p in peepholes] not in ([], ["w_i_diag", "w_f_diag", "w_o_diag"]):
                    raise Refused(f"node '{node.name}' has peepholes that are not called w_i_diag, w_f_diag, w_o_diag")
                if node.op != "BlockLSTMV2":
                    forget.add(float(node.attr("forget_bias").f))
                else:
                    forget.add(0.0)
                    walked.gate_order = "ifco"
            if node.op in ("BlockLSTM", "BlockLSTMV2"):  # a whole sequence: its length, x, c, h, then the weights
                if len(inputs) != 9:
                    raise Refused(f"node '{node.name}' ({node.op}) has {len(inputs)} inputs, expected 9")
                sources.add(inputs[1])
                inputs = inputs[4:]
            todo += inputs
        cells = sorted((s for s in groups_of({n: self.variables[n] for n in scopes}) if CELL.fullmatch(s)), key=natural)
        if not cells:
            raise Refused(f"node '{start.name}' ({start.op}): no cell of TensorFlow 1 is behind it")
        if len(forget | ({walked.forget_bias} - {None})) > 1:
            raise Refused(f"cells with several forget biases: {sorted(forget)}")
        if len(sources) > 1:
            raise Refused(f"cells {', '.join(cells)} are fed by {', '.join(sorted(sources))}: expected one")
        if forget:
            walked.forget_bias = forget.pop()
        walked.items += [(cell, {}) for cell in reversed(cells)]
        return next(iter(sources), None)

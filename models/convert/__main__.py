# SPDX-License-Identifier: MIT
"""python3 models/convert FORMAT FILE --output DIR/NAME/1"""
import argparse
import os
import sys

if not __package__:  # run as a directory
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    __package__ = "convert"

import numpy as np  # noqa: E402

from convert.errors import Refused  # noqa: E402


def _add(formats, name, text, function, net=False):
    command = formats.add_parser(name, help=text, description=text)
    command.add_argument("file", metavar="FILE")
    command.add_argument(
        "--output", required=True, metavar="DIR/NAME/1", help="the directory of the version; it must not exist yet"
    )
    command.add_argument("--description", default="", help="what the model is, for people")
    command.add_argument("--input-name", default="x")
    command.add_argument("--output-name", default="y")
    if net:
        command.add_argument(
            "--net",
            metavar="A,B,...",
            help=(
                "layers in the order in which they run, by their prefix in the file, and the functions between, which"
                ' the file does not have: "embed, rnn, relu, head, softmax"; options of a layer: conv:dilation=2,'
                " rnn:relu, norm:eps=1e-6"
            ),
        )
    command.set_defaults(function=function)
    return command


def _names(a):
    return {"description": a.description, "input_name": a.input_name, "output_name": a.output_name}


def _pytorch(a):
    from convert import pytorch

    return pytorch.from_file(a.file, a.net, a.key, **_names(a))


def _keras(a):
    from convert import keras

    return keras.from_file(a.file, a.config, **_names(a))


def _tensorflow(a):
    from convert import tensorflow

    return tensorflow.from_file(a.file, a.net, a.forget_bias, a.gate_order, a.input_node, a.output_node, **_names(a))


def _nam(a):
    from convert import nam

    return nam.from_file(a.file, **_names(a))


def _rtneural(a):
    from convert import rtneural

    return rtneural.from_file(a.file, a.net, **_names(a))


def _parser():
    parser = argparse.ArgumentParser(
        prog="convert",
        description=(
            "Writes a model directory of lstm-server from a file of another framework. Nothing in the file is executed."
        ),
    )
    formats = parser.add_subparsers(dest="format", required=True, metavar="FORMAT")
    pytorch = _add(
        formats, "pytorch", "a state dict in a file of torch.save, new or legacy; needs no torch", _pytorch, net=True
    )
    pytorch.add_argument("--key", help="where in a checkpoint the state dict is, such as model_state_dict")
    keras = _add(formats, "keras", ".keras and HDF5 files; needs h5py", _keras)
    keras.add_argument("--config", metavar="JSON", help="what model.to_json() wrote, for files that have weights alone")
    tensorflow = _add(
        formats,
        "tensorflow",
        "TensorFlow 1: a checkpoint (its prefix or its .index) or a frozen graph (.pb)",
        _tensorflow,
        net=True,
    )
    tensorflow.add_argument(
        "--forget-bias",
        type=float,
        metavar="B",
        help=(
            "what the cells add to the forget gate at run time: 1 unless they were made otherwise; checkpoints do"
            " not say"
        ),
    )
    tensorflow.add_argument(
        "--gate-order",
        metavar="ORDER",
        help="icfo (BasicLSTMCell, LSTMCell, LSTMBlockCell: the default), ifco (BlockLSTMV2, Keras), iofc or fico",
    )
    tensorflow.add_argument(
        "--input-node",
        metavar="NAME",
        help="frozen graphs: the value that a step is fed, where the walk from the output should end",
    )
    tensorflow.add_argument(
        "--output-node", metavar="NAME", help="frozen graphs: the value to answer with; the last one unless given"
    )
    _add(formats, "nam", "LSTMs of the Neural Amp Modeler (.nam)", _nam)
    _add(formats, "rtneural", "RTNeural's JSON, of Keras or PyTorch origin; AIDA-X, GuitarML", _rtneural, net=True)
    return parser


def main(arguments=None):
    a = _parser().parse_args(arguments)
    try:
        with np.errstate(all="ignore"):  # what is not finite in the end is refused by name
            net = a.function(a)
            net.write(a.output)
    except Refused as e:
        text = "".join(c if c.isprintable() else "?" for c in str(e))  # names in files are anything
        print(f"convert: {a.file}: {text if len(text) < 1200 else text[:1200] + '...'}", file=sys.stderr)
        return 1
    except OSError as e:
        print(f"convert: {e}" if e.filename else f"convert: {a.file}: damaged: {e}", file=sys.stderr)
        return 1
    for note in net.notes:
        print(f"note: {note}")
    print(net.manifest(), end="")
    print(f"written: {a.output}; lstm-model inspect and lstm-model verify look at it")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes the ONNX graphs of `robustcodec/graphs/`: `python -m robustcodec.lab.graphs`.

The bytes depend on this package alone: operator set and format version are fixed, and no tool's name is written.
"""

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from robustcodec import graphs
from robustcodec.lab.graphs import cheng, hyper
from robustcodec.lab.graphs.canvas import CONSTANTS, Graph

_OPERATOR_SET = 17
_FORMAT_VERSION = 8

_BUILDERS = {"hyper": hyper.BUILDERS, "cheng": cheng.BUILDERS}


def build(architecture: str, sizes: tuple[int, int], network: str) -> bytes:
    """Give the bytes of one graph. Its input is called `input`, its output `output`; weights are external."""
    n, m = sizes
    shapes = graphs.parameters(architecture, sizes, network)
    weights = graphs.initialisers(
        architecture, network, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    )
    graph = Graph()
    last = _BUILDERS[architecture][network](graph, "input")
    channels = {"analysis": (3, m), "hyper_analysis": (m, n), "synthesis": (m, 3), "descent": (m, m)}[network]
    graph.nodes[-1].output[0] = "output"
    assert last == f"v{len(graph.nodes) - 1}", "the network's output must be its last operation"
    extra = []
    if network == "descent":
        extra = [_plane("target", 3, "target"), _plane("weight", 1, "target")]
    used = {name for node in graph.nodes for name in node.input}
    constants = [
        helper.make_tensor(name, onnx.TensorProto.FLOAT, (), [value])
        for name, value in CONSTANTS.items()
        if name in used
    ]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            network,
            [_plane("input", channels[0], "in"), *extra],
            [_plane("output", channels[1], "out")],
            [*(_external(name, weight.shape) for name, weight in weights.items()), *constants],
        ),
        opset_imports=[helper.make_opsetid("", _OPERATOR_SET)],
        ir_version=_FORMAT_VERSION,
    )
    model.ClearField("producer_name")
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _plane(name: str, channels: int, which: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, onnx.TensorProto.FLOAT, [1, channels, f"height_{which}", f"width_{which}"]
    )


def _external(name: str, shape: tuple[int, ...]) -> onnx.TensorProto:
    """Declare a weight whose values the session is given as an array; the file it names does not exist."""
    tensor = onnx.TensorProto(
        name=name,
        data_type=onnx.TensorProto.FLOAT,
        dims=shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    tensor.external_data.add(key="location", value="weights")
    return tensor


def write_all(folder: Path) -> None:
    """Write every graph and the list of their hashes into `folder`."""
    lines = ['"""sha256 of each graph; written by `python -m robustcodec.lab.graphs`."""', "", "DIGESTS = {"]
    for architecture, sizes in ((arch, sizes) for arch, each in graphs.SIZES.items() for sizes in each):
        for network in graphs.NETWORKS:
            name = graphs.file_name(architecture, sizes, network)
            data = build(architecture, sizes, network)
            (folder / name).write_bytes(data)
            lines.append(f'    "{name}": "{hashlib.sha256(data).hexdigest()}",')
    (folder / "digests.py").write_text("\n".join([*lines, "}", ""]))

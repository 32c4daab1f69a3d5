"""Writes the ONNX graphs of `robustcodec/graphs/`: `python -m robustcodec.lab.graphs`.

The bytes depend on this file alone: operator set and format version are fixed, and no tool's name is written.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from robustcodec import graphs

_OPERATOR_SET = 17
_FORMAT_VERSION = 8


class _Graph:
    """Collects nodes; every method adds one operation and gives its output's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def add(self, operator: str, inputs: list[str], **attributes: object) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def convolution(
        self, inputs: list[str], kernel: tuple[int, int], pads: tuple[int, int, int, int], stride: int = 1
    ) -> str:
        """`inputs` are the plane, the weight and, in one of several that are added up, the bias."""
        return self.add("Conv", inputs, kernel_shape=kernel, pads=pads, strides=(stride, stride))

    def downward(self, plane: str, layer: str) -> str:
        return self.convolution(_inputs(plane, layer), (5, 5), (2, 2, 2, 2), stride=2)

    def upward_to_phases(self, plane: str, layer: str) -> list[str]:
        return [
            self.convolution([plane, f"{layer}.weight.{y}{x}", f"{layer}.bias"], (3 - y, 3 - x), (1 - y, 1 - x, 1, 1))
            for y, x in graphs.PHASES
        ]

    def normalise(self, plane: str, layer: str) -> str:
        return self.add("Div", [plane, self.root(plane, layer)])

    def root(self, plane: str, layer: str) -> str:
        square = self.add("Mul", [plane, plane])
        norm = self.convolution([square, f"{layer}.gamma", f"{layer}.beta"], (1, 1), (0, 0, 0, 0))
        return self.add("Sqrt", [norm])

    def denormalise_back(self, gradient: str, plane: str, root: str, layer: str) -> str:
        """Of x * r with r^2 = beta + gamma x^2: the gradient g becomes g r + x (gamma^T (g x / r))."""
        reduced = self.add("Div", [self.add("Mul", [gradient, plane]), root])
        spread = self.convolution([reduced, f"{layer}.back"], (1, 1), (0, 0, 0, 0))
        return self.add("Add", [self.add("Mul", [gradient, root]), self.add("Mul", [plane, spread])])

    def split(self, plane: str, parts: int) -> list[str]:
        """Cut channels into equal parts."""
        outputs = [f"v{len(self.nodes)}.{part}" for part in range(parts)]
        self.nodes.append(helper.make_node("Split", [plane], outputs, axis=1))
        return outputs

    def total(self, planes: Iterator[str]) -> str:
        result = next(planes)
        for plane in planes:
            result = self.add("Add", [result, plane])
        return result


def _inputs(plane: str, layer: str) -> list[str]:
    return [plane, f"{layer}.weight", f"{layer}.bias"]


def _share(plane: str, layer: str, phase: tuple[int, int]) -> list[str]:
    """Inputs of the convolution of one phase; the first one brings the bias for all."""
    y, x = phase
    return [plane, f"{layer}.weight.{y}{x}", *([f"{layer}.bias"] if phase == (0, 0) else [])]


def _analysis(graph: _Graph, x: str) -> str:
    phases = [
        graph.convolution(_inputs(x, "g_a.0"), (5, 5), (2 - 2 * row, 2 - 2 * column, row, column), stride=4)
        for row, column in graphs.PHASES
    ]
    phases = [graph.normalise(phase, "g_a.1") for phase in phases]
    plane = graph.total(
        graph.convolution(_share(phase, "g_a.2", (row, column)), (3 - row, 3 - column), (1, 1, 1 - row, 1 - column))
        for phase, (row, column) in zip(phases, graphs.PHASES, strict=True)
    )
    plane = graph.downward(graph.normalise(plane, "g_a.3"), "g_a.4")
    return graph.downward(graph.normalise(plane, "g_a.5"), "g_a.6")


def _hyper_analysis(graph: _Graph, y: str) -> str:
    plane = graph.add("Abs", [y])
    plane = graph.add("Relu", [graph.convolution(_inputs(plane, "h_a.0"), (3, 3), (1, 1, 1, 1))])
    plane = graph.add("Relu", [graph.downward(plane, "h_a.2")])
    return graph.downward(plane, "h_a.4")


def _synthesis(graph: _Graph, y_hat: str) -> str:
    return _forward(graph, y_hat, [])


@dataclass(frozen=True)
class _Kept:
    """What going back through a normalisation takes, one of each phase: its input and the root of its norm."""

    planes: list[str]
    roots: list[str]


def _forward(graph: _Graph, y_hat: str, kept: list[_Kept]) -> str:
    """Synthesise; put what going back takes into `kept`, layer by layer."""
    plane = y_hat
    phases: list[str] = []
    for layer in (0, 2, 4):
        inputs = graph.upward_to_phases(plane, f"g_s.{layer}")
        roots, phases = [], []
        for phase in inputs:
            roots.append(graph.root(phase, f"g_s.{layer + 1}"))
            phases.append(graph.add("Mul", [phase, roots[-1]]))
        kept.append(_Kept(inputs, roots))
        if layer < 4:
            plane = graph.add("DepthToSpace", [graph.add("Concat", phases, axis=1)], blocksize=2, mode="DCR")
    shares = graph.total(
        graph.convolution(_share(phase, "g_s.6", (row, column)), (2, 2), (row, column, 1 - row, 1 - column))
        for phase, (row, column) in zip(phases, graphs.PHASES, strict=True)
    )
    return graph.add("DepthToSpace", [shares], blocksize=4, mode="DCR")


def _descent(graph: _Graph, y_hat: str) -> str:
    kept: list[_Kept] = []
    shown = graph.add("Clip", [_forward(graph, y_hat, kept), "zero", "one"])
    error = graph.add("Mul", [graph.add("Sub", [shown, "target"]), "weight"])
    gradients = [
        graph.convolution([error, "g_s.6.back"], (5, 5), (2 - 2 * row, 2 - 2 * column, row, column), stride=4)
        for row, column in graphs.PHASES
    ]
    plane = ""
    for layer, back in zip((4, 2, 0), reversed(kept), strict=True):
        if layer < 4:
            # SpaceToDepth gives the phases one after the other
            phases = graph.add("SpaceToDepth", [plane], blocksize=2)
            gradients = graph.split(phases, 4)
        parts = [
            graph.denormalise_back(gradient, plane, root, f"g_s.{layer + 1}")
            for gradient, plane, root in zip(gradients, back.planes, back.roots, strict=True)
        ]
        plane = graph.total(
            graph.convolution(
                [part, f"g_s.{layer}.back.{row}{column}"], (3 - row, 3 - column), (1, 1, 1 - row, 1 - column)
            )
            for part, (row, column) in zip(parts, graphs.PHASES, strict=True)
        )
    return plane


_BUILDERS = {"analysis": _analysis, "hyper_analysis": _hyper_analysis, "synthesis": _synthesis, "descent": _descent}


_CONSTANTS: dict[str, tuple[tuple[str, float], ...]] = {
    "analysis": (),
    "hyper_analysis": (),
    "synthesis": (),
    "descent": (("zero", 0.0), ("one", 1.0)),
}


def build(architecture: str, sizes: tuple[int, int], network: str) -> bytes:
    """Give the bytes of one graph. Its input is called `input`, its output `output`; weights are external."""
    n, m = sizes
    shapes = graphs.parameters(architecture, sizes, network)
    weights = graphs.initialisers(network, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    graph = _Graph()
    last = _BUILDERS[network](graph, "input")
    channels = {"analysis": (3, m), "hyper_analysis": (m, n), "synthesis": (m, 3), "descent": (m, m)}[network]
    graph.nodes[-1].output[0] = "output"
    assert last == f"v{len(graph.nodes) - 1}", "the network's output must be its last operation"
    extra = []
    if network == "descent":
        extra = [_plane("target", 3, "target"), _plane("weight", 1, "target")]
    constants = [helper.make_tensor(name, onnx.TensorProto.FLOAT, (), [value]) for name, value in _CONSTANTS[network]]
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


if __name__ == "__main__":
    write_all(Path(graphs.__file__).parent)

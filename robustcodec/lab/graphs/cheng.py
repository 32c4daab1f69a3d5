"""The graphs of Cheng 2020's anchor."""

from dataclasses import dataclass

from robustcodec.graphs.cheng import HYPER_STRIDES
from robustcodec.lab.graphs.canvas import Graph, parameters_of


def analysis(graph: Graph, x: str) -> str:
    """Give y."""
    plane = x
    for index in range(0, 6, 2):
        plane = _down(graph, plane, f"g_a.{index}")
        plane = _residual(graph, plane, f"g_a.{index + 1}", [])
    return graph.convolution(parameters_of(plane, "g_a.6"), (3, 3), (1, 1, 1, 1), stride=2)


def hyper_analysis(graph: Graph, y: str) -> str:
    """Give z."""
    plane = y
    for index, stride in enumerate(HYPER_STRIDES):
        plane = graph.leaky(plane) if index else plane
        plane = graph.convolution(parameters_of(plane, f"h_a.{2 * index}"), (3, 3), (1, 1, 1, 1), stride=stride)
    return plane


def synthesis(graph: Graph, y_hat: str) -> str:
    """Give x_hat."""
    return _forward(graph, y_hat, [])


def descent(graph: Graph, y_hat: str) -> str:
    """Give the gradient of half the weighted squared error."""
    kept: list[_Residual | _Up] = []
    shown = graph.add("Clip", [_forward(graph, y_hat, kept), "zero", "one"])
    error = graph.add("Mul", [graph.add("Sub", [shown, "target"]), "weight"])
    gradient = _double_back(graph, error, "g_s.7.0")
    for block in reversed(kept):
        gradient = block.back(graph, gradient)
    return gradient


@dataclass(frozen=True)
class _Residual:
    """What going back through a residual block takes: what its activations were given."""

    name: str
    first: str
    second: str

    def back(self, graph: Graph, gradient: str) -> str:
        inner = graph.same(graph.leaky_back(gradient, self.second), f"{self.name}.conv2", "back")
        inner = graph.same(graph.leaky_back(inner, self.first), f"{self.name}.conv1", "back")
        return graph.add("Add", [inner, gradient])


@dataclass(frozen=True)
class _Up:
    """What going back through a block that doubles the size takes: what its activation and normalisation were given."""

    name: str
    first: str
    second: str
    gain: str

    def back(self, graph: Graph, gradient: str) -> str:
        inner = graph.denormalise_back(gradient, self.second, self.gain, f"{self.name}.igdn")
        inner = graph.leaky_back(graph.same(inner, f"{self.name}.conv", "back"), self.first)
        inner = _double_back(graph, inner, f"{self.name}.subpel_conv.0")
        return graph.add("Add", [inner, _double_back(graph, gradient, f"{self.name}.upsample.0")])


def _forward(graph: Graph, y_hat: str, kept: "list[_Residual | _Up]") -> str:
    """Synthesise; put what going back takes into `kept`, block by block."""
    plane = y_hat
    for index in range(0, 6, 2):
        plane = _residual(graph, plane, f"g_s.{index}", kept)
        plane = _up(graph, plane, f"g_s.{index + 1}", kept)
    return _double(graph, _residual(graph, plane, "g_s.6", kept), "g_s.7.0")


def _residual(graph: Graph, plane: str, name: str, kept: "list[_Residual | _Up]") -> str:
    first = graph.same(plane, f"{name}.conv1")
    second = graph.same(graph.leaky(first), f"{name}.conv2")
    kept.append(_Residual(name, first, second))
    return graph.add("Add", [graph.leaky(second), plane])


def _down(graph: Graph, plane: str, name: str) -> str:
    inner = graph.leaky(graph.convolution(parameters_of(plane, f"{name}.conv1"), (3, 3), (1, 1, 1, 1), stride=2))
    inner = graph.normalise(graph.same(inner, f"{name}.conv2"), f"{name}.gdn")
    skip = graph.convolution(parameters_of(plane, f"{name}.skip"), (1, 1), (0, 0, 0, 0), stride=2)
    return graph.add("Add", [inner, skip])


def _up(graph: Graph, plane: str, name: str, kept: "list[_Residual | _Up]") -> str:
    first = _double(graph, plane, f"{name}.subpel_conv.0")
    second = graph.same(graph.leaky(first), f"{name}.conv")
    gain = graph.gain(second, f"{name}.igdn")
    kept.append(_Up(name, first, second, gain))
    return graph.add("Add", [graph.add("Mul", [second, gain]), _double(graph, plane, f"{name}.upsample.0")])


def _double(graph: Graph, plane: str, layer: str) -> str:
    return graph.add("DepthToSpace", [graph.same(plane, layer)], blocksize=2, mode="CRD")


def _double_back(graph: Graph, gradient: str, layer: str) -> str:
    return graph.same(graph.add("SpaceToDepth", [gradient], blocksize=2), layer, "back")


BUILDERS = {"analysis": analysis, "hyper_analysis": hyper_analysis, "synthesis": synthesis, "descent": descent}

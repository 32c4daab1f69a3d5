"""The graphs of the scale hyperprior."""

from dataclasses import dataclass

from robustcodec.graphs.hyper import PHASES
from robustcodec.lab.graphs.canvas import Graph, parameters_of


def _share(plane: str, layer: str, phase: tuple[int, int]) -> list[str]:
    """Inputs of the convolution of one phase; the first one brings the bias for all."""
    y, x = phase
    return [plane, f"{layer}.weight.{y}{x}", *([f"{layer}.bias"] if phase == (0, 0) else [])]


def analysis(graph: Graph, x: str) -> str:
    """Give y."""
    phases = [
        graph.convolution(parameters_of(x, "g_a.0"), (5, 5), (2 - 2 * row, 2 - 2 * column, row, column), stride=4)
        for row, column in PHASES
    ]
    phases = [graph.normalise(phase, "g_a.1") for phase in phases]
    plane = graph.total(
        graph.convolution(_share(phase, "g_a.2", (row, column)), (3 - row, 3 - column), (1, 1, 1 - row, 1 - column))
        for phase, (row, column) in zip(phases, PHASES, strict=True)
    )
    plane = graph.downward(graph.normalise(plane, "g_a.3"), "g_a.4")
    return graph.downward(graph.normalise(plane, "g_a.5"), "g_a.6")


def hyper_analysis(graph: Graph, y: str) -> str:
    """Give z."""
    plane = graph.add("Abs", [y])
    plane = graph.add("Relu", [graph.convolution(parameters_of(plane, "h_a.0"), (3, 3), (1, 1, 1, 1))])
    plane = graph.add("Relu", [graph.downward(plane, "h_a.2")])
    return graph.downward(plane, "h_a.4")


def synthesis(graph: Graph, y_hat: str) -> str:
    """Give x_hat."""
    return _forward(graph, y_hat, [])


@dataclass(frozen=True)
class _Kept:
    """What going back through a normalisation takes, one of each phase: its input and what it multiplied by."""

    planes: list[str]
    gains: list[str]


def _forward(graph: Graph, y_hat: str, kept: list[_Kept]) -> str:
    """Synthesise; put what going back takes into `kept`, layer by layer."""
    plane = y_hat
    phases: list[str] = []
    for layer in (0, 2, 4):
        inputs = graph.upward_to_phases(plane, f"g_s.{layer}")
        gains, phases = [], []
        for phase in inputs:
            gains.append(graph.gain(phase, f"g_s.{layer + 1}"))
            phases.append(graph.add("Mul", [phase, gains[-1]]))
        kept.append(_Kept(inputs, gains))
        if layer < 4:
            plane = graph.add("DepthToSpace", [graph.add("Concat", phases, axis=1)], blocksize=2, mode="DCR")
    shares = graph.total(
        graph.convolution(_share(phase, "g_s.6", (row, column)), (2, 2), (row, column, 1 - row, 1 - column))
        for phase, (row, column) in zip(phases, PHASES, strict=True)
    )
    return graph.add("DepthToSpace", [shares], blocksize=4, mode="DCR")


def descent(graph: Graph, y_hat: str) -> str:
    """Give the gradient of half the weighted squared error."""
    kept: list[_Kept] = []
    shown = graph.add("Clip", [_forward(graph, y_hat, kept), "zero", "one"])
    error = graph.add("Mul", [graph.add("Sub", [shown, "target"]), "weight"])
    gradients = [
        graph.convolution([error, "g_s.6.back"], (5, 5), (2 - 2 * row, 2 - 2 * column, row, column), stride=4)
        for row, column in PHASES
    ]
    plane = ""
    for layer, back in zip((4, 2, 0), reversed(kept), strict=True):
        if layer < 4:
            # SpaceToDepth gives the phases one after the other
            phases = graph.add("SpaceToDepth", [plane], blocksize=2)
            gradients = graph.split(phases, 4)
        parts = [
            graph.denormalise_back(gradient, plane, gain, f"g_s.{layer + 1}")
            for gradient, plane, gain in zip(gradients, back.planes, back.gains, strict=True)
        ]
        plane = graph.total(
            graph.convolution(
                [part, f"g_s.{layer}.back.{row}{column}"], (3 - row, 3 - column), (1, 1, 1 - row, 1 - column)
            )
            for part, (row, column) in zip(parts, PHASES, strict=True)
        )
    return plane


BUILDERS = {"analysis": analysis, "hyper_analysis": hyper_analysis, "synthesis": synthesis, "descent": descent}

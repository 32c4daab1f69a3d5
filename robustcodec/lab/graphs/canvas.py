"""What graphs are put together with: operations, each of which gives the name of its output."""

from collections.abc import Iterator

import onnx
from onnx import helper

from robustcodec.graphs.hyper import PHASES

_SLOPE = 0.01
"""Of the leaky ReLU below zero."""

CONSTANTS = {"zero": 0.0, "one": 1.0, "slope": _SLOPE}
"""Scalars that operations may take as inputs."""


class Graph:
    """Collects nodes; every method adds one operation and gives its output's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def add(self, operator: str, inputs: list[str], **attributes: object) -> str:
        """Add any operation."""
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def convolution(
        self, inputs: list[str], kernel: tuple[int, int], pads: tuple[int, int, int, int], stride: int = 1
    ) -> str:
        """`inputs` are the plane, the weight and, in one of several that are added up, the bias."""
        return self.add("Conv", inputs, kernel_shape=kernel, pads=pads, strides=(stride, stride))

    def downward(self, plane: str, layer: str) -> str:
        """Convolution 5x5 to half the size."""
        return self.convolution(parameters_of(plane, layer), (5, 5), (2, 2, 2, 2), stride=2)

    def same(self, plane: str, layer: str, weight: str = "weight") -> str:
        """Convolution 3x3 that keeps the size; without its bias if it has another weight."""
        inputs = parameters_of(plane, layer) if weight == "weight" else [plane, f"{layer}.{weight}"]
        return self.convolution(inputs, (3, 3), (1, 1, 1, 1))

    def leaky(self, plane: str) -> str:
        """Leaky ReLU."""
        return self.add("LeakyRelu", [plane], alpha=_SLOPE)

    def leaky_back(self, gradient: str, plane: str) -> str:
        """Take the gradient back to the plane that went into `leaky`."""
        slope = self.add("Where", [self.add("Greater", [plane, "zero"]), "one", "slope"])
        return self.add("Mul", [gradient, slope])

    def upward_to_phases(self, plane: str, layer: str) -> list[str]:
        """Transposed convolution 5x5 to the four phases of twice the size."""
        return [
            self.convolution([plane, f"{layer}.weight.{y}{x}", f"{layer}.bias"], (3 - y, 3 - x), (1 - y, 1 - x, 1, 1))
            for y, x in PHASES
        ]

    def normalise(self, plane: str, layer: str) -> str:
        """Divisive normalisation."""
        return self.add("Div", [plane, self._root(plane, layer)])

    def gain(self, plane: str, layer: str) -> str:
        """Give what an inverse normalisation multiplies by."""
        return self.add("Min", [self._root(plane, layer), f"{layer}.limit"])

    def _root(self, plane: str, layer: str) -> str:
        square = self.add("Mul", [plane, plane])
        norm = self.convolution([square, f"{layer}.gamma", f"{layer}.beta"], (1, 1), (0, 0, 0, 0))
        return self.add("Sqrt", [norm])

    def denormalise_back(self, gradient: str, plane: str, gain: str, layer: str) -> str:
        """Of x * r with r^2 = beta + gamma x^2: the gradient g becomes g r + x (gamma^T (g x / r)).

        Where r is at its limit the second term has no share of it.
        """
        reduced = self.add("Div", [self.add("Mul", [gradient, plane]), gain])
        reduced = self.add("Where", [self.add("Less", [gain, f"{layer}.limit"]), reduced, "zero"])
        spread = self.convolution([reduced, f"{layer}.back"], (1, 1), (0, 0, 0, 0))
        return self.add("Add", [self.add("Mul", [gradient, gain]), self.add("Mul", [plane, spread])])

    def split(self, plane: str, parts: int) -> list[str]:
        """Cut channels into equal parts."""
        outputs = [f"v{len(self.nodes)}.{part}" for part in range(parts)]
        self.nodes.append(helper.make_node("Split", [plane], outputs, axis=1))
        return outputs

    def total(self, planes: Iterator[str]) -> str:
        """Sum of planes."""
        result = next(planes)
        for plane in planes:
            result = self.add("Add", [result, plane])
        return result


def parameters_of(plane: str, layer: str) -> list[str]:
    """Inputs of a convolution that has a bias."""
    return [plane, f"{layer}.weight", f"{layer}.bias"]

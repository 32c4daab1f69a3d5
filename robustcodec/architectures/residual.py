"""The synthesis of Cheng 2020's anchor, all of whose convolutions are 3x3, in numpy.

ONNX Runtime, which has the same network as a graph, multiplies for each of these convolutions four times as much as
`robustcodec.winograd` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

import numpy as np

from robustcodec.architectures import Float32
from robustcodec.blas import limited
from robustcodec.winograd import Convolution, Finish, Memory, Plane

_SLOPE = np.float32(0.01)


class Synthesis:
    """Makes pictures of latents, with checked parameters (`robustcodec.networks.checked`), one at a time."""

    def __init__(self, tensors: Mapping[str, Float32], threads: int) -> None:
        self._threads = threads
        self._lock = Lock()
        self._memories = Memory(), Memory(), Memory()
        self._convolutions = {
            name.removesuffix(".weight"): Convolution(
                tensor, tensors[name.replace(".weight", ".bias")], doubles=name.endswith(".0.weight")
            )
            for name, tensor in tensors.items()
            if name.endswith(".weight")
        }
        self._normalisations = {
            name.removesuffix(".gamma"): _Normalisation(
                tensor[:, :, 0, 0], *(tensors[name.replace("gamma", part)].ravel() for part in ("beta", "limit"))
            )
            for name, tensor in tensors.items()
            if name.endswith(".gamma")
        }

    def synthesise(self, y_hat: Float32) -> Float32:
        """Give x_hat (3, 16h, 16w) of y_hat (M, h, w): not clipped, and infinite or no number for hostile latents."""
        with self._lock, limited(1):
            current, inner, free = self._memories
            plane = Plane.of(current, y_hat)
            for index in range(0, 6, 2):
                self._residual(plane, inner, f"g_s.{index}")
                plane = self._double(plane, inner, free, f"g_s.{index + 1}")
                current, free = free, current
            self._residual(plane, inner, "g_s.6")
            shown = self._convolve(plane, free, "g_s.7.0")
            return shown.values.transpose(2, 0, 1).copy()

    def _residual(self, plane: Plane, inner: Memory, name: str) -> None:
        """Change a plane in place."""
        self._convolve(self._convolve(plane, inner, f"{name}.conv1", _leaky), plane, f"{name}.conv2", _leaky)

    def _double(self, plane: Plane, inner: Memory, outer: Memory, name: str) -> Plane:
        """Give the plane of twice the size in `outer`."""
        first = self._convolve(plane, inner, f"{name}.subpel_conv.0", _leaky)
        plain = self._convolve(plane, outer, f"{name}.upsample.0")
        return self._convolve(first, plain, f"{name}.conv", self._normalisations[f"{name}.igdn"])

    def _convolve(self, plane: Plane, onto: Plane | Memory, name: str, finish: Finish | None = None) -> Plane:
        return self._convolutions[name](plane, onto, self._threads, finish)


def _leaky(values: Float32) -> None:
    np.maximum(values, values * _SLOPE, out=values)


@dataclass(frozen=True, eq=False)
class _Normalisation:
    """An inverse normalisation: gamma (C, C), beta and limit (C,)."""

    gamma: Float32
    beta: Float32
    limit: Float32

    def __call__(self, values: Float32) -> None:
        gain = np.square(values) @ self.gamma.T
        gain += self.beta
        np.sqrt(gain, out=gain)
        values *= np.minimum(gain, self.limit, out=gain)

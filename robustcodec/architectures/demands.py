"""What models take of memory and arithmetic, by architecture and sizes; as light as a command that opens no model."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from robustcodec.errors import ModelError
from robustcodec.memory import Demand


def _hyper(n: int, m: int) -> Demand:
    transposed = 25 * (n * m + 4 * n * n + 16 * n * n + 64 * n * 3)
    normalised = (4 + 16 + 64) * n * n
    scales = 25 * n * n + 4 * 25 * n * n + 16 * 9 * n * m
    return Demand(
        weights=200 * n * n + 68 * n * m,
        latents=m,
        halo=2,
        analysis_halo=32,
        seen=2 * n + 40,
        shown=2 * n + 40,
        descent=9 * n + 40,
        strip=60,
        synthesis=transposed + normalised,
        entropy=0,
        side=scales,
        windows=36 / 32,
    )


def _cheng(n: int, m: int) -> Demand:
    doubled = 36 + 36  # both paths to twice the size
    residual, behind = 18, 9 + 1  # behind the doubling, a convolution and a normalisation
    latent = residual + doubled
    larger = behind + residual + doubled
    return Demand(
        weights=650 * n * n,
        latents=m,
        halo=7,
        analysis_halo=64,
        seen=5 * n + 50,
        shown=2 * n + 40,
        descent=11 * n + 60,
        strip=60,
        synthesis=n * n * (latent + 4 * larger + 16 * larger + 64 * (behind + residual)) + 64 * 9 * 12 * n,
        entropy=52 * n * n,  # masked convolution 24, entropy parameters 28
        side=855 * n * n,
        windows=40 / 32,
    )


_DEMANDS: Mapping[str, Callable[[int, int], Demand]] = MappingProxyType({"hyper": _hyper, "cheng": _cheng})


def demand_of(architecture: str, sizes: Sequence[int]) -> Demand:
    """Give what a model takes. Raises ModelError for an architecture that this release does not know."""
    if architecture not in _DEMANDS:
        raise ModelError(f"the architecture {architecture!r} is not known to this release; update to use it")
    return _DEMANDS[architecture](sizes[0], sizes[-1])


USUAL = _hyper(128, 192)
"""What the models that come with the package take."""

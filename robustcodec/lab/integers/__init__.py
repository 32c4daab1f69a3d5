"""How the entropy models of networks become exact integers, and real numbers again, for each architecture."""

from collections.abc import Mapping
from types import MappingProxyType

from robustcodec.errors import ModelError
from robustcodec.lab.integers.cheng import ChengIntegers
from robustcodec.lab.integers.hyper import HyperIntegers
from robustcodec.lab.integers.layers import Arrays, Integers, Parameters, Rounded, Seen, unit_shapes

_INTEGERS: Mapping[str, Integers] = MappingProxyType({"hyper": HyperIntegers(), "cheng": ChengIntegers()})


def integers_of(arch: str) -> Integers:
    """Give those of an architecture. Raises ModelError if this release has none of that name."""
    if arch not in _INTEGERS:
        raise ModelError(f"there is no architecture {arch!r}; this release has {', '.join(_INTEGERS)}")
    return _INTEGERS[arch]


__all__ = ["Arrays", "Integers", "Parameters", "Rounded", "Seen", "integers_of", "unit_shapes"]

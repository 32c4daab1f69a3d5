"""The networks that can be trained, by the name of their architecture."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from robustcodec.errors import TrainingError
from robustcodec.lab.cheng import Cheng
from robustcodec.lab.hyper import Hyper
from robustcodec.lab.networks import Network
from robustcodec.lab.recipe import Recipe

NETWORKS: Mapping[str, type[Network]] = MappingProxyType({"hyper": Hyper, "cheng": Cheng})

_MAX_CHANNELS = 1024


def make_network(arch: str, channels: tuple[int, int]) -> Network:
    """Make a network with random weights. Raises TrainingError."""
    if arch not in NETWORKS:
        raise TrainingError(f"there is no architecture {arch!r} to train; this release has {' and '.join(NETWORKS)}")
    return NETWORKS[arch](*channels)


def untrained(weights: Mapping[str, Tensor], source: str) -> Network:
    """Make a network of the architecture and the sizes that a state dict is for, with weights of its own."""
    kind = kind_of(weights, source)
    n, m = (weights[name].shape[:1].numel() for name in kind.SIGNS)
    if not (1 <= n <= _MAX_CHANNELS and 1 <= m <= _MAX_CHANNELS):
        raise TrainingError(f"{source} has {n} and {m} channels; a network has 1 to {_MAX_CHANNELS} of each")
    return kind(n, m)


def kind_of(weights: Mapping[str, Tensor], source: str) -> type[Network]:
    """Give the architecture that a state dict is for. Raises TrainingError."""
    for kind in NETWORKS.values():
        if all(name in weights for name in kind.SIGNS):
            return kind
    signs = " or ".join(f"{' and '.join(kind.SIGNS)} ({name})" for name, kind in NETWORKS.items())
    raise TrainingError(f"{source} is no network that this release knows: it lacks {signs}")


def adapted(recipe: Recipe, arch: str, channels: tuple[int, int]) -> Recipe:
    """Fit a recipe of ours, whose rates are hyper's, to an architecture."""
    share = NETWORKS[arch].RATE_SHARE
    phases = tuple(
        dataclasses.replace(phase, rate_from=share * phase.rate_from, rate_to=share * phase.rate_to)
        for phase in recipe.phases
    )
    return dataclasses.replace(recipe, arch=arch, channels=channels, phases=phases)

"""The networks that can be trained, by the name of their architecture."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from robustcodec.errors import TrainingError
from robustcodec.lab.cheng import Cheng
from robustcodec.lab.cheng_start import residual_start
from robustcodec.lab.networks import Hyper, Network
from robustcodec.lab.start import orthonormal_start
from robustcodec.lab.transplant import CROPS, transplant

NETWORKS: Mapping[str, type[Network]] = MappingProxyType({"hyper": Hyper, "cheng": Cheng})

_MAX_CHANNELS = 1024


def make_network(arch: str, channels: tuple[int, int]) -> Network:
    """Make a network with random weights. Raises TrainingError."""
    if arch not in NETWORKS:
        raise TrainingError(f"there is no architecture {arch!r} to train; this release has {' and '.join(NETWORKS)}")
    return NETWORKS[arch](*channels)


def untrained(weights: Mapping[str, Tensor], source: str) -> Network:
    """Make a network of the architecture and the sizes that a state dict is for, with weights of its own."""
    for kind in NETWORKS.values():
        if all(name in weights for name in kind.SIGNS):
            n, m = (weights[name].shape[:1].numel() for name in kind.SIGNS)
            if not (1 <= n <= _MAX_CHANNELS and 1 <= m <= _MAX_CHANNELS):
                raise TrainingError(f"{source} has {n} and {m} channels; a network has 1 to {_MAX_CHANNELS} of each")
            return kind(n, m)
    signs = " or ".join(f"{' and '.join(kind.SIGNS)} ({name})" for name, kind in NETWORKS.items())
    raise TrainingError(f"{source} is no network that this release knows: it lacks {signs}")


def start(network: Network, crops: Tensor, generator: torch.Generator) -> None:
    """Set a network's weights to an orthonormal start measured on crops (B, 3, H, W) in [0, 1]."""
    if isinstance(network, Cheng):
        residual_start(network, crops, generator)
    else:
        assert isinstance(network, Hyper)
        orthonormal_start(network, crops, generator)


def start_from(network: Network, trained: Network, crops: Callable[[int], Tensor], generator: torch.Generator) -> None:
    """Set a network's weights from a trained one of another architecture, measured on as many crops as are asked for.

    Raises TrainingError where that cannot be.
    """
    if not (isinstance(network, Cheng) and isinstance(trained, Hyper) and trained.n == network.n):
        raise TrainingError(
            f"a {network.arch} network with {network.n} channels cannot begin with a {trained.arch} network with "
            f"{trained.n}; only cheng can begin with another architecture, hyper of as many channels inside"
        )
    transplant(network, trained.requires_grad_(False), crops(CROPS), generator)

"""The networks that can be trained, by the name of their architecture."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from robustcodec.errors import TrainingError
from robustcodec.lab.cheng import Cheng
from robustcodec.lab.cheng_start import residual_start
from robustcodec.lab.networks import Hyper, Network
from robustcodec.lab.start import orthonormal_start

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

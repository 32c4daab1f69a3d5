"""Models as victims: a checkpoint's network, and of a shipped model the code lengths of its own tables, too.

The tables of a bundle are fitted to real latents. They ask less for what is rare than the network's Gaussians do, so
that a search which believed the Gaussians would go for symbols that cost little in a file.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustcodec.architectures import open_architecture
from robustcodec.bundle import Bundle, damage_named
from robustcodec.entropy import TableSet, ideal_bits
from robustcodec.lab.attacks.victim import NetworkVictim
from robustcodec.lab.checkpoints import load_weights, network_of, weights_of_bundle
from robustcodec.lab.dead_zones import by_scale, level, zones_of
from robustcodec.lab.entropy_models import SCALES
from robustcodec.lab.runs import Run
from robustcodec.rate import STEP_UNIT, high_rate_step

_REACH = 1024
"""Magnitudes of symbols whose code lengths are looked up; what lies beyond costs as much."""


def victim_of(source: Bundle | Path, quality: float, device: torch.device) -> NetworkVictim:
    """Open a bundle, or any checkpoint, for attacks at a quality. Raises ModelError or TrainingError.

    A run, and a candidate of one, have the dead zones that it trains with.
    """
    if isinstance(source, Path):
        network, run = network_of(load_weights(source), str(source)), Run.behind(source)
        zones = None if run is None else zones_of(run.settings().recipe.hardening)
        return NetworkVictim(network.to(device), high_rate_step(quality), dead_zones=zones)
    with damage_named(source.path):
        network = network_of(weights_of_bundle(source), source.id)
        architecture = open_architecture(source, threads=1)
    price = TablePrice(architecture.y_tables, device)
    dead_zones = by_scale(architecture.dead_zones)
    return NetworkVictim(network.to(device), source.manifest.step(quality) / STEP_UNIT, price, dead_zones)


class TablePrice:
    """Code lengths of tables, one for each of the exporter's scales in order, as a function of symbols and scales.

    Exact for whole symbols at those scales; between them a straight line, in the logarithm of the scale.
    """

    def __init__(self, tables: TableSet, device: torch.device) -> None:
        self._width = 2 * _REACH + 1
        values = np.broadcast_to(np.arange(-_REACH, _REACH + 1, dtype=np.int32), (len(SCALES), self._width))
        index = np.broadcast_to(np.arange(len(SCALES))[:, None], values.shape)
        self._bits = torch.tensor(ideal_bits(values, index, tables), dtype=torch.float32, device=device).flatten()

    def __call__(self, symbols: Tensor, scales: Tensor) -> Tensor:
        """Give bits of each symbol; both in units of the quantisation step and of one shape."""
        row = level(scales)
        lower = row.detach().floor().clamp(max=len(SCALES) - 2)
        below = symbols.detach().floor().clamp(-_REACH, _REACH - 1)
        place = (lower * self._width + below + _REACH).long()
        along, across = (symbols - below).clamp(0, 1), row - lower

        def between(place: Tensor) -> Tensor:
            return torch.lerp(self._bits[place], self._bits[place + 1], along)

        return torch.lerp(between(place), between(place + self._width), across)

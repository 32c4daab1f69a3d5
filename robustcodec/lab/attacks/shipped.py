"""Models as victims: a checkpoint's network, and of a shipped model the code lengths of its own tables, too.

The tables of a bundle are fitted to real latents. They ask less for what is rare than the network's Gaussians do, so
that a search which believed the Gaussians would go for symbols that cost little in a file.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcodec.architectures import open_architecture
from robustcodec.bundle import MANIFEST, Bundle, damage_named, open_bundle
from robustcodec.dither import OFFSETS, DitheredScales
from robustcodec.entropy import TableSet, ideal_bits
from robustcodec.lab.attacks.victim import NetworkVictim
from robustcodec.lab.checkpoints import load_weights, network_of, weights_of_bundle
from robustcodec.lab.dead_zones import UNDITHERED, by_scale, exported_zones_of, level
from robustcodec.lab.entropy_models import SCALES
from robustcodec.lab.runs import Run
from robustcodec.rate import STEP_UNIT, high_rate_step

_REACH = 1024
"""Magnitudes of symbols whose code lengths are looked up; what lies beyond costs as much."""


def victim_of(source: Bundle | Path, quality: float, device: torch.device) -> NetworkVictim:
    """Open a bundle, or any checkpoint, for attacks at a quality. Raises ModelError or TrainingError.

    A run, and a candidate of one, have the dead zones and the dither that its exported model will have.
    """
    if isinstance(source, Path) and (source / MANIFEST).is_file():
        source = open_bundle(source)
    if isinstance(source, Path):
        network, run = network_of(load_weights(source), str(source)), Run.behind(source)
        zones = None if run is None else exported_zones_of(run.settings().recipe.hardening)
        return NetworkVictim(network.to(device), high_rate_step(quality), dead_zones=zones)
    with damage_named(source.path):
        network = network_of(weights_of_bundle(source), source.id)
        architecture = open_architecture(source, threads=1)
    price = TablePrice(architecture.y_tables, device, architecture.dithered)
    dead_zones = by_scale(architecture.dead_zones[: architecture.dithered.scales], architecture.dithered)
    return NetworkVictim(network.to(device), source.manifest.step(quality) / STEP_UNIT, price, dead_zones)


class TablePrice:
    """Code lengths of tables, one for each of the exporter's scales in order, as a function of symbols and scales.

    Exact for whole symbols at those scales; between them a straight line, in the logarithm of the scale. Of `dithered`
    scales exact for whole symbols with any of the offsets, whose tables follow the others.
    """

    def __init__(self, tables: TableSet, device: torch.device, dithered: DitheredScales = UNDITHERED) -> None:
        plain = np.arange(len(SCALES))
        self._plain = _Lengths(ideal_bits(*_rows(plain[:, None]), tables), 1, device)
        self._dithered = None
        if dithered.tables:
            # a table for each offset, side by side: the finer grid of all of them
            fine = dithered.scales + np.arange(dithered.tables).reshape(-1, OFFSETS)
            self._dithered = _Lengths(ideal_bits(*_rows(fine), tables), OFFSETS, device)
        self._scales = dithered

    def __call__(self, symbols: Tensor, scales: Tensor) -> Tensor:
        """Give bits of each symbol; both in units of the quantisation step and of one shape."""
        row = level(scales)
        bits = self._plain(symbols, row)
        if self._dithered is None:
            return bits
        nearest = row.detach().round()
        mine = (nearest >= self._scales.first) & (nearest < self._scales.end)
        return torch.where(mine, self._dithered(symbols, row - self._scales.first), bits)


def _rows(tables: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Give all symbols in reach, and for each the tables (n, k) of a row: both (n, symbols, k)."""
    symbols = np.arange(-_REACH, _REACH + 1, dtype=np.int32)[None, :, None]
    shape = (tables.shape[0], symbols.size, tables.shape[1])
    return np.broadcast_to(symbols, shape), np.broadcast_to(tables[:, None, :], shape)


class _Lengths:
    """Code lengths in rows, each on one grid of `fineness` points a step, those of whole symbols and offsets."""

    def __init__(self, bits: NDArray[np.float64], fineness: int, device: torch.device) -> None:
        self._rows = bits.shape[0]
        self._width = bits.shape[1] * fineness
        self._fineness = fineness
        self._bits = torch.tensor(bits, dtype=torch.float32, device=device).flatten()

    def __call__(self, symbols: Tensor, row: Tensor) -> Tensor:
        """Give the bits of symbols, in steps, on straight lines between rows and between points of the grid."""
        row = row.clamp(0, self._rows - 1)
        lower = row.detach().floor().clamp(max=self._rows - 2)
        point = symbols * self._fineness + (_REACH * self._fineness + (self._fineness - 1) / 2)
        below = point.detach().floor().clamp(0, self._width - 2)
        place = (lower * self._width + below).long()
        along, across = (point - below).clamp(0, 1), row - lower

        def between(place: Tensor) -> Tensor:
            return torch.lerp(self._bits[place], self._bits[place + 1], along)

        return torch.lerp(between(place), between(place + self._width), across)

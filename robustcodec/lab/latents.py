"""Latents of calibration pictures, and how the shipped codec codes them, dither left aside."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcodec.architectures import Conditions, Group
from robustcodec.entropy import LARGEST_VALUE
from robustcodec.lab.integers import Parameters
from robustcodec.lab.networks import Network
from robustcodec.pixels import Pixels
from robustcodec.rate import STEP_UNIT
from robustcodec.strips import in_steps, quantised, walk

_CROP = 512
"""Pixels of a picture, along either side, that are analysed."""


@dataclass(frozen=True)
class Latents:
    """Latents of a calibration picture: y (M, h, w) and z (N, h/4, w/4), real; and the picture's pixels."""

    y: Tensor
    z: Tensor
    pixels: int


@torch.no_grad()
def latents_of(network: Network, picture: Pixels) -> Latents:
    """Analyse the middle of a picture, cut to whole side information."""
    height, width = (min(side, _CROP) // network.stride * network.stride for side in picture.shape[:2])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    crop = picture[top : top + height, left : left + width]
    x = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255
    y = network.analyse(x)
    return Latents(y[0], network.side_information(y)[0], height * width)


def z_hat_of(latents: Latents, medians: NDArray[np.int32]) -> tuple[NDArray[np.int32], Tensor]:
    """Give z's symbols and z_hat (1, N, h, w), real."""
    centre = torch.from_numpy(medians)[:, None, None] / STEP_UNIT
    symbols = (latents.z - centre).round().clamp(-LARGEST_VALUE, LARGEST_VALUE)
    return symbols.to(torch.int32).numpy(), (symbols + centre)[None]


def conditions_of(parameters: Parameters, latents: Latents) -> Conditions:
    """Give what the integer networks make of z."""
    symbols, _ = z_hat_of(latents, parameters.medians)
    return parameters.conditions(symbols, *latents.y.shape[1:])


@dataclass(frozen=True, eq=False)
class Coded:
    """All latents in the order of coding: symbols, the number of each one's scale, and values in steps."""

    symbols: NDArray[np.int32]
    index: NDArray[np.integer[Any]]
    values: NDArray[np.float32]


def coded_in_order(conditions: Conditions, y: NDArray[np.float32], step: int, dead_zones: NDArray[np.float32]) -> Coded:
    """Walk latents as the codec does, without dither."""
    groups: list[Coded] = []

    def note(group: Group) -> NDArray[np.int32]:
        symbols = quantised(y, group, step, dead_zones)
        groups.append(Coded(symbols.ravel(), group.table.ravel(), in_steps(y, group, step).ravel()))
        return symbols

    walk(conditions.schedule(step), note)
    return Coded(
        np.concatenate([group.symbols for group in groups]),
        np.concatenate([group.index for group in groups]),
        np.concatenate([group.values for group in groups]),
    )

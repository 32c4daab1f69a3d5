"""What exact arithmetic costs in bits, and what fitted tables gain."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcodec.architectures.hyperprior import dead_zones_in
from robustcodec.bundle import Bundle
from robustcodec.entropy import gaussian_tables, ideal_bits
from robustcodec.lab.dead_zones import by_scale
from robustcodec.lab.entropy_models import SCALE_MIDDLES, SCALE_MIN, SCALES, gaussian_bits
from robustcodec.lab.fitted_tables import prefixed
from robustcodec.lab.half_precision import half_precision
from robustcodec.lab.integers import Arrays, integers_of
from robustcodec.lab.latents import Latents, coded_in_order, conditions_of, latents_of, z_hat_of
from robustcodec.lab.networks import Network, round_straight_through
from robustcodec.pixels import Pixels
from robustcodec.rate import STEP_UNIT


@dataclass(frozen=True)
class CodeLength:
    """Bits per pixel of the calibration pictures at quality 4, latents alone, not dithered, under probabilities."""

    real: float
    """The trained network's own, in float32 (CompressAI's estimate, without its floor)."""
    rounded_scale: float
    """The same scales, each rounded to the nearest of the tables' 64, Gaussian tables."""
    exact: float
    """Integer networks, Gaussian tables."""
    fitted: float
    """Integer networks, the tables that are shipped."""


@torch.no_grad()
def code_length(
    network: Network,
    latents: Sequence[Latents],
    gaussian: Arrays,
    fitted: Arrays,
    dead_zones: NDArray[np.float32],
) -> CodeLength:
    """Measure what exactness costs and what fitted tables gain, at step 1."""
    n, m = network.n, network.m
    integers = integers_of(network.arch)
    exact, shipped = integers.parameters(gaussian, n, m), integers.parameters(fitted, n, m)
    log_middles = np.log(SCALE_MIDDLES)
    zones = by_scale(dead_zones)
    step = torch.ones(1, 1, 1, 1)
    totals = np.zeros(4)
    for each in latents:
        z_symbols, z_hat = z_hat_of(each, exact.medians)
        z_index = np.broadcast_to(np.arange(n)[:, None, None], z_symbols.shape)
        z_exact = ideal_bits(z_symbols, z_index, exact.z_tables).sum()
        y_hat = network.quantised(each.y[None], step, round_straight_through, zones)
        means, scales = network.gaussians(z_hat, y_hat)
        coded, real = y_hat - means, scales.clamp(min=SCALE_MIN)
        nearest = np.searchsorted(log_middles, np.log(real.numpy()), side="right")
        by_integers = coded_in_order(conditions_of(exact, each), each.y.numpy(), STEP_UNIT, dead_zones)
        y_symbols, index = by_integers.symbols, by_integers.index
        totals += [
            float(gaussian_bits(coded, real).sum() + network.entropy_bottleneck.bits(z_hat).sum()),
            float(ideal_bits(coded.round().numpy().astype(np.int32), nearest, exact.y_tables).sum() + z_exact),
            float(ideal_bits(y_symbols, index, exact.y_tables).sum() + z_exact),
            float(ideal_bits(y_symbols, index, shipped.y_tables).sum() + z_exact),
        ]
    totals /= sum(each.pixels for each in latents)
    return CodeLength(*totals.tolist())


def code_lengths(weights: Mapping[str, Tensor], bundle: Bundle, pictures: Sequence[Pixels]) -> Iterator[CodeLength]:
    """Measure on the middle of each picture what a bundle's probabilities cost beside those of its network's weights.

    The quantiles are set anew, as an export sets them. Raises TrainingError or ModelError.
    """
    network = half_precision(weights, lambda _: None)
    shipped = dict(bundle.entropy)
    gaussian = {**shipped, **prefixed("y", gaussian_tables(SCALES).to_arrays())}
    zones = dead_zones_in(bundle.analysis, len(SCALES))
    for picture in pictures:
        yield code_length(network, [latents_of(network, picture)], gaussian, shipped, zones)

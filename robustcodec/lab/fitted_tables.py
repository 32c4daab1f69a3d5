"""Tables of y fitted to how often latents of pictures occur, by their scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcodec.architectures.hyperprior import DITHER
from robustcodec.dither import OFFSETS, DitheredScales
from robustcodec.entropy import Table, TableSet, quantise
from robustcodec.lab.entropy_models import SCALES
from robustcodec.lab.integers import Arrays, Parameters
from robustcodec.lab.latents import Latents, coded_in_order, conditions_of
from robustcodec.rate import STEP_UNIT, high_rate_step

Histogram = NDArray[np.float64]
"""How often each magnitude occurred, or what it weighs."""

QUALITIES = (1, 2, 3, 4, 5, 6)
"""Those whose latents are counted."""
_PRIOR_SHARE = 0.05
"""Share of a Gaussian in each fitted table: what hostile pictures bring is not what was counted."""


@dataclass(frozen=True, eq=False)
class Counts:
    """How often magnitudes of y occurred, by scale: (scales, largest counted + 2), the rest last.

    `symbols` counts those of symbols, `eighths` those of latents before rounding, in units of a step's eighth.
    """

    symbols: Histogram
    eighths: Histogram

    def mixed(self, others: "Counts", share: float) -> "Counts":
        """Give others a share, however many they are."""

        def mix(own: Histogram, more: Histogram) -> Histogram:
            mixed: Histogram = own + share * (more * (own.sum() / more.sum()) - own)
            return mixed

        return Counts(mix(self.symbols, others.symbols), mix(self.eighths, others.eighths))


def count(parameters: Parameters, latents: Sequence[Latents], dead_zones: NDArray[np.float32]) -> Counts:
    """Count magnitudes of y by scale, over all qualities."""
    largest = int(parameters.y_tables.escapes.max())
    rows = len(parameters.y_tables)
    symbols, eighths = np.zeros((rows, largest + 2)), np.zeros((rows, OFFSETS * largest + 2))
    for each in latents:
        conditions = conditions_of(parameters, each)
        for quality in QUALITIES:
            step = round(STEP_UNIT * high_rate_step(quality))
            coded = coded_in_order(conditions, each.y.numpy(), step, dead_zones)
            symbols += _histogram(coded.index, np.abs(coded.symbols), *symbols.shape)
            eighths += _histogram(coded.index, np.rint(OFFSETS * np.abs(coded.values)), *eighths.shape)
    return Counts(symbols, eighths)


def _histogram(index: NDArray[Any], values: NDArray[Any], rows: int, width: int) -> NDArray[np.int64]:
    """Count whole values from 0 on by row (rows, width), what is too large last."""
    place = index.astype(np.int64) * width + np.minimum(values, width - 1).astype(np.int64)
    return np.bincount(place, minlength=rows * width).reshape(rows, width)


def fitted_tables(gaussian: TableSet, counts: Counts, dithered: DitheredScales) -> TableSet:
    """Tables in proportion to what was counted, with a share of the Gaussian in each, and then those of offsets.

    The latents of pictures are not Gaussian given their scale: they are more peaked, with heavier tails. Those for
    rounding without dither are symmetric.
    """
    tables = []
    for table, magnitudes in zip(gaussian, counts.symbols, strict=True):
        prior = table.frequencies / table.frequencies.sum()
        reach = table.escape // 2
        tables.append(Table(table.minimum, quantise(_fitted(magnitudes, reach, prior))))
    for level in range(dithered.first, dithered.end):
        reach = gaussian[level].escape // 2
        fine = (reach + 1) * OFFSETS
        edges = (np.arange(-fine, fine + 2) - 0.5) / OFFSETS / (SCALES[level] * math.sqrt(2))
        within = np.diff([math.erf(edge) for edge in edges]) / 2
        mass = _fitted(counts.eighths[level], fine, np.append(within, max(1 - within.sum(), 0)))
        for offset in range(OFFSETS):
            # of symbol q the eighths from 8 q + offset - 7 to 8 q + offset
            first = OFFSETS + offset - (OFFSETS - 1)
            inside = mass[first : first + OFFSETS * (2 * reach + 1)].reshape(-1, OFFSETS).sum(1)
            tables.append(Table(-reach, quantise(np.append(inside, mass.sum() - inside.sum()))))
    return TableSet(tuple(tables))


def _fitted(magnitudes: Histogram, reach: int, prior: Histogram) -> Histogram:
    """Give weights of -reach..reach and of all that is beyond, by counts of magnitudes and a prior of that shape."""
    within, beyond = magnitudes[: reach + 1], magnitudes[reach + 1 :].sum()
    halves = np.concatenate([within[:0:-1] / 2, within[:1], within[1:] / 2, [beyond]])
    # a table that was hardly ever used keeps the Gaussian's shape
    weight = _PRIOR_SHARE * max(halves.sum(), 1.0) + 256.0
    weights: Histogram = halves + weight * prior
    return weights


def table_arrays(tables: TableSet, dithered: DitheredScales) -> Arrays:
    """Give the arrays of fitted tables as a bundle has them."""
    arrays = prefixed("y", TableSet(tables.tables[: dithered.scales]).to_arrays())
    if not dithered.tables:
        return arrays
    more = TableSet(tables.tables[dithered.scales :]).to_arrays()
    return {**arrays, **prefixed(DITHER, {**more, "first": np.array([dithered.first], np.int32)})}


def prefixed(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Name arrays as those of one set of tables."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}

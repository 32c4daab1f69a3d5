"""Better latents than the analysis gives: some gradient steps on rate and distortion, in the encoder alone.

The analysis guesses latents for every picture in the same way. For one picture they can be improved on, since the
encoder knows both what they cost and what they decode to: latents descend along the gradient of

    bits + weight * squared error of the picture

through the synthesis (a graph of its own) and through the code lengths of the tables that will code them. Rounding is
softened by a curve that grows steeper from step to step (Agustsson and Theis 2020), so that latents settle near whole
numbers before they are rounded. After that, symbols may be exchanged for their neighbours, a few at a time, where that
should pay. Side information stays as it is, and decoders need to know nothing of all this.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustcodec.architectures import Architecture, Float32, Group, Int32
from robustcodec.entropy import TableSet, ideal_bits
from robustcodec.errors import ImageError
from robustcodec.networks import STRIDE
from robustcodec.pixels import Pixels
from robustcodec.rate import STEP_UNIT
from robustcodec.strips import Strip, quantised, walk
from robustcodec.tiling import scaled, spans
from robustcodec.transforms import network_input


class Steps(NamedTuple):
    """Gradient steps: of the descent, with rounding softened, and of exchanges among whole numbers."""

    soft: int
    hard: int = 0


STEPS = (Steps(0), Steps(6), Steps(16), Steps(16, 24))
"""Those of each effort; a longer descent alone gains nothing."""

_TILE = 32
"""Latents along a side of the tiles that go back through the synthesis, which takes three times its memory."""

_REACH = 1024
"""Magnitudes of symbols whose code lengths are looked up; larger ones have nowhere to go."""

_RATE, _LAST_RATE = 0.15, 0.02
"""Step length of the descent at its beginning and at its end, in quantisation steps."""

_SOFT, _HARD = 1.5, 8.0
"""Steepness of the curve that stands for rounding, at the beginning and at the end."""

_MEAN, _SQUARE = 0.9, 0.95
"""Decay of Adam's averages: there are few steps."""


@dataclass(frozen=True)
class Edges:
    """Whether the picture goes on above and below a strip: what lies near such an edge depends on other strips."""

    above: bool = False
    below: bool = False


_WHOLE = Edges()


@dataclass(frozen=True)
class _Task:
    """What is minimised, as a function of symbols (M, h, w), which need not be whole."""

    architecture: Architecture
    pixels: Pixels
    index: NDArray[np.uint16]
    """Table of each symbol."""
    mean: Float32
    slopes: Float32
    """Bits by which the symbol above costs more, by table and symbol from -_REACH."""
    scale: np.float32
    weight: np.float32
    counted: slice
    """Rows of pixels whose error counts."""
    moves: NDArray[np.bool_]
    """Which latents (h, w) may change."""

    def of_error(self, symbols: Float32) -> Float32:
        """Give the gradient of the error's part."""
        y_hat = symbols * self.scale + self.mean
        gradient = _gradient(self.architecture, y_hat, self.pixels, self.counted)
        gradient *= self.weight
        return gradient

    def steeper(self, symbols: Float32, below: int = 0) -> Float32:
        """Give the bits that the next symbol costs more; between whole numbers the one below counts."""
        place = np.clip(np.floor(symbols), below - _REACH, _REACH - 1).astype(np.int32) + (_REACH - below)
        bits: Float32 = self.slopes[self.index, place]
        return bits


def refine(
    architecture: Architecture,
    strip: Strip,
    pixels: Pixels,
    step: int,
    lagrangian: float,
    steps: Steps,
    edges: Edges = _WHOLE,
) -> Strip:
    """Give a strip other latents, better ones at quantisation step R; `pixels` are those of its rows.

    `lagrangian` weighs distortion against rate: bits per pixel + lambda * 255^2 * MSE, MSE on [0, 1]. Latents whose
    pixels depend on other strips, at `edges`, do not descend: they change only where a context gives them other means.
    Raises ImageError for gradients that are not finite or too large.
    """
    if not any(steps):
        return strip
    scale = np.float32(step / STEP_UNIT)
    index, mean = _given(strip, step)
    task = _Task(
        architecture,
        pixels,
        index,
        mean,
        _slopes(architecture.y_tables),
        scale,
        np.float32(2 * lagrangian * 255**2 / 3) * scale,
        *_regions(architecture, strip, pixels, edges),
    )
    start = (strip.y - mean) / scale
    symbols = _descended(task, start, steps.soft)
    if steps.hard:
        symbols = _exchanged(task, np.rint(symbols), steps.hard)
    magnitude = np.abs(start)
    zeros = (magnitude < strip.dead_zones[index]) & (magnitude > 0.5)
    symbols[:, ~task.moves] = np.where(zeros, np.float32(0), start)[:, ~task.moves]
    # what is worth a symbol has been found out: dead zones would take some back
    return replace(strip, y=symbols * scale + mean, dead_zones=np.full_like(strip.dead_zones, 0.5))


def _descended(task: _Task, start: Float32, steps: int) -> Float32:
    """Descend along the gradient, by Adam; what is rounded in the end is softened less and less. Raises ImageError."""
    u = start.copy()
    average, square = np.zeros_like(u), np.zeros_like(u)
    for count in range(steps):
        progress = count / max(1, steps - 1)
        soft, passed = _softly_rounded(u, _SOFT * math.pow(_HARD / _SOFT, progress))
        # the code length between two whole numbers is taken for a straight line
        gradient = (task.of_error(soft) + task.steeper(u)) * passed
        gradient[:, ~task.moves] = 0
        average += (1 - _MEAN) * (gradient - average)
        square += (1 - _SQUARE) * (gradient * gradient - square)
        corrected = math.sqrt(1 - _SQUARE ** (count + 1)) / (1 - _MEAN ** (count + 1))
        rate = _RATE + (_LAST_RATE - _RATE) * progress
        u -= np.float32(rate * corrected) * average / (np.sqrt(square) + np.float32(1e-6))
        if not np.isfinite(u).all():
            raise ImageError("the model gives no finite gradients for this picture; use another model, or no effort")
    return u


def _exchanged(task: _Task, symbols: Float32, steps: int) -> Float32:
    """Exchange symbols for the next ones, up or down, where gradient and curvature say that it pays.

    What reaches into the same pixels must not move at once: so only every other place of every other row has its turn
    in a step, and only with its best symbol.
    """
    half = _curvature(task, symbols) / 2
    row, column = np.indices(task.moves.shape)
    for count in range(steps):
        of_error = task.of_error(symbols)
        up = half + of_error + task.steeper(symbols)
        down = half - of_error - task.steeper(symbols, below=1)
        best = np.minimum(up, down)
        turn = task.moves & (row % 2 == count % 2) & (column % 2 == count // 2 % 2)
        chosen = turn & (best < 0) & (best == best.min(axis=0))
        symbols = symbols + chosen * np.where(up < down, np.float32(1), np.float32(-1))
    return symbols


def _curvature(task: _Task, symbols: Float32) -> Float32:
    """Give the second derivative (M, 1, 1) of the error's part by one symbol, its mean over each channel.

    Signs that are drawn for each symbol apart make what other symbols add cancel on average.
    """
    signs = np.where(np.random.default_rng(0).random(symbols.shape, np.float32) < 0.5, np.float32(-1), np.float32(1))
    ahead, behind = (task.of_error(symbols + side * signs) for side in (np.float32(0.25), np.float32(-0.25)))
    found: Float32 = np.mean((ahead - behind) * signs, axis=(1, 2), keepdims=True) * np.float32(2)
    return np.maximum(found, 0)


def _given(strip: Strip, step: int) -> tuple[NDArray[np.uint16], Float32]:
    """Give the table of each latent and its mean, as coding the latents in hand meets them."""
    index = np.empty(strip.y.shape, np.uint16)
    mean = np.zeros(strip.y.shape, np.float32)

    def note(group: Group) -> Int32:
        index[group.positions] = group.table
        mean[group.positions] = group.mean / np.float32(STEP_UNIT)
        return quantised(strip.y, group, step, strip.dead_zones)

    walk(strip.conditions.schedule(step), note)
    return index, mean


def _slopes(tables: TableSet) -> Float32:
    """Give bits of v + 1 less bits of v for each table (first axis) and v from -_REACH, as the file will have them."""
    values = np.broadcast_to(np.arange(-_REACH, _REACH + 1, dtype=np.int32), (len(tables), 2 * _REACH + 1))
    index = np.broadcast_to(np.arange(len(tables))[:, None], values.shape)
    return np.diff(ideal_bits(values, index, tables), axis=1).astype(np.float32)


def _softly_rounded(u: Float32, steepness: float) -> tuple[Float32, Float32]:
    """Give latents on the curve that stands for rounding, and its derivative there."""
    floor = np.floor(u)
    bend = np.tanh(np.float32(steepness) * (u - floor - np.float32(0.5)))
    height = np.float32(0.5 / math.tanh(steepness / 2))
    return floor + np.float32(0.5) + height * bend, np.float32(steepness) * height * (1 - bend * bend)


def _regions(architecture: Architecture, strip: Strip, pixels: Pixels, edges: Edges) -> tuple[slice, NDArray[np.bool_]]:
    """Give the rows of pixels whose error counts, and which latents (h, w) may move."""
    halo = architecture.synthesis_halo
    height = pixels.shape[0]
    counted = slice(halo * STRIDE * edges.above, height - halo * STRIDE * edges.below)
    moves = np.ones(strip.y.shape[1:], np.bool_)
    if edges.above:
        moves[: 2 * halo] = False
    if edges.below:
        moves[-2 * halo :] = False
    return counted, moves


def _gradient(architecture: Architecture, y_hat: Float32, pixels: Pixels, counted: slice) -> Float32:
    """Give the gradient of half the squared error with respect to latents (M, h, w), tile by tile.

    Each tile answers for the error of its own pixels, which reaches into the latents around it.
    """
    result = np.zeros(y_hat.shape, np.float32)
    halo = architecture.synthesis_halo
    for rows, inner_rows in spans(y_hat.shape[1], _TILE, halo):
        for columns, inner_columns in spans(y_hat.shape[2], _TILE, halo):
            top, left = STRIDE * rows.start, STRIDE * columns.start
            own = scaled(inner_rows, STRIDE), scaled(inner_columns, STRIDE)
            target = network_input(pixels, scaled(rows, STRIDE), scaled(columns, STRIDE))
            weight = np.zeros((1, *target.shape[1:]), np.float32)
            last_row = min(own[0].stop, counted.stop - top)
            last_column = min(own[1].stop, pixels.shape[1] - left)
            weight[:, max(own[0].start, counted.start - top) : max(last_row, 0), own[1].start : last_column] = 1
            result[:, rows, columns] += architecture.descend(y_hat[:, rows, columns], target, weight)
    return result

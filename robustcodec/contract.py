"""What a model is expected to make of a picture: fidelity and size from the picture's statistics, with their margins.

A model's manifest has a contract once one was fitted on ordinary pictures (`fit`, by `robustcodec models contract`).
It is five linear predictions from the picture's features: PSNR of the whole picture and of each 64 x 64 block, what
each block has that the picture has not, the logarithm of the bits per pixel, and, from the PSNR that was reached too,
how wasteful the latents are. Each comes with a prediction of how far ordinary results scatter; a result that is worse
by more than a multiple of that is suspicious.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcodec.details import BLOCK, KINDS, Statistics
from robustcodec.errors import ModelDamaged
from robustcodec.rate import STEP_UNIT

VERSION = 3
"""Of what a manifest keeps."""

_THRESHOLDS = (0.7, 2.0)
"""Of the statistics, in multiples of `_DEADZONE` times the quantisation step."""

_DEADZONE = 16.0
"""8-bit levels that stand for a step of one."""

_OF_PICTURE = 2 * len(_THRESHOLDS) * KINDS
_FEATURES = _OF_PICTURE + 3
_OF_WHOLE = _FEATURES + _OF_PICTURE

_SMALL = 12000.0
"""Pixels of a picture whose figures scatter 1.4 times as much as a large one's."""

_TAIL = 0.003
"""Share of ordinary results that are outside a margin before it is widened."""

_WIDENED = 1.35
"""Of pictures that no result was of fewer than one in a hundred then break some margin; of a kind of picture that no
result was of, through JPEG or halved, one or two in a hundred."""

_FOLDS = 5
"""Parts of the results, in their order, so that those of one picture stay together: see `_prediction`."""

_PEDESTAL = 4.0
"""Mean square, at a quantisation step of one, that is put beneath what a block has and the picture has not: less does
no harm."""

_LATENT = 16
"""Pixels along a side of a latent."""

_FREE = 0.02
"""Bits per pixel by which files may differ for nothing, small ones above all."""

_UNFORESEEN = 3.5
"""Weight of bits that tables did not foresee: they scatter as much less than the bits themselves."""

_BEST = 100.0
"""Decibels that stand for equal pictures."""

_PREDICTIONS = {"psnr": _OF_WHOLE, "bpp": _OF_WHOLE, "block": _FEATURES, "added": _FEATURES, "rate": _OF_WHOLE + 2}
"""Weights of each."""

_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Penalties on weights, in multiples of the number of results; few results want more."""

_LARGEST = 1e6

_LEAST_MARGIN = 1e-3
"""Multiples of the scatter: of much less nothing would be left to divide by."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """One linear prediction, one of the logarithm of the scatter around it, and how much scatter is allowed.

    The prediction never lies beyond `lowest` and `highest`, between which ordinary results were found, nor the
    logarithm of the scatter beyond `least` and `most`: a picture that is unlike any of them must not be expected to
    fare worse than all of them.
    """

    weights: tuple[float, ...]
    scatter: tuple[float, ...]
    margin: float
    lowest: float
    highest: float
    least: float
    most: float

    def __post_init__(self) -> None:
        if len(self.scatter) != len(self.weights):
            raise ValueError("a prediction has as many weights for its scatter")
        if not all(abs(value) < _LARGEST for value in (*self.weights, *self.scatter)):
            raise ValueError("a weight is out of range")
        if not _LEAST_MARGIN <= self.margin < _LARGEST:
            raise ValueError("a margin is out of range")
        if not -_LARGEST < self.lowest <= self.highest < _LARGEST or not -20 < self.least <= self.most < 20:
            raise ValueError("a range must not be empty")

    def of(self, features: Float64) -> Float64:
        """Predict for features (..., n)."""
        result: Float64 = np.clip(features @ np.array(self.weights), self.lowest, self.highest)
        return result

    def allowed(self, features: Float64) -> Float64:
        """Give by how much a result may be worse, for features (..., n)."""
        scatter = np.clip(features @ np.array(self.scatter), self.least, self.most)
        result: Float64 = self.margin * np.exp(scatter)
        return result


@dataclass(frozen=True, eq=False)
class Expectation:
    """What a model should make of one picture at one step, and the margins by which results may be worse.

    `psnr`, `blocks` and `added` (rows, columns) are in dB, `bpp` is the `density` of the strips alone; its margin is of
    the natural logarithm.
    """

    step: int
    psnr: float
    bpp: float
    blocks: Float64
    added: Float64
    psnr_margin: float
    bpp_margin: float
    block_margins: Float64
    added_margins: Float64
    rate_of: Callable[[float], tuple[float, float]]
    """Gives how wasteful a result is at a PSNR, and its margin."""

    @property
    def psnr_floor(self) -> float:
        """The PSNR in dB below which a result is suspicious."""
        return self.psnr - self.psnr_margin

    @property
    def bpp_cap(self) -> float:
        """The bits per pixel above which a result is suspicious."""
        return self.bpp * _exp(self.bpp_margin)

    def shortfalls(self, psnr: float, bpp: float, errors: Float64, added: Float64) -> dict[str, float]:
        """Say by how many margins a result is worse than expected: 1 is just allowed.

        `errors` and `added` are of each block, as `block_errors` and `added` of `robustcodec.details` give them.
        """
        return {
            "psnr": (self.psnr - psnr) / self.psnr_margin,
            "block": float(np.max((self.blocks - _decibels(errors)) / self.block_margins)),
            "added": float(np.max((self.added - _added_decibels(added, self.step)) / self.added_margins)),
            "bpp": math.log(max(bpp, 1e-9) / self.bpp) / self.bpp_margin,
        }

    def wastefulness(self, psnr: float, bpp: float, expected_bpp: float) -> float:
        """Say by how many margins a result is more wasteful than its PSNR should be."""
        likeliest, margin = self.rate_of(min(psnr, _BEST))
        return (wastefulness(bpp, expected_bpp) - likeliest) / margin


@dataclass(frozen=True)
class Contract:
    """Predictions of `psnr` in dB, of the natural logarithm of `bpp`, and of each block's PSNR in dB.

    `added` predicts, in dB like a PSNR, what each block has that the picture has not.
    `rate` predicts what `wastefulness` gives, knowing the PSNR.

    `latent` is the largest magnitude of the latents of ordinary pictures, `results` on how many results all rests.
    """

    psnr: Prediction
    bpp: Prediction
    block: Prediction
    added: Prediction
    rate: Prediction
    latent: float
    results: int

    def expect(self, statistics: Statistics, step: int) -> Expectation:
        """Predict what becomes of a picture at quantisation step R."""
        blocks = _features(statistics, step)
        whole = _of_whole(statistics, blocks, step)
        psnr, log_bpp = float(self.psnr.of(whole)), float(self.bpp.of(whole))
        scatter = _scatter(statistics.pixels)
        of_blocks = _scatter_of_blocks(statistics)

        def rate_of(psnr: float) -> tuple[float, float]:
            features = np.array([*whole, psnr, psnr * psnr])
            return float(self.rate.of(features)), float(self.rate.allowed(features)) * scatter

        return Expectation(
            step=step,
            psnr=psnr,
            bpp=_exp(log_bpp),
            blocks=self.block.of(blocks),
            added=self.added.of(blocks),
            psnr_margin=float(self.psnr.allowed(whole)) * scatter,
            bpp_margin=float(self.bpp.allowed(whole)) * scatter,
            block_margins=self.block.allowed(blocks) * of_blocks,
            added_margins=self.added.allowed(blocks) * of_blocks,
            rate_of=rate_of,
        )

    def document(self) -> dict[str, Any]:
        """Give what a manifest keeps."""
        return {"version": VERSION, **asdict(self)}


@dataclass(frozen=True, eq=False)
class Result:
    """What a model has made of an ordinary picture, to fit a contract to.

    `errors` and `added` are of each block, as `block_errors` and `added` of `robustcodec.details` give them.
    `bpp` is the `density` of the strips, `expected_bpp` that of the bits that their probability tables expect.
    """

    statistics: Statistics
    step: int
    psnr: float
    bpp: float
    expected_bpp: float
    errors: Float64
    added: Float64
    latent: float


def density(bits: float, width: int, height: int) -> float:
    """Give bits per pixel of the picture as it is coded: padded to whole latents, which costs about as much."""
    return bits / (_LATENT**2 * -(-width // _LATENT) * -(-height // _LATENT))


def wastefulness(bpp: float, expected_bpp: float) -> float:
    """Give the logarithm of the bits per pixel, and of what they are over those that their probability tables expect.

    Tables foresee ordinary latents, whatever the picture. An attack on the size makes latents that they do not foresee.
    """
    bpp = max(bpp, 0.0) + _FREE
    return math.log(bpp) + _UNFORESEEN * math.log(bpp / (expected_bpp + _FREE))


def fit(results: Sequence[Result]) -> Contract:
    """Fit a contract to what a model has made of ordinary pictures, whatever their sizes and steps.

    Raises ValueError for fewer than 20 results.
    """
    if len(results) < 20:
        raise ValueError(f"a contract rests on more than {len(results)} results")
    of_each = [_features(each.statistics, each.step) for each in results]
    whole = np.array([_of_whole(each.statistics, own, each.step) for each, own in zip(results, of_each, strict=True)])
    scatter = np.array([_scatter(each.statistics.pixels) for each in results])
    psnr = np.array([min(each.psnr, _BEST) for each in results])
    log_bpp = np.log([each.bpp for each in results])
    waste = np.array([wastefulness(each.bpp, each.expected_bpp) for each in results])
    knowing = np.column_stack([whole, psnr, psnr * psnr])
    blocks = np.concatenate([own.reshape(-1, _FEATURES) for own in of_each])
    groups = [each.errors.size for each in results]
    errors = np.concatenate([_decibels(each.errors).ravel() for each in results])
    added = np.concatenate([_added_decibels(each.added, each.step).ravel() for each in results])
    return Contract(
        psnr=_prediction(whole, psnr, scatter, 1),
        bpp=_prediction(whole, log_bpp, scatter, -1),
        block=_prediction(blocks, errors, None, 1, groups),
        added=_prediction(blocks, added, None, 1, groups),
        rate=_prediction(knowing, waste, scatter, -1),
        latent=float(max(each.latent for each in results)),
        results=len(results),
    )


def read_contract(document: Mapping[str, Any] | None) -> Contract | None:
    """Read what a manifest keeps; None if it keeps none, or one of a later release. Raises ModelDamaged."""
    if document is None or document.get("version") != VERSION:
        return None
    try:
        predictions = {name: _read_prediction(document[name], count) for name, count in _PREDICTIONS.items()}
        latent, results = float(document["latent"]), int(document["results"])
        if not (0 < latent < math.inf and results > 0):
            raise ValueError("its scale must be above zero")
        return Contract(**predictions, latent=latent, results=results)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelDamaged(f"the contract of its manifest is not in order: {error}") from error


def _read_prediction(document: Mapping[str, Any], count: int) -> Prediction:
    if len(document["weights"]) != count:
        raise ValueError(f"a prediction needs {count} weights")
    weights, scatter = (tuple(float(value) for value in document[name]) for name in ("weights", "scatter"))
    numbers = (float(document[name]) for name in ("margin", "lowest", "highest", "least", "most"))
    return Prediction(weights, scatter, *numbers)


def _features(statistics: Statistics, step: int) -> Float64:
    """Give (rows, columns, features) of all blocks at a step."""
    scale = step / STEP_UNIT
    of_picture = statistics.features([threshold * _DEADZONE * scale for threshold in _THRESHOLDS])
    of_step = np.array([1.0, math.log(scale), math.log(scale) ** 2])
    return np.concatenate([of_picture, np.broadcast_to(of_step, (*of_picture.shape[:2], 3))], axis=2)


def _of_whole(statistics: Statistics, blocks: Float64, step: int) -> Float64:
    """Give the features of the whole picture: of all its details together, and the mean of those of its blocks."""
    together = _features(statistics.whole, step)[0, 0]
    return np.concatenate([together, blocks[..., :_OF_PICTURE].mean((0, 1))])


def _regression(features: Float64, wanted: Float64, penalty: float) -> Float64:
    """Give the weights of a linear prediction, kept small where features say the same."""
    centre, spread = features.mean(0), features.std(0)
    constant = spread < 1e-12
    centre[constant], spread[constant] = 0, 1
    normal = (features - centre) / spread
    ridge = penalty * len(wanted) * np.diag(~constant).astype(np.float64)
    ridge += 1e-9 * len(wanted) * np.eye(features.shape[1])  # steps may all be the same
    weights: Float64 = np.linalg.solve(normal.T @ normal + ridge, normal.T @ wanted) / spread
    # the centre is taken off by the feature that is 1 everywhere
    weights[_OF_PICTURE] -= weights @ centre
    return weights


def _prediction(
    features: Float64, found: Float64, scatter: Float64 | None, sign: int, groups: Sequence[int] | None = None
) -> Prediction:
    """Fit a prediction of what was `found`; results are worse where they are less (sign 1) or more (sign -1).

    `scatter` is what is known of it beforehand. With `groups`, of so many results each, a group is as good as its
    worst. How far results lie from a prediction is taken from fits that they had no part in.
    """
    sizes = np.ones(len(found), np.intp) if groups is None else np.asarray(groups)
    fold = np.repeat(_FOLDS * np.arange(len(sizes)) // len(sizes), sizes)
    weights, predicted = _fitted(features, found, fold)
    shortfalls = sign * (predicted - found) / (1.0 if scatter is None else scatter)
    size = np.abs(shortfalls)
    logarithm = np.log(size + 0.1 * size.mean() + 1e-6)
    of_scatter, known = _fitted(features, logarithm, fold)
    least, most = np.quantile(known, [0.02, 0.98]).tolist()
    relative = shortfalls / np.exp(np.clip(known, least, most))
    worst = np.maximum.reduceat(relative, np.cumsum([0, *sizes[:-1]]))
    lowest, highest = np.quantile(found, [_TAIL, 1 - _TAIL]).tolist()
    margin = max(_WIDENED * float(np.quantile(worst, 1 - _TAIL)), _LEAST_MARGIN)
    return Prediction(tuple(weights.tolist()), tuple(of_scatter.tolist()), margin, lowest, highest, least, most)


def _fitted(features: Float64, wanted: Float64, fold: NDArray[np.intp]) -> tuple[Float64, Float64]:
    """Give the weights of a linear prediction, and each value as a fit to the other folds predicts it.

    The penalty is the one with which such fits err least.
    """
    apart = {penalty: _apart(features, wanted, fold, penalty) for penalty in _RIDGES}
    best = min(_RIDGES, key=lambda penalty: float(np.square(apart[penalty] - wanted).sum()))
    return _regression(features, wanted, best), apart[best]


def _apart(features: Float64, wanted: Float64, fold: NDArray[np.intp], penalty: float) -> Float64:
    """Predict each value by a fit to those of the other folds."""
    result = np.empty_like(wanted)
    for each in range(_FOLDS):
        own = fold == each
        result[own] = features[own] @ _regression(features[~own], wanted[~own], penalty)
    return result


def _scatter(pixels: int) -> float:
    return math.sqrt(1 + _SMALL / pixels)


def _scatter_of_blocks(statistics: Statistics) -> float:
    """Blocks are smaller than those of the fit where a side of the picture is."""
    blocks = statistics.counts.shape[0] * statistics.counts.shape[1]
    return math.sqrt(max(1.0, BLOCK**2 * blocks / statistics.pixels))


def _decibels(errors: Float64) -> Float64:
    result: Float64 = 10 * np.log10(255**2 / np.maximum(errors, 0.01))
    return result


def _added_decibels(added: Float64, step: int) -> Float64:
    result: Float64 = 10 * np.log10(255**2 / (added + _PEDESTAL * (step / STEP_UNIT) ** 2))
    return result


def _exp(value: float) -> float:
    return math.exp(min(max(value, -50.0), 50.0))

"""What a model is expected to make of a picture: fidelity and size from the picture's statistics, with their margins.

A model's manifest has a contract once one was fitted on ordinary pictures (`fit`, by `robustcodec models contract`).
It is three linear predictions over the same features: PSNR and logarithm of the bits per pixel of the whole picture,
and PSNR of each 64 x 64 block. A result that is worse than predicted by more than the margin is suspicious.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcodec.errors import ModelDamaged
from robustcodec.rate import STEP_UNIT
from robustcodec.statistics import Statistics

VERSION = 1
"""Of what a manifest keeps."""

_THRESHOLDS = (0.5, 1.0, 2.0, 4.0)
"""Of the statistics, in multiples of `_DEADZONE` times the quantisation step."""

_DEADZONE = 16.0
"""8-bit levels that stand for a step of one."""

_FEATURES = 2 * len(_THRESHOLDS) + 3

_SMALL = 12000.0
"""Pixels of a picture whose figures scatter 1.4 times as much as a large one's."""

_TAIL = 0.003
"""Share of ordinary results that are outside a margin before it is widened."""

_WIDENED = 1.1
_RIDGE = 1e-3
_LARGEST = 1e6

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """One linear prediction, and by how much results may be worse.

    It never lies beyond `lowest` and `highest`, between which those of ordinary pictures were found: a picture that is
    unlike any of them must not be expected to fare worse than all of them.
    """

    weights: tuple[float, ...]
    margin: float
    lowest: float
    highest: float

    def __post_init__(self) -> None:
        if len(self.weights) != _FEATURES or not all(abs(value) < _LARGEST for value in self.weights):
            raise ValueError(f"a prediction needs {_FEATURES} weights")
        if not 0 < self.margin < _LARGEST:
            raise ValueError("a margin must be above zero")
        if not -_LARGEST < self.lowest <= self.highest < _LARGEST:
            raise ValueError("a range must not be empty")

    def of(self, features: Float64) -> Float64:
        """Predict for features (..., n)."""
        result: Float64 = np.clip(features @ np.array(self.weights), self.lowest, self.highest)
        return result


@dataclass(frozen=True, eq=False)
class Expectation:
    """What a model should make of one picture at one step, and the margins by which results may be worse.

    `psnr` and `blocks` (rows, columns) are in dB, `bpp` is of the strips alone; its margin is of the natural logarithm.
    """

    psnr: float
    bpp: float
    blocks: Float64
    psnr_margin: float
    bpp_margin: float
    block_margin: float

    @property
    def psnr_floor(self) -> float:
        """The PSNR in dB below which a result is suspicious."""
        return self.psnr - self.psnr_margin

    @property
    def bpp_cap(self) -> float:
        """The bits per pixel above which a result is suspicious."""
        return self.bpp * _exp(self.bpp_margin)

    def shortfalls(self, psnr: float, bpp: float, errors: Float64) -> dict[str, float]:
        """Say by how many margins a result, with the MSE of each block, is worse than expected: 1 is just allowed."""
        return {
            "psnr": (self.psnr - psnr) / self.psnr_margin,
            "block": float(np.max(self.blocks - _decibels(errors))) / self.block_margin,
            "bpp": math.log(max(bpp, 1e-9) / self.bpp) / self.bpp_margin,
        }


@dataclass(frozen=True)
class Contract:
    """Predictions of `psnr` in dB, of the natural logarithm of `bpp`, and of each block's PSNR in dB.

    `latent` is the largest magnitude of the latents of ordinary pictures, `results` on how many results all rests.
    """

    psnr: Prediction
    bpp: Prediction
    block: Prediction
    latent: float
    results: int

    def expect(self, statistics: Statistics, step: int) -> Expectation:
        """Predict what becomes of a picture at quantisation step R."""
        whole = _features(statistics.whole, step)[0, 0]
        psnr, log_bpp = float(self.psnr.of(whole)), float(self.bpp.of(whole))
        scatter = _scatter(int(statistics.samples.sum()) // 3)
        return Expectation(
            psnr=psnr,
            bpp=_exp(log_bpp),
            psnr_margin=self.psnr.margin * scatter,
            bpp_margin=self.bpp.margin * scatter,
            blocks=self.block.of(_features(statistics, step)),
            block_margin=self.block.margin,
        )

    def document(self) -> dict[str, Any]:
        """Give what a manifest keeps."""
        return {"version": VERSION, **asdict(self)}


@dataclass(frozen=True, eq=False)
class Result:
    """What a model has made of an ordinary picture, to fit a contract to: `errors` are the MSE of each block."""

    statistics: Statistics
    step: int
    psnr: float
    bpp: float
    errors: Float64
    latent: float


def fit(results: Sequence[Result]) -> Contract:
    """Fit a contract to what a model has made of ordinary pictures, whatever their sizes and steps.

    Raises ValueError for fewer than 20 results.
    """
    if len(results) < 20:
        raise ValueError(f"a contract rests on more than {len(results)} results")
    whole = np.array([_features(each.statistics.whole, each.step)[0, 0] for each in results])
    scatter = np.array([_scatter(int(each.statistics.samples.sum()) // 3) for each in results])
    blocks = [_features(each.statistics, each.step).reshape(-1, _FEATURES) for each in results]
    found = [_decibels(each.errors).ravel() for each in results]
    local = _regression(np.concatenate(blocks), np.concatenate(found))
    worst = np.array([np.max(part @ local - psnr) for part, psnr in zip(blocks, found, strict=True)])
    psnr, log_bpp = np.array([each.psnr for each in results]), np.log([each.bpp for each in results])
    of_psnr, of_bpp = _regression(whole, psnr), _regression(whole, log_bpp)
    return Contract(
        psnr=_prediction(of_psnr, psnr, (whole @ of_psnr - psnr) / scatter),
        bpp=_prediction(of_bpp, log_bpp, (log_bpp - whole @ of_bpp) / scatter),
        block=_prediction(local, np.concatenate(found), worst),
        latent=float(max(each.latent for each in results)),
        results=len(results),
    )


def read_contract(document: Mapping[str, Any] | None) -> Contract | None:
    """Read what a manifest keeps; None if it keeps none, or one of a later release. Raises ModelDamaged."""
    if document is None or document.get("version") != VERSION:
        return None
    try:
        predictions = {name: _read_prediction(document[name]) for name in ("psnr", "bpp", "block")}
        latent, results = float(document["latent"]), int(document["results"])
        if not (0 < latent < math.inf and results > 0):
            raise ValueError("its scale must be above zero")
        return Contract(**predictions, latent=latent, results=results)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelDamaged(f"the contract of its manifest is not in order: {error}") from error


def _read_prediction(document: Mapping[str, Any]) -> Prediction:
    weights = tuple(float(value) for value in document["weights"])
    return Prediction(weights, *(float(document[name]) for name in ("margin", "lowest", "highest")))


def _features(statistics: Statistics, step: int) -> Float64:
    """Give (rows, columns, features) of all blocks at a step."""
    scale = step / STEP_UNIT
    parts = [statistics.features(threshold * _DEADZONE * scale) for threshold in _THRESHOLDS]
    of_step = np.array([1.0, math.log(scale), math.log(scale) ** 2])
    return np.concatenate([*parts, np.broadcast_to(of_step, (*parts[0].shape[:2], 3))], axis=2)


def _regression(features: Float64, wanted: Float64) -> Float64:
    """Give the weights of a linear prediction, kept small where features say the same."""
    centre, spread = features.mean(0), features.std(0)
    constant = spread < 1e-12
    centre[constant], spread[constant] = 0, 1
    normal = (features - centre) / spread
    ridge = _RIDGE * len(wanted) * np.diag(~constant).astype(np.float64)
    ridge += 1e-9 * len(wanted) * np.eye(_FEATURES)  # steps may all be the same
    weights: Float64 = np.linalg.solve(normal.T @ normal + ridge, normal.T @ wanted) / spread
    # the centre is taken off by the feature that is 1 everywhere
    weights[2 * len(_THRESHOLDS)] -= weights @ centre
    return weights


def _prediction(weights: Float64, found: Float64, shortfalls: Float64) -> Prediction:
    margin = _WIDENED * float(np.quantile(shortfalls, 1 - _TAIL))
    lowest, highest = np.quantile(found, [_TAIL, 1 - _TAIL]).tolist()
    return Prediction(tuple(weights.tolist()), max(margin, 1e-3), lowest, highest)


def _scatter(pixels: int) -> float:
    return math.sqrt(1 + _SMALL / pixels)


def _decibels(errors: Float64) -> Float64:
    result: Float64 = 10 * np.log10(255**2 / np.maximum(errors, 0.01))
    return result


def _exp(value: float) -> float:
    return math.exp(min(max(value, -50.0), 50.0))

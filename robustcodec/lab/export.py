"""From a trained network to a bundle: real numbers to exact integers, with the proof, the tables and the points."""

import json
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcodec.architectures.hyperprior import DEAD_ZONES, MAX_MEDIAN, dead_zones_in
from robustcodec.bundle import (
    ANALYSIS,
    ENTROPY,
    LAB,
    MANIFEST,
    SYNTHESIS,
    Bundle,
    RatePoint,
    open_bundle,
    write_bundle,
)
from robustcodec.codec import Codec
from robustcodec.entropy import Table, TableSet, gaussian_tables, quantise
from robustcodec.errors import TrainingError, UsageError
from robustcodec.exact import MAX_THRESHOLD, layers_to_arrays
from robustcodec.graphs import check_size
from robustcodec.images import Picture
from robustcodec.lab.attacks.shipped import TablePrice
from robustcodec.lab.attacks.victim import NetworkVictim
from robustcodec.lab.brightness import levelled
from robustcodec.lab.checkpoints import load_weights
from robustcodec.lab.code_lengths import CodeLength, code_length
from robustcodec.lab.data import picture_files, read_pictures
from robustcodec.lab.dead_zones import by_scale, dead_zones
from robustcodec.lab.entropy_models import SCALE_MIDDLES, SCALES, FactorizedPrior
from robustcodec.lab.fitted_tables import QUALITIES, count, fitted_tables, prefixed, table_arrays
from robustcodec.lab.half_precision import half_precision, transform_arrays
from robustcodec.lab.integers import Arrays, Rounded, Seen, integers_of
from robustcodec.lab.latents import latents_of, z_hat_of
from robustcodec.lab.networks import Network
from robustcodec.lab.restraint import NONE, Restraint, attacked, restraint_of
from robustcodec.lab.runs import Run
from robustcodec.lab.train import split_pictures
from robustcodec.lab.training import EXACT, pixels_seen
from robustcodec.metrics import bits_per_pixel, psnr
from robustcodec.pixels import Pixels
from robustcodec.rate import STEP_UNIT, Quality, high_rate_step, lagrangian, score
from robustcodec.words import counted

_MEASURED_SIDE = 768
"""Pixels of a validation picture, along either side, that operating points are measured on."""

_Z_TAIL = 2.0**-20
_CALIBRATION_PICTURES = 80


@dataclass(frozen=True)
class Point:
    """A clean operating point on validation pictures, at most 768 pixels a side: means per picture, of real files."""

    quality: float
    bpp: float
    psnr: float
    score: float


@dataclass(frozen=True)
class Exported:
    """A bundle and what was measured on the way."""

    bundle: Bundle
    code_length: CodeLength
    points: tuple[Point, ...]


def export(
    weights: Mapping[str, Tensor],
    folder: Path,
    *,
    id: str,
    variant: str,
    provenance: dict[str, Any],
    calibration: Sequence[Pixels],
    validation: Sequence[Pixels],
    announce: Callable[[str], None],
    restraint: Restraint = NONE,
) -> Exported:
    """Write the bundle of a network's weights.

    Integer ranges and the tables of y are fitted on `calibration`, the operating points measured on `validation`
    (pictures uint8 (H, W, 3)). An existing bundle in `folder` stays until the new one is whole.
    """
    network = half_precision(weights, announce)
    check_size(network.arch, (network.n, network.m))
    calibration = _large_enough(calibration, announce)
    announce(f"calibrating on {counted(len(calibration), 'picture')}")
    latents = [latents_of(network, picture) for picture in calibration]
    medians = _medians(network.entropy_bottleneck)
    integers = integers_of(network.arch)
    rounded = integers.rounded(network, [Seen(each.y[None], z_hat_of(each, medians)[1]) for each in latents])
    gaussian = _entropy_arrays(network, rounded, medians, gaussian_tables(SCALES))
    analysis, synthesis = transform_arrays(network)
    if restraint.dead_zones:
        analysis[DEAD_ZONES] = (dead_zones() * STEP_UNIT).astype(np.uint16)
    parameters = integers.parameters(gaussian, network.n, network.m)
    zones = dead_zones_in(analysis, len(SCALES))
    dithered = restraint.dithered
    counts = count(parameters, latents, zones)
    tables = fitted_tables(gaussian_tables(SCALES), counts, dithered)
    if restraint.attacked_share:
        announce("counting latents of attacked pictures")
        cpu = torch.device("cpu")
        price = TablePrice(tables, cpu, dithered)
        victim = NetworkVictim(network, 1.0, price, by_scale(zones, dithered))
        hostile = attacked(victim, calibration, torch.Generator().manual_seed(0))
        more = count(parameters, [latents_of(network, picture) for picture in hostile], zones)
        counts = counts.mixed(more, restraint.attacked_share)
        tables = fitted_tables(gaussian_tables(SCALES), counts, dithered)
    entropy = {**gaussian, **table_arrays(tables, dithered)}
    lengths = code_length(network, latents, gaussian, entropy, zones)
    rates = tuple(
        RatePoint(float(quality), lagrangian(quality), round(STEP_UNIT * high_rate_step(quality)))
        for quality in QUALITIES
    )
    held = {} if restraint == NONE else {"restraint": asdict(restraint)}
    manifest: dict[str, Any] = {
        "id": id,
        "architecture": network.arch,
        "sizes": [network.n, network.m],
        "variant": variant,
        "rates": [asdict(rate) for rate in rates],
        "provenance": {**provenance, **held, "code_length": asdict(lengths)},
        "points": [],
        "contract": None,
        "attacks": [],
    }
    parts = {ANALYSIS: analysis, SYNTHESIS: synthesis, ENTROPY: entropy, LAB: _lab_arrays(network, rounded)}
    announce(f"measuring operating points on {counted(len(validation), 'picture')}")
    with tempfile.TemporaryDirectory() as scratch:
        points = tuple(measure_points(write_bundle(Path(scratch) / id, manifest, parts), validation))
    manifest["points"] = [asdict(point) for point in points]
    return Exported(write_bundle(folder, manifest, parts), lengths, points)


def export_run(
    source: Path,
    folder: Path,
    id: str,
    variant: str,
    data: Path | None,
    announce: Callable[[str], None],
    validation: Path | None = None,
    restraint: Restraint | None = None,
) -> Exported:
    """Export a run, a candidate of one, a bundle or a checkpoint. Pictures: those of `data`, or those of the run.

    Weights of a run are corrected by their mean error: see `robustcodec.lab.brightness`. Others stay as they are.
    With `validation` its pictures are measured, and those of `data` are for calibration alone. Of a run the last
    weights are taken. Without a `restraint` it is what the run's recipe says, and none for weights of no run. A bundle
    keeps its provenance.
    """
    if validation is not None and data is None:
        raise UsageError("pictures to measure on go with pictures to calibrate on: a run has its own")
    run = Run.behind(source)
    provenance: dict[str, Any] = {"source": source.name}
    if run is not None:
        settings, state = run.settings(), run.load()
        if state is None:
            command = shlex.join(["robustcodec", "train", "-o", str(run.folder)])
            raise TrainingError(f"{run.folder} holds no trained state; train it first with: {command}")
        last = source == run.folder
        weights = state.average if last else load_weights(source)
        steps = state.step if last else int(source.stem)
        provenance = {
            "parent": _name(Path(settings.parent)),
            "steps": steps,
            "pixels": pixels_seen(settings.recipe, steps),
            "hours": round(state.seconds / 3600, 3),
            "recipe": json.loads(settings.recipe.to_json()),
        }
        if restraint is None:
            restraint = restraint_of(settings.recipe.hardening)
        if settings.teacher is not None:
            provenance["teacher"] = settings.teacher
    else:
        weights = load_weights(source)
        if (source / MANIFEST).is_file():
            bundle = open_bundle(source)
            provenance = {**bundle.manifest.provenance, "exported_from": bundle.fingerprint.hex()}
            provenance.pop("restraint", None)
    if data is not None:
        training = measured = picture_files(data)
        if validation is not None:
            measured = picture_files(validation)
    elif run is not None:
        training, measured = split_pictures(settings)
        provenance["pictures"] = len(training)
    else:
        raise TrainingError(f"{source} names no pictures to calibrate on; give some with --data")
    calibration = read_pictures(calibration_files(training), announce)
    if run is not None:
        weights = levelled(weights, calibration)
    return export(
        weights,
        folder,
        id=id,
        variant=variant,
        provenance=provenance,
        calibration=calibration,
        validation=read_pictures(measured, announce),
        announce=announce,
        restraint=restraint or NONE,
    )


def calibration_files(training: Sequence[Path]) -> Sequence[Path]:
    """Take some of the training pictures, spread over all of them."""
    return training[:: max(1, len(training) // _CALIBRATION_PICTURES)]


def _large_enough(pictures: Sequence[Pixels], announce: Callable[[str], None]) -> list[Pixels]:
    """Leave out the pictures that side information does not fit into."""
    kept = [picture for picture in pictures if min(picture.shape[:2]) >= Network.stride]
    if not kept:
        raise TrainingError(f"no picture to calibrate on is at least {Network.stride} pixels wide and high")
    if len(kept) < len(pictures):
        announce(
            f"left out {counted(len(pictures) - len(kept), 'picture')} of fewer than {Network.stride} pixels a side"
        )
    return kept


def measure_points(bundle: Bundle, pictures: Sequence[Pixels]) -> Iterator[Point]:
    """Encode and decode the middles of pictures at each whole quality: means of bpp and PSNR per picture."""
    codec = Codec(bundle)
    pictures = [_middle(picture) for picture in pictures]
    for quality in QUALITIES:
        bpp: list[float] = []
        decibels: list[float] = []
        for pixels in pictures:
            encoded = codec.encode(Picture(pixels=pixels), Quality(quality), measure=True)
            assert encoded.reconstruction is not None
            bpp.append(bits_per_pixel(len(encoded.data), pixels.shape[1], pixels.shape[0]))
            decibels.append(min(psnr(pixels, encoded.reconstruction), EXACT))
        means = float(np.mean(bpp)), float(np.mean(decibels))
        yield Point(float(quality), *means, score(*means, quality))


def _middle(picture: Pixels) -> Pixels:
    """Cut out what is measured: whole photographs of a camera would take hours."""
    top, left = (max(0, side - _MEASURED_SIDE) // 2 for side in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + _MEASURED_SIDE, left : left + _MEASURED_SIDE])


def _name(parent: Path) -> str:
    """Name what a run began with; a stage of a hardening is called by its place, since all have the same names."""
    return f"{parent.parent.name}/{parent.name}" if parent.name in ("teacher", "student") else parent.name


def _medians(prior: FactorizedPrior) -> NDArray[np.int32]:
    medians = (prior.quantiles[:, 0, 1] * STEP_UNIT).round().clamp(-MAX_MEDIAN, MAX_MEDIAN)
    return medians.to(torch.int32).numpy()


def _entropy_arrays(
    network: Network,
    rounded: Rounded,
    medians: NDArray[np.int32],
    y_tables: TableSet,
) -> Arrays:
    """Make the integer part of a bundle, with the given tables of y."""
    thresholds = np.ceil(SCALE_MIDDLES[None, :] / rounded.scale_units[:, None])
    return {
        **layers_to_arrays(rounded.layers),
        "thresholds": np.minimum(thresholds, MAX_THRESHOLD - 1).astype(np.int64),
        "medians": medians,
        **prefixed("y", y_tables.to_arrays()),
        **prefixed("z", _z_tables(network.entropy_bottleneck, medians).to_arrays()),
    }


@torch.no_grad()
def _z_tables(prior: FactorizedPrior, medians: NDArray[np.int32]) -> TableSet:
    """Tables of z: the prior's mass around each whole distance from the (rounded) median."""
    centre = torch.from_numpy(medians).double() / STEP_UNIT
    reach = int(np.clip(prior.quantiles.double().sub(centre[:, None, None]).abs().max(), 2, 512))
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    double = _double(prior)
    at = centre[:, None, None] + offsets
    mass = (torch.sigmoid(double.logits(at + 0.5)) - torch.sigmoid(double.logits(at - 0.5)))[:, 0].numpy()
    tables = []
    for row in mass:
        inside = np.flatnonzero(row > _Z_TAIL)
        low, high = (int(inside[0]), int(inside[-1])) if inside.size else (reach, reach)
        kept = row[low : high + 1]
        tables.append(Table(low - reach, quantise(np.append(kept, max(1 - kept.sum(), 0)))))
    return TableSet(tuple(tables))


def _double(prior: FactorizedPrior) -> FactorizedPrior:
    copy = FactorizedPrior(prior.quantiles.shape[0])
    copy.load_state_dict(prior.state_dict())
    return copy.double()


def _lab_arrays(network: Network, rounded: Rounded) -> Arrays:
    """What the lab needs beside the other parts: the prior, and the units of the integer layers."""
    prior = network.entropy_bottleneck
    kept = {f"entropy_bottleneck.{name}": tensor.numpy() for name, tensor in prior.state_dict().items()}
    return {**kept, **rounded.units}

"""From a trained network to a bundle: real numbers to exact integers, with the proof, the tables and the points."""

import json
import math
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

from robustcodec.architectures import Conditions, Group
from robustcodec.architectures.hyperprior import DEAD_ZONES, DITHER, MAX_MEDIAN, dead_zones_in
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
from robustcodec.dither import OFFSETS, DitheredScales
from robustcodec.entropy import LARGEST_VALUE, Table, TableSet, gaussian_tables, ideal_bits, quantise
from robustcodec.errors import TrainingError, UsageError
from robustcodec.exact import MAX_THRESHOLD, layers_to_arrays
from robustcodec.graphs import check_size
from robustcodec.images import Picture
from robustcodec.lab.attacks.shipped import TablePrice
from robustcodec.lab.attacks.victim import NetworkVictim
from robustcodec.lab.checkpoints import load_weights, network_of
from robustcodec.lab.data import picture_files, read_pictures
from robustcodec.lab.dead_zones import by_scale, dead_zones
from robustcodec.lab.entropy_models import SCALE_MIN, SCALES, FactorizedPrior, gaussian_bits
from robustcodec.lab.integers import Arrays, Parameters, Rounded, Seen, integers_of
from robustcodec.lab.networks import Convolution, Gdn, Network, round_straight_through
from robustcodec.lab.restraint import NONE, Restraint, attacked, restraint_of
from robustcodec.lab.runs import Run
from robustcodec.lab.train import split_pictures
from robustcodec.lab.training import EXACT, pixels_seen
from robustcodec.metrics import bits_per_pixel, psnr
from robustcodec.rate import STEP_UNIT, Quality, high_rate_step, lagrangian, score
from robustcodec.strips import in_steps, quantised, walk

Pixels = NDArray[np.uint8]
Counts = NDArray[np.float64]

_MIDDLES = np.sqrt(np.array(SCALES[:-1]) * np.array(SCALES[1:]))
"""Where one table ends and the next begins."""

QUALITIES = (1, 2, 3, 4, 5, 6)

_PRIOR_SHARE = 0.05
"""Share of a Gaussian in each fitted table: what hostile pictures bring is not what was counted."""
_MEASURED_SIDE = 768
"""Pixels of a validation picture, along either side, that operating points are measured on."""

_Z_TAIL = 2.0**-20
_CALIBRATION_CROP = 512
_CALIBRATION_PICTURES = 80


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
    network = _half_precision(weights, announce)
    check_size(network.arch, (network.n, network.m))
    calibration = _large_enough(calibration, announce)
    announce(f"calibrating on {len(calibration)} pictures")
    latents = [_latents(network, picture) for picture in calibration]
    medians = _medians(network.entropy_bottleneck)
    integers = integers_of(network.arch)
    rounded = integers.rounded(network, [Seen(each.y[None], _z_hat(each, medians)[1]) for each in latents])
    gaussian = _entropy_arrays(network, rounded, medians, gaussian_tables(SCALES))
    analysis, synthesis = _transforms(network)
    if restraint.dead_zones:
        analysis[DEAD_ZONES] = (dead_zones() * STEP_UNIT).astype(np.uint16)
    parameters = integers.parameters(gaussian, network.n, network.m)
    zones = dead_zones_in(analysis, len(SCALES))
    dithered = restraint.dithered
    counts = _count(parameters, latents, zones)
    tables = _fitted_tables(gaussian_tables(SCALES), counts, dithered)
    if restraint.attacked_share:
        announce("counting latents of attacked pictures")
        cpu = torch.device("cpu")
        price = TablePrice(tables, cpu, dithered)
        victim = NetworkVictim(network, 1.0, price, by_scale(zones, dithered))
        hostile = attacked(victim, calibration, torch.Generator().manual_seed(0))
        more = _count(parameters, [_latents(network, picture) for picture in hostile], zones)
        counts = counts.mixed(more, restraint.attacked_share)
        tables = _fitted_tables(gaussian_tables(SCALES), counts, dithered)
    entropy = {**gaussian, **_table_arrays(tables, dithered)}
    lengths = _code_lengths(network, latents, gaussian, entropy, zones)
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
    announce(f"measuring operating points on {len(validation)} pictures")
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
    return export(
        weights,
        folder,
        id=id,
        variant=variant,
        provenance=provenance,
        calibration=read_pictures(calibration_files(training), announce),
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
        announce(f"left out {len(pictures) - len(kept)} pictures of fewer than {Network.stride} pixels a side")
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


def _half_precision(weights: Mapping[str, Tensor], announce: Callable[[str], None]) -> Network:
    """Build the network with its transforms rounded to float16, as they are shipped, and its quantiles set."""
    network = network_of(dict(weights), "the checkpoint", announce).eval().requires_grad_(False)
    for _, layer in _layers(network):
        if isinstance(layer, Gdn):
            beta, gamma = layer.parameters_in_use()
            layer.set_parameters(beta.half().float().clamp(min=2.0**-14), gamma.half().float())
            if layer.limited:
                layer.limit.copy_(layer.limit.clamp(max=torch.finfo(torch.half).max).half())
        else:
            for parameter in layer.parameters():
                parameter.copy_(parameter.half().float())
    network.entropy_bottleneck.set_quantiles()
    return network


def _layers(network: Network, *transforms: str) -> Iterator[tuple[str, Gdn | Convolution]]:
    """Go through the layers of some of the transforms, by default of all."""
    for transform in transforms or ("g_a", "h_a", "g_s"):
        for name, layer in network.get_submodule(transform).named_modules(prefix=transform):
            if isinstance(layer, Gdn | torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                yield name, layer


def _transforms(network: Network) -> tuple[Arrays, Arrays]:
    """Arrays of the analysis part (g_a, h_a) and the synthesis part (g_s): float16, GDN's parameters as they act."""

    def arrays(*transforms: str) -> Arrays:
        result: Arrays = {}
        for name, layer in _layers(network, *transforms):
            if isinstance(layer, Gdn):
                beta, gamma = layer.parameters_in_use()
                # float16 of a value that is float16 but for the last bits of its square root
                result[f"{name}.beta"] = beta.half().numpy()
                result[f"{name}.gamma"] = gamma.half().numpy()[:, :, None, None]
                if layer.limited:
                    result[f"{name}.limit"] = layer.limit.half().numpy()[:, None, None]
            else:
                for key, parameter in layer.named_parameters():
                    result[f"{name}.{key}"] = parameter.half().numpy()
        return result

    return arrays("g_a", "h_a"), arrays("g_s")


@dataclass(frozen=True)
class _Latents:
    """Latents of a calibration picture: y (M, h, w) and z (N, h/4, w/4), real; and the picture's pixels."""

    y: Tensor
    z: Tensor
    pixels: int


def _name(parent: Path) -> str:
    """Name what a run began with; a stage of a hardening is called by its place, since all have the same names."""
    return f"{parent.parent.name}/{parent.name}" if parent.name in ("teacher", "student") else parent.name


@torch.no_grad()
def _latents(network: Network, picture: Pixels) -> _Latents:
    """Analyse the middle of a picture, cut to whole side information."""
    height, width = (min(side, _CALIBRATION_CROP) // network.stride * network.stride for side in picture.shape[:2])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    crop = picture[top : top + height, left : left + width]
    x = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255
    y = network.analyse(x)
    return _Latents(y[0], network.side_information(y)[0], height * width)


def _medians(prior: FactorizedPrior) -> NDArray[np.int32]:
    medians = (prior.quantiles[:, 0, 1] * STEP_UNIT).round().clamp(-MAX_MEDIAN, MAX_MEDIAN)
    return medians.to(torch.int32).numpy()


def _z_hat(latents: _Latents, medians: NDArray[np.int32]) -> tuple[NDArray[np.int32], Tensor]:
    """Give z's symbols and z_hat (1, N, h, w), real."""
    centre = torch.from_numpy(medians)[:, None, None] / STEP_UNIT
    symbols = (latents.z - centre).round().clamp(-LARGEST_VALUE, LARGEST_VALUE)
    return symbols.to(torch.int32).numpy(), (symbols + centre)[None]


def _entropy_arrays(
    network: Network,
    rounded: Rounded,
    medians: NDArray[np.int32],
    y_tables: TableSet,
) -> Arrays:
    """Make the integer part of a bundle, with the given tables of y."""
    thresholds = np.ceil(_MIDDLES[None, :] / rounded.scale_units[:, None])
    return {
        **layers_to_arrays(rounded.layers),
        "thresholds": np.minimum(thresholds, MAX_THRESHOLD - 1).astype(np.int64),
        "medians": medians,
        **_prefixed("y", y_tables.to_arrays()),
        **_prefixed("z", _z_tables(network.entropy_bottleneck, medians).to_arrays()),
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


@dataclass(frozen=True, eq=False)
class _Counts:
    """How often magnitudes of y occurred, by scale: (scales, largest counted + 2), the rest last.

    `symbols` counts those of symbols, `eighths` those of latents before rounding, in units of a step's eighth.
    """

    symbols: Counts
    eighths: Counts

    def mixed(self, others: "_Counts", share: float) -> "_Counts":
        """Give others a share, however many they are."""

        def mix(own: Counts, more: Counts) -> Counts:
            mixed: Counts = own + share * (more * (own.sum() / more.sum()) - own)
            return mixed

        return _Counts(mix(self.symbols, others.symbols), mix(self.eighths, others.eighths))


def _count(parameters: Parameters, latents: Sequence[_Latents], dead_zones: NDArray[np.float32]) -> _Counts:
    """Count magnitudes of y by scale, over all qualities."""
    largest = int(parameters.y_tables.escapes.max())
    rows = len(parameters.y_tables)
    symbols, eighths = np.zeros((rows, largest + 2)), np.zeros((rows, OFFSETS * largest + 2))
    for each in latents:
        conditions = _conditions(parameters, each)
        for quality in QUALITIES:
            step = round(STEP_UNIT * high_rate_step(quality))
            coded = _coded(conditions, each.y.numpy(), step, dead_zones)
            symbols += _histogram(coded.index, np.abs(coded.symbols), *symbols.shape)
            eighths += _histogram(coded.index, np.rint(OFFSETS * np.abs(coded.values)), *eighths.shape)
    return _Counts(symbols, eighths)


def _histogram(index: NDArray[Any], values: NDArray[Any], rows: int, width: int) -> NDArray[np.int64]:
    """Count whole values from 0 on by row (rows, width), what is too large last."""
    place = index.astype(np.int64) * width + np.minimum(values, width - 1).astype(np.int64)
    return np.bincount(place, minlength=rows * width).reshape(rows, width)


def _conditions(parameters: Parameters, latents: _Latents) -> Conditions:
    symbols, _ = _z_hat(latents, parameters.medians)
    return parameters.conditions(symbols, *latents.y.shape[1:])


@dataclass(frozen=True, eq=False)
class _Coded:
    """All latents in the order of coding: symbols, the number of each one's scale, and values in steps."""

    symbols: NDArray[np.int32]
    index: NDArray[np.integer[Any]]
    values: NDArray[np.float32]


def _coded(conditions: Conditions, y: NDArray[np.float32], step: int, dead_zones: NDArray[np.float32]) -> _Coded:
    """Walk latents as the codec does, without dither."""
    groups: list[_Coded] = []

    def note(group: Group) -> NDArray[np.int32]:
        symbols = quantised(y, group, step, dead_zones)
        groups.append(_Coded(symbols.ravel(), group.table.ravel(), in_steps(y, group, step).ravel()))
        return symbols

    walk(conditions.schedule(step), note)
    return _Coded(
        np.concatenate([group.symbols for group in groups]),
        np.concatenate([group.index for group in groups]),
        np.concatenate([group.values for group in groups]),
    )


def _fitted_tables(gaussian: TableSet, counts: _Counts, dithered: DitheredScales) -> TableSet:
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


def _fitted(magnitudes: Counts, reach: int, prior: NDArray[np.float64]) -> Counts:
    """Give weights of -reach..reach and of all that is beyond, by counts of magnitudes and a prior of that shape."""
    within, beyond = magnitudes[: reach + 1], magnitudes[reach + 1 :].sum()
    halves = np.concatenate([within[:0:-1] / 2, within[:1], within[1:] / 2, [beyond]])
    # a table that was hardly ever used keeps the Gaussian's shape
    weight = _PRIOR_SHARE * max(halves.sum(), 1.0) + 256.0
    weights: Counts = halves + weight * prior
    return weights


def _table_arrays(tables: TableSet, dithered: DitheredScales) -> Arrays:
    """Give the arrays of fitted tables as a bundle has them."""
    arrays = _prefixed("y", TableSet(tables.tables[: dithered.scales]).to_arrays())
    if not dithered.tables:
        return arrays
    more = TableSet(tables.tables[dithered.scales :]).to_arrays()
    return {**arrays, **_prefixed(DITHER, {**more, "first": np.array([dithered.first], np.int32)})}


@torch.no_grad()
def _code_lengths(
    network: Network,
    latents: Sequence[_Latents],
    gaussian: Arrays,
    fitted: Arrays,
    dead_zones: NDArray[np.float32],
) -> CodeLength:
    """Measure what exactness costs and what fitted tables gain, at step 1."""
    n, m = network.n, network.m
    integers = integers_of(network.arch)
    exact, shipped = integers.parameters(gaussian, n, m), integers.parameters(fitted, n, m)
    log_middles = np.log(_MIDDLES)
    zones = by_scale(dead_zones)
    step = torch.ones(1, 1, 1, 1)
    totals = np.zeros(4)
    for each in latents:
        z_symbols, z_hat = _z_hat(each, exact.medians)
        z_index = np.broadcast_to(np.arange(n)[:, None, None], z_symbols.shape)
        z_exact = ideal_bits(z_symbols, z_index, exact.z_tables).sum()
        y_hat = network.quantised(each.y[None], step, round_straight_through, zones)
        means, scales = network.gaussians(z_hat, y_hat)
        coded, real = y_hat - means, scales.clamp(min=SCALE_MIN)
        nearest = np.searchsorted(log_middles, np.log(real.numpy()), side="right")
        by_integers = _coded(_conditions(exact, each), each.y.numpy(), STEP_UNIT, dead_zones)
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
    network = _half_precision(weights, lambda _: None)
    shipped = dict(bundle.entropy)
    gaussian = {**shipped, **_prefixed("y", gaussian_tables(SCALES).to_arrays())}
    zones = dead_zones_in(bundle.analysis, len(SCALES))
    for picture in pictures:
        yield _code_lengths(network, [_latents(network, picture)], gaussian, shipped, zones)


def _lab_arrays(network: Network, rounded: Rounded) -> Arrays:
    """What the lab needs beside the other parts: the prior, and the units of the integer layers."""
    prior = network.entropy_bottleneck
    kept = {f"entropy_bottleneck.{name}": tensor.numpy() for name, tensor in prior.state_dict().items()}
    return {**kept, **rounded.units}


def _prefixed(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {f"{prefix}.{name}": array for name, array in arrays.items()}

"""Refinement: gradients that finite differences confirm, code lengths of the file itself, and better files."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from regenerate import sample

from robustcodec import codec as codec_module
from robustcodec import refine as module
from robustcodec.architectures import Group, Int32
from robustcodec.architectures.hyper import Hyper
from robustcodec.codec import Codec
from robustcodec.container import unpack
from robustcodec.entropy import TableSet, ideal_bits
from robustcodec.errors import ImageError, TargetError, UsageError
from robustcodec.guard import encode as guarded_encode
from robustcodec.images import Picture
from robustcodec.metrics import bits_per_pixel, psnr
from robustcodec.policy import Guard, OnViolation, Rung
from robustcodec.rate import STEP_WORTHWHILE, BitsPerPixel, FileSize, Psnr, Quality, Step, Target, lagrangian, score
from robustcodec.refine import Edges, Steps, refine
from robustcodec.strips import Strip, prepare_strip, quantised, walk
from robustcodec.transforms import analyse

Pixels = NDArray[np.uint8]


def prepared(codec: Codec, pixels: Pixels) -> Strip:
    architecture = codec._architecture
    return prepare_strip(architecture, analyse(architecture, pixels, 0, pixels.shape[0]))


def half_error(codec: Codec, y_hat: NDArray[np.float32], target: NDArray[np.float32], weight: float) -> float:
    x = np.clip(codec._architecture.synthesise(y_hat), 0, 1).astype(np.float64)
    return float((weight * (x - target) ** 2).sum() / 2)


def test_gradients_are_finite_differences(codec: Codec) -> None:
    """Along random directions; the target keeps the picture inside [0, 1], where clipping does nothing."""
    generator = np.random.default_rng(1)
    y = prepared(codec, (sample(48, 80, 2) // 2 + 64).astype(np.uint8)).y
    target = codec._architecture.synthesise(y) + generator.normal(0, 0.05, (3, 48, 80)).astype(np.float32)
    assert codec._architecture.synthesise(y).min() > 0 and codec._architecture.synthesise(y).max() < 1
    gradient = codec._architecture.descend(y, target, np.full((1, 48, 80), 0.7, np.float32))
    assert gradient.shape == y.shape
    for _ in range(6):
        direction = generator.normal(0, 1, y.shape).astype(np.float32)
        step = np.float32(1e-2)
        ahead, behind = (half_error(codec, y + sign * step * direction, target, 0.7) for sign in (1, -1))
        slope = (ahead - behind) / (2 * float(step))
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-2, abs=1e-2)


def test_gradients_are_the_same_tile_by_tile(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = sample(150, 210, 5)
    y = prepared(codec, pixels).y
    whole = module._gradient(codec._architecture, y, pixels, slice(0, 150))
    monkeypatch.setattr(module, "_TILE", 4)
    tiled = module._gradient(codec._architecture, y, pixels, slice(0, 150))
    assert np.abs(tiled - whole).max() < 1e-4 * np.abs(whole).max()


def test_padding_has_no_error(codec: Codec) -> None:
    """What is beyond the picture is cut off, so that nothing about it can matter."""
    pixels = sample(40, 40, 5)
    y = prepared(codec, pixels).y
    gradient = module._gradient(codec._architecture, y, pixels, slice(0, 40))
    target = np.full((3, 48, 48), 0.5, np.float32)
    target[:, :40, :40] = pixels.transpose(2, 0, 1) / np.float32(255)
    weight = np.zeros((1, 48, 48), np.float32)
    weight[:, :40, :40] = 1
    assert np.abs(codec._architecture.descend(y, target, weight) - gradient).max() < 1e-5


def code_length(strip: Strip, step: int, tables: TableSet) -> float:
    """Give the bits that a strip's latents ideally take, side information apart."""
    total = 0.0

    def note(group: Group) -> Int32:
        nonlocal total
        symbols = quantised(strip.y, group, step, strip.dead_zones)
        total += float(ideal_bits(symbols, group.table, tables).sum())
        return symbols

    walk(strip.conditions.schedule(step), note)
    return total


def test_code_lengths_are_those_of_the_file(codec: Codec) -> None:
    picture = Picture(pixels=np.random.default_rng(2).integers(0, 256, (256, 256, 3)).astype(np.uint8))
    strip = prepared(codec, picture.pixels)
    bits = code_length(strip, 40, codec._architecture.y_tables)
    data = codec.encode(picture, Step(40)).data
    assert bits / 8 < len(data) < 1.1 * bits / 8 + 100
    slopes = module._slopes(codec._architecture.y_tables)
    table = codec._architecture.y_tables[5]
    at = module._REACH  # the slope from 0 to 1
    lengths = -np.log2(table.frequencies / 2**24)
    assert slopes[5, at] == pytest.approx(lengths[1 - table.minimum] - lengths[-table.minimum], abs=1e-5)


@pytest.mark.parametrize("gradient", [np.nan, np.inf, 1e30])
def test_gradients_of_hostile_models_are_refused(
    codec: Codec, monkeypatch: pytest.MonkeyPatch, gradient: float
) -> None:
    def descend(self: Hyper, y_hat: NDArray[np.float32], *rest: object) -> NDArray[np.float32]:
        return np.full_like(y_hat, gradient)

    monkeypatch.setattr(Hyper, "descend", descend)
    picture = Picture(pixels=sample(40, 40, 5))
    for effort in (1, 3):
        with np.errstate(all="ignore"), pytest.raises(ImageError, match="no finite gradients"):
            codec.encode(picture, effort=effort)
    guard = Guard(on_violation=OnViolation.FALLBACK, min_psnr=60, rungs=(Rung.REFINE, Rung.LOSSLESS))
    with np.errstate(all="ignore"):
        assert guarded_encode(codec, picture, guard=guard).verdict.rung is Rung.LOSSLESS


def test_soft_rounding_goes_from_nothing_to_rounding() -> None:
    u = np.linspace(-3.3, 3.3, 67).astype(np.float32)
    assert np.abs(module._softly_rounded(u, 0.01)[0] - u).max() < 1e-3
    hard = module._softly_rounded(u, 60.0)[0]
    away = np.abs(u - np.floor(u) - 0.5) > 0.1
    assert np.abs(hard - np.rint(u))[away].max() < 1e-3
    for steepness in (1.0, 5.0):
        value, slope = module._softly_rounded(u, steepness)
        ahead = module._softly_rounded(u + np.float32(1e-3), steepness)[0]
        smooth = np.floor(u) == np.floor(u + np.float32(1e-3))
        assert np.abs((ahead - value) / 1e-3 - slope)[smooth].max() < 0.05


def cost(codec: Codec, picture: Picture, target: Target, effort: int) -> float:
    encoded = codec.encode(picture, target, measure=True, effort=effort)
    assert encoded.reconstruction is not None and encoded.quality is not None
    assert np.array_equal(codec.decode(encoded.data).pixels, encoded.reconstruction)
    bpp = bits_per_pixel(len(encoded.data), picture.width, picture.height)
    return score(bpp, psnr(picture.pixels, encoded.reconstruction), encoded.quality)


@pytest.mark.parametrize("quality", [1.0, 4.0, 6.0])
def test_effort_pays(codec: Codec, quality: float) -> None:
    picture = Picture(pixels=sample(160, 144, 3))
    plain, *better = (cost(codec, picture, Quality(quality), effort) for effort in range(4))
    assert all(each < 0.99 * plain for each in better)
    assert better[2] < 0.997 * better[1]


class Separable:
    """An architecture in which each latent has an error of its own: gain * (y_hat - wanted)^2 / 2."""

    synthesis_halo = 0

    def __init__(self, gain: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
        self.gain, self.wanted = gain, wanted

    def descend(
        self, y_hat: NDArray[np.float32], target: NDArray[np.float32], weight: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return self.gain * (y_hat - self.wanted)


def test_exchanges_end_where_none_would_pay(codec: Codec) -> None:
    generator = np.random.default_rng(5)
    shape, table = (3, 4, 5), 9
    gain = np.array([0.5, 2, 8], np.float32)[:, None, None]
    wanted = generator.normal(0, 3, shape).astype(np.float32)
    tables = codec._architecture.y_tables
    task = module._Task(
        architecture=Separable(gain, wanted),  # type: ignore[arg-type]
        pixels=np.zeros((64, 80, 3), np.uint8),
        index=np.full(shape, table, np.uint16),
        mean=np.zeros(shape, np.float32),
        slopes=module._slopes(tables),
        scale=np.float32(0.8),
        weight=np.float32(3 * 0.8),
        counted=slice(0, 64),
        moves=np.ones(shape[1:], np.bool_),
    )
    assert module._curvature(task, np.zeros(shape, np.float32)) == pytest.approx(gain * 3 * 0.8**2, rel=1e-4)

    def price(symbols: NDArray[np.float32]) -> NDArray[np.float64]:
        bits = ideal_bits(symbols.astype(np.int32), np.full(shape, table), tables)
        return 3 * gain * (0.8 * symbols - wanted).astype(np.float64) ** 2 / 2 + bits

    start = np.rint(wanted / np.float32(0.8)) + generator.integers(-2, 3, shape).astype(np.float32)
    found = module._exchanged(task, start, 60)
    assert np.array_equal(found, np.rint(found)) and (price(start).sum() - price(found).sum()) > 10
    assert (price(found) <= np.minimum(price(found - 1), price(found + 1)) + 1e-3).all()
    first = module._exchanged(task, start, 1) != start
    assert first.sum(axis=0).max() == 1 and not first[:, 1::2].any() and not first[:, :, 1::2].any()


def test_effort_none_is_what_it_always_was(codec: Codec) -> None:
    picture = Picture(pixels=sample(60, 70, 3))
    assert codec.encode(picture, effort=0).data == codec.encode(picture).data
    assert codec.encode(picture, effort=1).data != codec.encode(picture).data
    assert codec.encode(picture, effort=1).data == codec.encode(picture, effort=1).data
    for effort in (-1, 4):
        with pytest.raises(UsageError, match="effort goes from 0"):
            codec.encode(picture, effort=effort)


def test_effort_reaches_what_plain_latents_do_not(codec: Codec) -> None:
    picture = Picture(pixels=sample(96, 80))
    with pytest.raises(TargetError, match="at most") as refusal:
        codec.encode(picture, Psnr(70))
    beyond = Psnr(float(str(refusal.value).split(" dB at most")[0].split()[-1]) + 0.2)
    with pytest.raises(TargetError, match="at most"):
        codec.encode(picture, beyond)
    encoded = codec.encode(picture, beyond, measure=True, effort=3)
    assert encoded.reconstruction is not None
    assert psnr(picture.pixels, encoded.reconstruction) >= beyond.decibels - 0.1
    with pytest.raises(TargetError, match="at most"):
        codec.encode(picture, Psnr(70), effort=1)
    for effort in (0, 1):
        with pytest.raises(TargetError, match="at least"):
            codec.encode(picture, FileSize(38), effort=effort)


@pytest.mark.parametrize("target", [FileSize(600), BitsPerPixel(0.2), Psnr(29.0)])
def test_targets_are_met_with_effort(codec: Codec, target: Target) -> None:
    picture = Picture(pixels=sample(160, 200, 6))
    encoded = codec.encode(picture, target, measure=True, effort=1)
    plain = codec.encode(picture, target, measure=True)
    assert encoded.reconstruction is not None and plain.reconstruction is not None
    if isinstance(target, Psnr):
        assert abs(psnr(picture.pixels, encoded.reconstruction) - 29) <= 0.1
        assert len(encoded.data) < len(plain.data)
    else:
        assert len(encoded.data) <= (600 if isinstance(target, FileSize) else 800)
        assert psnr(picture.pixels, encoded.reconstruction) > psnr(picture.pixels, plain.reconstruction)


def test_bytes_that_help_no_more_are_not_spent(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """With effort the step that is worth its bytes is refined once, and not left for a finer one."""
    picture = Picture(pixels=sample(64, 64, 6))
    refined = []
    code = codec._code
    monkeypatch.setattr(
        codec, "_code", lambda prepared, step, effort=0: refined.append((step, effort)) or code(prepared, step, effort)
    )
    for effort in (0, 1):
        assert codec.encode(picture, FileSize(1 << 20), effort=effort).step == STEP_WORTHWHILE
    assert [each for each in refined if each[1]] == [(STEP_WORTHWHILE, 1)]


@pytest.mark.parametrize("kind", ["one pixel", "row", "black", "noise", "grey", "alpha"])
def test_odd_pictures(codec: Codec, kind: str) -> None:
    pixels = {
        "one pixel": sample(1, 1),
        "row": sample(1, 700),
        "black": np.zeros((40, 50, 3), np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8),
        "grey": sample(40, 50, 1)[..., :1].repeat(3, axis=2),
        "alpha": sample(40, 50, 1),
    }[kind]
    picture = Picture(pixels=pixels, grey=kind == "grey", alpha=pixels[..., 0] if kind == "alpha" else None)
    encoded = codec.encode(picture, measure=True, effort=1, transform=5)
    assert encoded.reconstruction is not None
    assert np.array_equal(codec.decode(encoded.data).pixels, encoded.reconstruction)


def test_strips_keep_what_depends_on_others(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_module, "STRIP_ABOVE", 1)
    monkeypatch.setattr(codec_module, "STRIP_ROWS", 192)
    picture = Picture(pixels=sample(500, 64, 3))
    assert len(unpack(codec.encode(picture, effort=1).data).payload) == 3
    assert cost(codec, picture, Quality(4), 1) < 0.99 * cost(codec, picture, Quality(4), 0)
    pixels = sample(192, 64, 3)
    strip = prepared(codec, pixels)
    for edges, fixed in ((Edges(above=True), slice(0, 4)), (Edges(below=True), slice(8, 12))):
        found = refine(codec._architecture, strip, pixels, 1024, lagrangian(4), Steps(3, 2), edges)
        moved = np.abs(found.y - strip.y).max(axis=(0, 2)) > 1e-4
        assert not moved[fixed].any() and moved.sum() == 8
        assert found.z is strip.z


def test_large_steps_beyond_the_table_have_a_lagrangian(codec: Codec) -> None:
    manifest = codec.bundle.manifest
    for point in manifest.rates:
        assert manifest.lagrangian(point.step) == pytest.approx(point.lagrangian)
    assert manifest.lagrangian(2 * manifest.rates[0].step) == pytest.approx(manifest.rates[0].lagrangian / 4)
    finest = manifest.rates[-1]
    assert manifest.lagrangian(finest.step // 2) == pytest.approx(4 * finest.lagrangian, rel=0.01)


def test_the_guard_refines(codec: Codec) -> None:
    """A floor that better latents reach and the first ones do not."""
    picture = Picture(pixels=sample(96, 96, 3))

    def reached(effort: int) -> float:
        shown = codec.encode(picture, Quality(2), measure=True, effort=effort).reconstruction
        assert shown is not None
        return psnr(picture.pixels, shown)

    floor = (reached(0) + reached(2)) / 2
    assert floor > reached(0)
    asked = Guard(on_violation=OnViolation.FALLBACK, min_psnr=floor, rungs=(Rung.REFINE,))
    verdict = guarded_encode(codec, picture, Quality(2), asked).verdict
    assert (verdict.rung, verdict.broken) == (Rung.REFINE, ())


def test_memory_is_stated_for_effort(codec: Codec) -> None:
    stated: Callable[..., int] = codec.memory_to_encode
    assert stated(600, 400, refines=True) > stated(600, 400)

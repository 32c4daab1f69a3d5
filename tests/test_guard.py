"""The guard: what it says holds of the file as another process would read it, and the ladder ends where it must."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from regenerate import CHENG, TINY, sample
from typer.testing import CliRunner

import robustcodec
from robustcodec import guard as guards
from robustcodec import pillow
from robustcodec.architectures import open_architecture
from robustcodec.bundle import Bundle, open_bundle, write_bundle, write_contract
from robustcodec.bundle import manifest_document as document_of
from robustcodec.cli import app
from robustcodec.codec import Codec, encode_plain
from robustcodec.container import Limits, Payload, unpack
from robustcodec.contract import Contract, Prediction, Result, density, fit, read_contract
from robustcodec.details import KINDS, added, block_errors, describe
from robustcodec.errors import ContractViolation, ImageError, ModelDamaged, ModelError, UsageError
from robustcodec.guard import Guarded, Status
from robustcodec.images import Picture, write_picture
from robustcodec.metrics import bits_per_pixel, mse, psnr, worst_block
from robustcodec.policy import Guard, OnViolation, Rung
from robustcodec.rate import BitsPerPixel, FileSize, Quality, Step

Pixels = NDArray[np.uint8]
FALLBACK = OnViolation.FALLBACK


def noise(height: int, width: int, channels: int = 3) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, (height, width, channels)).astype(np.uint8)


def text(height: int, width: int) -> Pixels:
    """Saturated colours in thin strokes."""
    strokes = np.random.default_rng(3).integers(0, 6, (height // 2 + 1, width // 3 + 1))
    ink = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 255, 255], [0, 0, 0]], np.uint8)
    return ink[strokes].repeat(2, axis=0).repeat(3, axis=1)[:height, :width]


def checkerboard(side: int) -> Pixels:
    """Black and white squares."""
    squares = (np.indices((80, 96)) // side).sum(0)[..., None].repeat(3, 2)
    return squares.astype(np.uint8) % 2 * 255


HOSTILE: dict[str, Picture] = {
    "noise": Picture(pixels=noise(96, 80)),
    "checkerboard": Picture(pixels=checkerboard(1)),
    "coarse checkerboard": Picture(pixels=checkerboard(8)),
    "one pixel": Picture(pixels=noise(1, 1)),
    "a row": Picture(pixels=noise(1, 5000)),
    "a column": Picture(pixels=noise(5000, 1)),
    "black": Picture(pixels=np.zeros((70, 90, 3), np.uint8)),
    "white": Picture(pixels=np.full((70, 90, 3), 255, np.uint8)),
    "text": Picture(pixels=text(90, 120)),
    "grey noise": Picture.of(noise(64, 64, 1)),
    "alpha extremes": Picture(pixels=sample(64, 80, 2), alpha=noise(64, 80, 1)[..., 0] // 128 * 255),
    "invisible": Picture(pixels=noise(64, 64), alpha=np.zeros((64, 64), np.uint8)),
}


def judged(guarded: Guarded, picture: Picture, codec: Codec) -> None:
    """What the verdict says is what decoding the file gives."""
    shown = codec.decode(guarded.encoded.data)
    verdict = guarded.verdict
    assert verdict.psnr == psnr(picture.pixels, shown.pixels)
    assert verdict.worst_block == worst_block(picture.pixels, shown.pixels)
    assert verdict.bpp == bits_per_pixel(len(guarded.encoded.data), picture.width, picture.height)
    if picture.alpha is not None:
        assert np.array_equal(shown.alpha, picture.alpha)  # type: ignore[arg-type]
    json.dumps(verdict.document())


def bound(picture: Picture) -> float:
    return picture.samples.size * 1.001 + 64


# --- promises -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("floor", [25.0, 38.0, 60.0])
def test_a_floor_is_kept_for_every_picture(tiny: Bundle, codec: Codec, name: str, floor: float) -> None:
    picture = HOSTILE[name]
    guarded = guards.encode(codec, picture, guard=Guard(on_violation=FALLBACK, min_psnr=floor))
    judged(guarded, picture, Codec(tiny, threads=2))
    assert guarded.verdict.status in (Status.OK, Status.FALLBACK)
    assert guarded.verdict.psnr >= floor and guarded.verdict.worst_block >= floor - guards.LOCAL
    assert guarded.verdict.broken == ()
    if guarded.verdict.status is Status.FALLBACK:
        assert guarded.verdict.first and guarded.verdict.rung is not None
        assert len(guarded.encoded.data) <= max(bound(picture), len(codec.encode(picture).data))


@pytest.mark.parametrize("name", HOSTILE)
def test_where_floor_and_cap_contradict_the_floor_wins(codec: Codec, name: str) -> None:
    picture = HOSTILE[name]
    asked = Guard(on_violation=FALLBACK, min_psnr=45, max_bpp=0.05)
    guarded = guards.encode(codec, picture, guard=asked)
    judged(guarded, picture, codec)
    assert guarded.verdict.psnr >= 45
    assert len(guarded.encoded.data) <= bound(picture)
    assert guarded.verdict.status is Status.VIOLATION and guarded.verdict.broken == ("bpp",)
    said = guarded.verdict.sentence()
    assert "inf" not in said and ("every pixel kept" in said) is (guarded.verdict.psnr == float("inf"))


def test_a_cap_alone_is_met(codec: Codec) -> None:
    picture = Picture(pixels=noise(96, 80))
    plain = codec.encode(picture, Quality(6))
    cap = 0.5 * bits_per_pixel(len(plain.data), 80, 96)
    guarded = guards.encode(codec, picture, Quality(6), Guard(on_violation=FALLBACK, max_bpp=cap))
    judged(guarded, picture, codec)
    assert guarded.verdict.status is Status.FALLBACK and guarded.verdict.bpp <= cap


@pytest.mark.parametrize("in_bytes", [True, False])
def test_a_target_for_the_size_is_a_cap_for_all_rungs(codec: Codec, in_bytes: bool) -> None:
    picture = Picture(pixels=sample(96, 96, 3))
    size = 4 * len(codec.encode(picture).data)  # so that AV1 does better
    target = FileSize(size) if in_bytes else BitsPerPixel(bits_per_pixel(size, 96, 96))
    found = guards.encode(codec, picture, target, Guard(on_violation=FALLBACK)).verdict
    assert (found.status, found.rung, found.broken) == (Status.OK, None, ())
    for above, kept in ((0.1, True), (20, False)):
        floor = found.psnr + above
        guarded = guards.encode(codec, picture, target, Guard(on_violation=FALLBACK, min_psnr=floor))
        judged(guarded, picture, codec)
        assert guarded.verdict.psnr >= floor
        assert (len(guarded.encoded.data) <= size) is kept
        assert guarded.verdict.status is (Status.FALLBACK if kept else Status.VIOLATION)
        assert guarded.verdict.broken == (() if kept else ("bpp",))


@pytest.mark.parametrize("kept", [Rung.TRANSFORM, Rung.STEP, Rung.CLASSICAL, Rung.LOSSLESS])
def test_each_rung_can_be_the_one(codec: Codec, kept: Rung) -> None:
    picture = Picture(pixels=sample(96, 96, 3)[:, ::-1])

    def reached(transform: int) -> float:
        shown = codec.encode(picture, Quality(2), measure=True, transform=transform).reconstruction
        assert shown is not None
        return psnr(picture.pixels, shown)

    first, turned = reached(0), max(map(reached, range(1, 8)))
    assert turned > first
    floor = {Rung.TRANSFORM: turned - guards.MARGIN, Rung.STEP: first + 0.3}.get(kept, first + 3)
    asked = Guard(on_violation=FALLBACK, min_psnr=floor, rungs=(kept,))
    guarded = guards.encode(codec, picture, Quality(2), asked)
    judged(guarded, picture, codec)
    assert (guarded.verdict.status, guarded.verdict.rung) == (Status.FALLBACK, kept)
    header = unpack(guarded.encoded.data).header
    assert {
        Rung.TRANSFORM: header.transform > 0,
        Rung.STEP: header.step < codec.bundle.manifest.step(2),
        Rung.CLASSICAL: header.payload is Payload.CLASSICAL,
        Rung.LOSSLESS: header.payload is Payload.LOSSLESS,
    }[kept]


def test_without_a_rung_that_helps_the_first_stays(codec: Codec) -> None:
    picture = Picture(pixels=noise(64, 64))
    guarded = guards.encode(codec, picture, guard=Guard(on_violation=FALLBACK, min_psnr=60, rungs=()))
    assert guarded.verdict.status is Status.VIOLATION and guarded.verdict.rung is None
    assert guarded.encoded.data == codec.encode(picture).data


@pytest.mark.parametrize("rung", [Rung.STEP, Rung.CLASSICAL])
def test_where_no_rung_keeps_a_floor_the_nearest_is_written(codec: Codec, rung: Rung) -> None:
    picture = Picture(pixels=sample(96, 96, 3))
    guarded = guards.encode(codec, picture, guard=Guard(on_violation=FALLBACK, min_psnr=90, rungs=(rung,)))
    judged(guarded, picture, codec)
    finest = codec.encode(picture, Step(round(0.35 * codec.bundle.manifest.step(4))))
    best = finest if rung is Rung.STEP else encode_plain(picture, 100)
    assert best is not None and guarded.encoded.data == best.data
    assert (guarded.verdict.status, guarded.verdict.rung) == (Status.VIOLATION, rung)


def test_blocks_lie_above_their_floor_by_as_much_as_the_whole(codec: Codec) -> None:
    pixels = np.full((64, 640, 3), 90, np.uint8)
    pixels[:, :64] = noise(64, 64)
    local = guards.encode(codec, Picture(pixels=pixels), guard=Guard(min_psnr=1)).verdict.worst_block
    for above, kept in ((1.5 * guards.MARGIN, True), (0.5 * guards.MARGIN, False)):
        floor = local + guards.LOCAL - above
        broken = guards.encode(codec, Picture(pixels=pixels), guard=Guard(min_psnr=floor)).verdict.broken
        assert ("block" not in broken) is kept


def test_the_ladder_is_bounded(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst that a picture can make it do, stated in docs/guard.md."""
    guarded = guards.encode(
        codec, Picture(pixels=noise(64, 64)), guard=Guard(on_violation=FALLBACK, min_psnr=60, max_bpp=0.01)
    )
    assert guarded.verdict.tries <= 1 + 7 + 3 + 2 + 7 + 1


def test_a_clean_picture_is_encoded_as_without_a_guard(codec: Codec) -> None:
    picture = Picture(pixels=sample(80, 112, 3))
    guarded = guards.encode(codec, picture, guard=Guard(on_violation=FALLBACK, min_psnr=20, max_bpp=5))
    assert guarded.verdict.status is Status.OK and guarded.verdict.tries == 1
    assert guarded.encoded.data == codec.encode(picture).data


def test_warn_and_fail(codec: Codec) -> None:
    picture = Picture(pixels=noise(64, 64))
    warned = guards.encode(codec, picture, guard=Guard(min_psnr=40))
    assert warned.verdict.status is Status.VIOLATION and warned.verdict.broken == ("psnr", "block")
    assert warned.encoded.data == codec.encode(picture).data
    assert "contract violated (psnr, block)" in warned.verdict.sentence()
    with pytest.raises(ContractViolation, match="nothing was written: contract violated"):
        guards.encode(codec, picture, guard=Guard(min_psnr=40, on_violation=OnViolation.FAIL))


@pytest.mark.parametrize("wrong", [{"min_psnr": 0}, {"max_bpp": -1}, {"min_psnr": float("nan")}])
def test_bounds_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Guard(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="off"):
        Guard(min_psnr=30, on_violation=OnViolation.OFF)


def test_plain_names_serve_as_members(codec: Codec) -> None:
    picture = Picture(pixels=noise(64, 64))
    asked = Guard(on_violation="fallback", min_psnr=60, rungs=["lossless"])  # type: ignore[arg-type]
    assert asked == Guard(on_violation=FALLBACK, min_psnr=60, rungs=(Rung.LOSSLESS,))
    assert guards.encode(codec, picture, guard=asked).verdict.rung is Rung.LOSSLESS
    with pytest.raises(ContractViolation):
        guards.encode(codec, picture, guard=Guard(on_violation="fail", min_psnr=60))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the guard is off"):
        Guard(on_violation="off", min_psnr=30)  # type: ignore[arg-type]
    for wrong in ({"on_violation": "bogus"}, {"rungs": ("bogus",)}, {"rungs": "lossless"}):
        with pytest.raises(UsageError, match="take one of"):
            Guard(**wrong)  # type: ignore[arg-type]


# --- latents that no float holds ----------------------------------------------------------------------------


def exploding(tiny: Bundle, part: str) -> dict[str, Mapping[str, NDArray[np.generic]]]:
    """Arrays of the tiny model, with an analysis or a synthesis so steep that noise overflows float32."""
    arrays = {"analysis": {**tiny.analysis}, "synthesis": {**tiny.synthesis}}
    steep = arrays[part]
    letter = part[0]
    for layer in (0, 2, 4):
        steep[f"g_{letter}.{layer}.weight"] = np.full_like(steep[f"g_{letter}.{layer}.weight"], 6e4)
        if part == "analysis":  # nor does its normalisation hold it back
            steep[f"g_a.{layer + 1}.gamma"] = np.zeros_like(steep[f"g_a.{layer + 1}.gamma"])
            steep[f"g_a.{layer + 1}.beta"] = np.full_like(steep[f"g_a.{layer + 1}.beta"], 2e-6)
    return {
        "analysis.safetensors": arrays["analysis"],
        "synthesis.safetensors": arrays["synthesis"],
        "entropy.safetensors": tiny.entropy,
        "lab.safetensors": tiny.lab,
    }


@pytest.fixture(scope="module", params=["analysis", "synthesis"])
def explosive(request: pytest.FixtureRequest, tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """A model of whose latents, or of whose pictures, nothing is finite."""
    folder = tmp_path_factory.mktemp("models") / f"explosive-{request.param}"
    return Codec(write_bundle(folder, document_of(tiny.manifest), exploding(tiny, request.param)), threads=1)


def test_what_is_not_finite_is_never_written(explosive: Codec) -> None:
    picture = Picture(pixels=noise(64, 64))
    for each in (OnViolation.WARN, OnViolation.FAIL):
        with pytest.raises(ImageError, match="nothing finite of this picture"):
            guards.encode(explosive, picture, guard=Guard(min_psnr=1, on_violation=each))
    guarded = guards.encode(explosive, picture, guard=Guard(on_violation=FALLBACK))
    judged(guarded, picture, explosive)
    assert guarded.verdict.status is Status.FALLBACK and guarded.verdict.first == ("finite",)
    assert unpack(guarded.encoded.data).header.payload is not Payload.NETWORK
    with pytest.raises(ImageError, match="allow a rung without it"):
        guards.encode(explosive, picture, guard=Guard(on_violation=FALLBACK, rungs=(Rung.TRANSFORM,)))


# --- the model's own contract -------------------------------------------------------------------------------


def results(codec: Codec, seeds: range, spoil: Callable[[Pixels], Pixels] = lambda shown: shown) -> list[Result]:
    found = []
    for seed in seeds:
        pixels = sample(96 + seed % 3 * 32, 128, seed)
        encoded = codec.encode(Picture(pixels=pixels), Quality(1 + seed % 6), measure=True)
        assert encoded.reconstruction is not None
        shown = spoil(encoded.reconstruction)
        bits = 8 * sum(map(len, unpack(encoded.data).payload))
        found.append(
            Result(
                statistics=describe(pixels),
                step=encoded.step,
                psnr=psnr(pixels, shown),
                bpp=density(bits, *pixels.shape[1::-1]),
                expected_bpp=density(encoded.expected, *pixels.shape[1::-1]),
                errors=block_errors(pixels, shown),
                added=added(pixels, shown),
                latent=encoded.largest,
            )
        )
    return found


@pytest.fixture(scope="module")
def contract(codec: Codec) -> Contract:
    return fit(results(codec, range(60)))


@pytest.fixture(scope="module")
def bound_codec(tiny: Bundle, contract: Contract) -> Codec:
    """The tiny model with a contract."""
    return Codec(Bundle(tiny.path, replace(tiny.manifest, contract=contract.document())), threads=1)


def test_pictures_like_those_it_was_fitted_to_keep_the_contract(bound_codec: Codec) -> None:
    kept = [
        guards.encode(bound_codec, Picture(pixels=sample(128, 112, seed)), Quality(3.3)).verdict.status is Status.OK
        for seed in range(200, 220)
    ]
    assert sum(kept) >= 19


def test_padding_is_no_reason_to_expect_fewer_bits(bound_codec: Codec) -> None:
    """A picture that is one pixel too large for whole latents is coded as one that is fifteen larger: 1.36 the bits."""
    assert density(1000, 33, 47) == density(1000, 48, 48) == 1000 / 48**2
    excess = []
    for side in (96, 97):
        pictures = [Picture(pixels=sample(97, 97, seed)[:side, :side]) for seed in range(6)]
        found = [bound_codec.encode(picture) for picture in pictures]
        excess.append(
            [
                density(8 * sum(map(len, unpack(each.data).payload)), side, side)
                / guards.encode(bound_codec, picture).verdict.expected.bpp  # type: ignore[union-attr]
                for each, picture in zip(found, pictures, strict=True)
            ]
        )
    assert abs(np.log(np.divide(*excess)).mean()) < 0.1


def test_small_blocks_may_scatter_more(bound_codec: Codec, contract: Contract) -> None:
    for height, width, wider in ((64, 64, 1), (100, 130, 1), (32, 64, 2), (8, 640, 8), (4, 4, 256)):
        statistics = describe(sample(height, width, 3))
        own, large = (contract.expect(each, 1024) for each in (statistics, replace(statistics, pixels=1 << 20)))
        assert np.allclose(own.block_margins, large.block_margins * wider**0.5)
        assert np.allclose(own.added_margins, large.added_margins * wider**0.5)
    for side in range(1, 9):
        broken = guards.encode(bound_codec, Picture(pixels=sample(side, 9 - side, side))).verdict.broken
        assert not {"expected_block", "expected_added"} & set(broken)


def test_effort_makes_no_picture_suspicious(bound_codec: Codec) -> None:
    """Better latents may take more bits than plain ones should, as far as they are worth it."""
    for seed in range(200, 206):
        picture = Picture(pixels=sample(128, 112, seed))
        plain, better = (guards.encode(bound_codec, picture, effort=effort).verdict for effort in (0, 2))
        assert plain.suspicion is not None and better.suspicion is not None
        assert better.suspicion < max(plain.suspicion + 0.1, 1)


def test_an_expectation_is_near_what_is_found(codec: Codec, contract: Contract) -> None:
    for each in results(codec, range(300, 306)):
        expected = contract.expect(each.statistics, each.step)
        assert abs(expected.psnr - each.psnr) < 2.5
        assert abs(np.log(expected.bpp / each.bpp)) < 0.3
        assert expected.psnr_floor < expected.psnr and expected.bpp_cap > expected.bpp
        assert max(expected.shortfalls(each.psnr, each.bpp, each.errors, each.added).values()) < 1.5
        at_bounds = expected.shortfalls(expected.psnr_floor, expected.bpp_cap, each.errors, each.added)
        assert (at_bounds["psnr"], at_bounds["bpp"]) == pytest.approx((1, 1))


def test_noise_and_damage_break_it(bound_codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the decoder shows something else than it should, in one block, everywhere, or at a size beyond reason."""
    picture = Picture(pixels=sample(128, 128, 9))
    encoded = bound_codec.encode(picture, measure=True)
    assert encoded.reconstruction is not None
    patch = encoded.reconstruction.copy()
    patch[64:128, 64:128] = patch[64:128, 64:128] // 2
    everywhere = (encoded.reconstruction.astype(int) + np.random.default_rng(1).integers(-40, 41, patch.shape)).clip(
        0, 255
    )
    larger = replace(encoded, data=bound_codec.encode(Picture(pixels=noise(128, 128)), Step(60)).data)
    for changed, broken in (
        (replace(encoded, reconstruction=patch), "expected_block"),
        (replace(encoded, reconstruction=everywhere.astype(np.uint8)), "expected_psnr"),
        (larger, "expected_bpp"),
        (replace(encoded, largest=1e6), "expected_latents"),
        (replace(encoded, expected=encoded.expected / 4), "expected_rate"),
    ):
        monkeypatch.setattr(bound_codec, "encode", lambda *_, changed=changed, **__: changed)
        verdict = guards.encode(bound_codec, picture).verdict
        assert verdict.status is Status.SUSPICIOUS and broken in verdict.broken, broken
        assert verdict.suspicion is not None and verdict.suspicion > 1
        assert "unlike ordinary pictures" in verdict.sentence()
        assert verdict.document()["expected"]["psnr"] == pytest.approx(verdict.expected.psnr)  # type: ignore[union-attr]


def test_the_ladder_is_not_for_what_is_a_mere_sign(bound_codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Picture(pixels=sample(128, 128, 9))
    encoded = bound_codec.encode(picture, measure=True)
    surprising = replace(encoded, expected=encoded.expected / 4)
    monkeypatch.setattr(bound_codec, "encode", lambda *_, **__: surprising)
    verdict = guards.encode(bound_codec, picture, guard=Guard(on_violation=FALLBACK)).verdict
    assert (verdict.status, verdict.broken, verdict.tries) == (Status.SUSPICIOUS, ("expected_rate",), 1)


def test_fallback_keeps_the_model_s_own_contract(bound_codec: Codec) -> None:
    picture = Picture(pixels=text(96, 96))
    first = guards.encode(bound_codec, picture)
    assert first.verdict.status is Status.SUSPICIOUS
    guarded = guards.encode(bound_codec, picture, guard=Guard(on_violation=FALLBACK))
    judged(guarded, picture, bound_codec)
    assert not set(guarded.verdict.broken) - {"expected_bpp"}
    assert len(guarded.encoded.data) <= bound(picture)


@pytest.mark.parametrize("rung", [Rung.STEP, Rung.CLASSICAL, Rung.LOSSLESS])
def test_a_floor_makes_no_ordinary_picture_suspicious(bound_codec: Codec, rung: Rung) -> None:
    """What a floor takes in bits is no sign of an attack, unless the plain result was suspicious, too."""
    picture = Picture(pixels=sample(128, 112, 200))
    plain = guards.encode(bound_codec, picture, Quality(1)).verdict
    assert plain.status is Status.OK
    floor = plain.psnr + {Rung.STEP: 1.5, Rung.CLASSICAL: 6, Rung.LOSSLESS: 30}[rung]
    guarded = guards.encode(bound_codec, picture, Quality(1), Guard(on_violation=FALLBACK, min_psnr=floor))
    judged(guarded, picture, bound_codec)
    assert (guarded.verdict.status, guarded.verdict.rung, guarded.verdict.broken) == (Status.FALLBACK, rung, ())
    assert guarded.verdict.suspicion is not None and guarded.verdict.suspicion <= 1
    done = {Rung.STEP: "coding it at another", Rung.CLASSICAL: "coding it without", Rung.LOSSLESS: "storing it without"}
    assert f"kept by {done[rung]}" in guarded.verdict.sentence()


def test_what_is_suspicious_without_a_floor_remains_so_with_one(bound_codec: Codec) -> None:
    picture = Picture(pixels=text(96, 96))
    verdict = guards.encode(bound_codec, picture, guard=Guard(on_violation=FALLBACK, min_psnr=40)).verdict
    assert (verdict.status, verdict.broken) == (Status.SUSPICIOUS, ("expected_bpp",))
    assert verdict.rung is not None and f" bpp, by {guards._DONE[verdict.rung]}" in verdict.sentence()
    assert set(guards._DONE) == set(Rung)


def test_a_cap_that_was_asked_for_wins_over_a_floor_that_is_expected(bound_codec: Codec) -> None:
    picture = Picture(pixels=noise(96, 96))
    plain = guards.encode(bound_codec, picture).verdict
    assert plain.broken == ("expected_psnr", "expected_block") and plain.suspicion is not None
    asked = Guard(on_violation=FALLBACK, max_bpp=1.1 * plain.bpp)
    guarded = guards.encode(bound_codec, picture, guard=asked)
    judged(guarded, picture, bound_codec)
    verdict = guarded.verdict
    assert verdict.status is Status.SUSPICIOUS and verdict.bpp <= 1.1 * plain.bpp
    assert verdict.suspicion is not None and verdict.suspicion <= plain.suspicion


def test_what_is_not_suspicious_is_compared_by_size(bound_codec: Codec) -> None:
    picture = Picture(pixels=sample(128, 112, 200))
    plain = bound_codec.encode(picture)
    asked = Guard(on_violation=FALLBACK, max_bpp=0.01, rungs=(Rung.STEP,))
    guarded = guards.encode(bound_codec, picture, guard=asked)
    assert (guarded.verdict.status, guarded.verdict.broken) == (Status.VIOLATION, ("bpp",))
    assert guarded.encoded.data == bound_codec.encode(picture, Step(2 * plain.step)).data


def test_a_contract_goes_through_a_manifest(tiny: Bundle, contract: Contract, tmp_path: Path) -> None:
    parts = {
        "analysis.safetensors": tiny.analysis,
        "synthesis.safetensors": tiny.synthesis,
        "entropy.safetensors": tiny.entropy,
        "lab.safetensors": tiny.lab,
    }
    manifest = {**document_of(tiny.manifest), "contract": contract.document()}
    bundle = write_bundle(tmp_path / "model", manifest, parts)
    assert read_contract(bundle.manifest.contract) == contract
    assert bundle.fingerprint == tiny.fingerprint
    open_architecture(open_bundle(tmp_path / "model"), 1)


@pytest.mark.parametrize(
    "change",
    [
        {"latent": 0},
        {"latent": "many"},
        {"results": -1},
        {"psnr": None},
        {"psnr": {"weights": [1.0]}},
        {"psnr": {"scatter": [1.0] * 10}},
        {"bpp": {"weights": [1e9] * 67}},
        {"bpp": {"scatter": ["x"] * 67}},
        {"added": None},
        {"block": {"margin": 0}},
        {"psnr": {"margin": 1e-320}},  # which is nothing once it is multiplied
        {"block": {"lowest": 2, "highest": 1}},
        {"rate": {"most": 99.0}},
        {"rate": {"least": None}},
    ],
)
def test_a_contract_out_of_order_is_damage(contract: Contract, change: dict[str, object]) -> None:
    with pytest.raises(ModelDamaged, match="contract"):
        document = contract.document()
        for name, part in change.items():
            document[name] = {**document[name], **part} if isinstance(part, dict) else part
        read_contract(document)
    assert read_contract({"version": 99}) is None and read_contract(None) is None


def test_too_few_results_are_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="more than 3"):
        fit(results(codec, range(3)))
    assert isinstance(contract_of_one_step(codec).psnr, Prediction)


def contract_of_one_step(codec: Codec) -> Contract:
    """All results at one step: its features say nothing then, and the fit must bear it."""
    return fit([replace(each, step=1024) for each in results(codec, range(20))])


# --- the command line ---------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Bundle) -> Callable[..., Any]:
    """Runs the command line where two pictures are: one that the tiny model codes well, and noise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tiny.path.parent))
    for name, pixels in (("good", sample(64, 80, 3)), ("noise", noise(64, 80))):
        Path(f"{name}.png").write_bytes(write_picture(Picture(pixels=pixels), "PNG"))
    return lambda *arguments: CliRunner().invoke(app, ["encode", *arguments])


def test_the_command_warns_fails_and_falls_back(command: Callable[..., Any]) -> None:
    files = ("good.png", "noise.png", "--min-psnr", "26", "--threads", "1", "--json", "--overwrite")
    done = command(*files)
    assert done.exit_code == 0
    good, bad = (json.loads(line) for line in done.stdout.splitlines())
    assert good["guard"]["status"] == "ok" and good["guard"]["rung"] is None and "psnr" not in good
    assert bad["guard"]["status"] == "violation" and bad["guard"]["broken"] == ["psnr", "block"]
    assert "noise.png: contract violated (psnr, block)" in done.stderr
    Path("noise.rbc").unlink()

    done = command(*files, "--on-violation", "fail")
    assert done.exit_code == 3
    assert "error: noise.png: nothing was written: contract violated" in done.stderr
    assert "; ask for another quality, or let --on-violation fallback do better\n" in done.stderr
    assert not Path("noise.rbc").exists()
    assert sorted(json.loads(done.stdout.splitlines()[1])) == ["error", "input"]
    assert command(*files, "missing.png", "--on-violation", "fail").exit_code == 1

    done = command(*files, "--on-violation", "fallback", "--guard-rungs", "step,lossless")
    assert done.exit_code == 0
    rescued = json.loads(done.stdout.splitlines()[1])
    assert (rescued["guard"]["rung"], rescued["quality"], rescued["step"]) == ("lossless", None, None)
    assert rescued["guard"]["psnr"] is None  # infinite
    assert unpack(Path("noise.rbc").read_bytes()).header.payload is Payload.LOSSLESS


def test_the_command_s_guard_is_off_where_nothing_is_asked(command: Callable[..., Any]) -> None:
    for arguments in ((), ("--on-violation", "off")):
        done = command("noise.png", "--json", "--overwrite", *arguments)
        assert done.exit_code == 0 and json.loads(done.stdout)["guard"] is None


def test_the_command_says_where_its_guard_has_nothing_to_hold_to(command: Callable[..., Any]) -> None:
    for on_violation in ("fail", "fallback"):
        done = command("good.png", "--overwrite", "--on-violation", on_violation)
        assert done.exit_code == 0 and "has no contract and no floor or cap" in done.stderr
    done = command("good.png", "--overwrite", "--on-violation", "fail", "--min-psnr", "5")
    assert done.exit_code == 0 and "no contract" not in done.stderr


@pytest.mark.parametrize("path", [TINY, CHENG], ids=["hyper", "cheng"])
def test_a_contract_is_fitted_by_a_command(path: Path, tmp_path: Path) -> None:
    """A copy of the model gets one; a picture that is no picture is left out."""
    model, data = tmp_path / path.name, tmp_path / "data"
    shutil.copytree(path, model)
    data.mkdir()
    for seed in range(14):
        pixels = sample(130, 140, seed)
        (data / f"{seed}.png").write_bytes(write_picture(Picture(pixels=pixels), "PNG"))
    (data / "bad.png").write_bytes(b"no picture")
    arguments = ["models", "contract", str(model), "--data", str(data), "--threads", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "left out bad.png" in done.stderr and f"{path.name}: 28 results" in done.stderr
    made = open_bundle(model)
    assert made.fingerprint == open_bundle(path).fingerprint
    contract = read_contract(made.manifest.contract)
    assert contract is not None and contract.results == 28
    made.verify()
    seen = CliRunner().invoke(app, ["scan", str(data / "0.png"), "-m", str(model), "--threads", "1"])
    assert seen.exit_code == 0 and "0.png: ok " in seen.stdout
    fewer = CliRunner().invoke(app, [*arguments, "--most", "10"])
    assert fewer.exit_code == 0 and "20 results" in fewer.stderr
    contract = open_bundle(model).manifest.contract
    for picture in sorted(data.iterdir())[5:]:
        picture.unlink()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1 and isinstance(again.exception, ImageError)
    assert open_bundle(model).manifest.contract == contract != made.manifest.contract


def test_scan_tells_pictures_apart(command: Callable[..., Any], tiny: Bundle, contract: Contract) -> None:
    def scan(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["scan", *arguments])

    refused = scan("good.png")
    assert isinstance(refused.exception, ModelError) and "hyper-tiny has no contract" in str(refused.exception)
    shutil.copytree(tiny.path, "model")
    write_contract(Path("model"), contract.document())
    before = sorted(Path().iterdir())
    options = ("-m", "./model", "--threads", "1")
    done = scan("good.png", *options)
    assert done.exit_code == 0 and done.stdout.startswith("good.png: ok ")
    done = scan("good.png", "noise.png", "good.png", *options)
    assert done.exit_code == 3
    assert done.stdout.splitlines()[1].startswith("noise.png: SUSPICIOUS ") and len(done.stdout.splitlines()) == 2
    done = scan("-r", ".", "--json", *options)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 3 and [row["suspicious"] for row in rows] == [False, True]
    assert rows[0]["suspicion"] < 1 < rows[1]["suspicion"] and rows[1]["guard"]["status"] == "suspicious"
    Path("bad.png").write_bytes(b"x")
    assert scan("noise.png", "bad.png", *options).exit_code == 1
    assert scan("noise.png", *options, "--jobs", "2").exit_code == 3
    Path("bad.png").unlink()
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--guard-rungs", "up"), "up is no rung; give some of transform,step,"),
        (("--min-psnr", "0"), "min_psnr is 0"),
        (("--max-bpp", "1", "--on-violation", "off"), "the guard is off"),
    ],
)
def test_the_command_refuses(command: Callable[..., Any], arguments: tuple[str, ...], says: str) -> None:
    done = command("good.png", *arguments)
    assert isinstance(done.exception, UsageError) and says in str(done.exception)


# --- statistics ---------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 9))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_blocks_make_up_the_whole(height: int, width: int, seed: int) -> None:
    a, b = sample(height, width, seed), sample(height, width, seed + 1)
    counts = describe(a).counts
    errors = block_errors(a, b)
    assert errors.shape == added(a, b).shape == counts.shape[:2] == (max(1, height // 64), max(1, width // 64))
    sizes = [np.bincount(np.minimum(np.arange(side) // 64, max(1, side // 64) - 1)) for side in (height, width)]
    assert (errors * np.outer(*sizes)).sum() / (height * width) == pytest.approx(mse(a, b))
    padded = [-(-side // 16) * 16 for side in (height, width)]
    assert counts.sum() == sum(9 * padded[0] * padded[1] // 4**level for level in range(1, 5))


def test_statistics_do_not_depend_on_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = sample(300, 210, 2), sample(300, 210, 3)
    whole, more = describe(a), added(a, b)
    errors = block_errors(a, b)
    monkeypatch.setattr("robustcodec.details._PIECE", 64 * 64)
    monkeypatch.setattr("robustcodec.details._WIDEST", 64)
    assert np.array_equal(describe(a).counts, whole.counts)
    assert np.array_equal(block_errors(a, b), errors)
    assert added(a, b) == pytest.approx(more)


def test_details_have_the_energy_of_the_picture() -> None:
    """The transform is orthonormal: mean squares below a huge threshold are the variance, of each kind."""
    pixels = noise(256, 256)
    kinds = np.exp(describe(pixels).whole.features([1e9])[0, 0].reshape(KINDS, 2)[:, 0])
    assert kinds == pytest.approx(np.full(KINDS, pixels.var()), rel=0.15)


def test_what_a_result_lacks_is_not_added() -> None:
    pixels = noise(128, 192)
    means = pixels.reshape(8, 16, 12, 16, 3).mean((1, 3)).repeat(16, axis=0).repeat(16, axis=1)
    half = (pixels + means) / 2
    for smoother in (pixels, means.round().astype(np.uint8), half.round().astype(np.uint8)):
        assert (added(pixels, smoother) < 0.3).all()
    for height, width in ((128, 192), (75, 130), (1, 1)):
        flat, other = np.full((height, width, 3), 128, np.uint8), noise(height, width)
        assert added(flat, other) == pytest.approx(block_errors(flat, other), rel=1e-4)
    weaker = (means + 0.6 * (pixels - means)).round().astype(np.uint8)
    assert added(weaker, pixels) == pytest.approx(block_errors(weaker, pixels), rel=0.1)
    turned = (2 * means - weaker).round().astype(np.uint8)
    assert added(weaker, turned) == pytest.approx(block_errors(turned, means.round().astype(np.uint8)), rel=0.1)


def test_a_finer_threshold_loses_less_and_takes_more_bits() -> None:
    found = describe(sample(128, 128, 3)).whole
    values = found.features((1.0, 4.0, 16.0, 64.0))[0, 0].reshape(KINDS, 4, 2)
    assert (np.diff(values[..., 0], axis=1) > 0).all() and (np.diff(values[..., 1], axis=1) < 0).all()


def test_explicit_steps(codec: Codec) -> None:
    picture = Picture(pixels=sample(40, 40))
    assert codec.encode(picture, Step(900)).step == 900
    with pytest.raises(UsageError):
        Step(7)


# --- Python -------------------------------------------------------------------------------------------------


def test_the_python_interface_has_the_guard(tiny: Bundle) -> None:
    model = robustcodec.load(str(tiny.path), threads=1)
    pixels = noise(48, 64)
    guard = robustcodec.Guard(on_violation=robustcodec.OnViolation.FALLBACK, min_psnr=35)
    data, verdict = model.encode_guarded(pixels, 3, guard=guard)
    assert verdict.status is Status.FALLBACK and psnr(model.decode(data), pixels) == verdict.psnr >= 35
    with pytest.raises(robustcodec.ContractViolation):
        model.encode_guarded(pixels, guard=replace(guard, on_violation=robustcodec.OnViolation.FAIL))
    plain, verdict = model.encode_guarded(sample(48, 64), effort=1)
    assert verdict.expected is None and plain == model.encode(sample(48, 64), effort=1) != model.encode(sample(48, 64))


def test_pillow_opens_what_needs_no_model(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tiny.path.parent))
    encoded = encode_plain(Picture(pixels=noise(20, 30)), None)
    assert encoded is not None
    settings = pillow._Settings(None, Limits(), 1)
    with pillow.RobustcodecImageFile(BytesIO(encoded.data), settings=settings) as image:
        assert np.array_equal(np.asarray(image), noise(20, 30))


def test_the_example_of_the_page_runs(tiny: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tiny.path.parent))
    Path("photo.png").write_bytes(write_picture(Picture(pixels=sample(64, 80)), "PNG"))
    page = (Path(__file__).parent.parent / "docs" / "guard.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})

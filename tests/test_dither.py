"""Subtractive dither: offsets that the picture decides, tables for each, and files that other eyes read alike."""

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import reference
import regenerate
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from regenerate import CHENG, TINY, latents, sample
from safetensors.numpy import load

from robustcodec.architectures import Group
from robustcodec.bundle import ANALYSIS, ENTROPY, PARTS, Bundle, manifest_document, open_bundle, write_bundle
from robustcodec.codec import Codec
from robustcodec.container import pack, read_header, unpack
from robustcodec.dither import OFFSETS, DitheredScales, key_of, offsets, seed_of
from robustcodec.errors import CorruptFile, LimitExceeded, ModelDamaged
from robustcodec.images import Picture
from robustcodec.rate import Quality
from robustcodec.strips import code_strip, prepare_strip, quantised, walk
from robustcodec.transforms import analyse


@pytest.fixture(scope="module", params=[TINY, CHENG], ids=["hyper", "cheng"])
def dithering(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """A tiny model that dithers, on one thread."""
    return Codec(regenerate.dithered(tmp_path_factory.mktemp("models") / "dithered", request.param), threads=1)


# --- seeds and offsets --------------------------------------------------------------------------------------


def test_the_seed_is_a_hash_of_size_and_samples() -> None:
    pixels = sample(40, 30, 1)
    expected = hashlib.sha256(b"(40, 30, 3)" + pixels.tobytes()).digest()[:8]
    assert seed_of(pixels) == expected
    assert seed_of(np.asfortranarray(pixels)) == expected
    assert seed_of(pixels.reshape(30, 40, 3)) != expected
    changed = pixels.copy()
    changed[39, 29, 2] ^= 1
    assert seed_of(changed) != expected
    grey = np.broadcast_to(pixels[..., :1], pixels.shape)
    assert seed_of(grey) == seed_of(grey.copy())


def test_the_seed_of_a_large_picture_is_hashed_in_bands() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 900_000, 3)).astype(np.uint8)
    assert seed_of(pixels) == hashlib.sha256(b"(3, 900000, 3)" + pixels.tobytes()).digest()[:8]


def test_strips_have_keys_of_their_own() -> None:
    assert key_of(b"01234567", 258) == b"01234567\x02\x01\x00\x00"
    assert key_of(b"", 3) == b""
    first, second = (offsets(key_of(b"01234567", strip), (5, 6, 7)) for strip in (0, 1))
    assert first.shape == (5, 6, 7) and (first != second).mean() > 0.5
    assert (first == np.array(reference.offsets(key_of(b"01234567", 0), 5, 6, 7))).all()


def test_offsets_are_equally_likely() -> None:
    counts = np.bincount(offsets(b"some key", (10, 100, 80)).ravel(), minlength=OFFSETS)
    # 80,000 draws: a standard deviation is 94
    assert counts.size == OFFSETS and np.abs(counts - 10_000).max() < 5 * 94


@given(first=st.integers(0, 9), count=st.integers(0, 9), step=st.integers(8, 65535), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_tables_and_means_by_the_format(first: int, count: int, step: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 20, (3, 4)).astype(np.uint8)
    chosen = rng.integers(0, 8, (3, 4)).astype(np.uint8)
    model = {"y.lengths": [0] * 20, "dither.first": [first], "dither.lengths": [0] * 8 * count}
    tables, means = DitheredScales(20, first, first + count).applied(levels, chosen, step)
    for place in np.ndindex(levels.shape):
        expected = reference.dithered(int(levels[place]), int(chosen[place]), b"key", step, model)
        assert (int(tables[place]), int(means[place])) == expected


def test_more_latents_than_there_may_be_offsets_are_refused() -> None:
    with pytest.raises(LimitExceeded, match="536870911 are possible"):
        offsets(b"key", (1 << 9, 1 << 10, 1 << 10))


def test_what_a_strip_takes_in_memory_is_in_the_formula(dithering: Codec) -> None:
    """Latents that are large everywhere take most: all tables, and long messages."""
    architecture = dithering._architecture
    generator = np.random.default_rng(0)
    y = generator.normal(0, 30, (architecture.channels, 160, 160)).astype(np.float32)
    strip = prepare_strip(architecture, y, b"a key")
    tracemalloc.start()
    code_strip(architecture, strip, 1024)
    peak = tracemalloc.get_traced_memory()[1] + y.nbytes
    tracemalloc.stop()
    assert peak / y.size < dithering.demand.strip


def test_scales_that_do_not_exist_are_refused() -> None:
    for first, end in ((-1, 3), (4, 3), (0, 21)):
        with pytest.raises(ModelDamaged, match="of 20 cannot be dithered"):
            DitheredScales(20, first, end)


# --- what it is for -----------------------------------------------------------------------------------------


def test_the_error_has_nothing_to_do_with_the_latent() -> None:
    """Rounding without dither sends 0.51 to 1 always; with it the mean is the latent and the error that of any."""
    step, trials = 1024, 200_000
    chosen = offsets(b"trials", (1, 1, trials))
    tables, means = DitheredScales(1, 0, 1).applied(np.zeros((1, 1, trials), np.uint8), chosen, step)
    zones = np.full(9, 0.5, np.float32)
    for value in (-0.3, 0.0, 0.06, 0.51, 0.77, 3.4):
        y = np.full((1, 1, trials), value, np.float32)
        shown = quantised(y, Group(..., tables, means), step, zones) + means / 1024
        error = shown - value
        assert np.abs(error).max() <= 0.5
        # eight offsets leave what a grid eight times as fine has: a sixteenth, and a 64th of its square
        assert abs(error.mean()) <= 1 / 16 + 0.003
        assert error.var() == pytest.approx((1 - 1 / 64) / 12, abs=0.002)


# --- files --------------------------------------------------------------------------------------------------


def test_files_decode_to_what_was_measured(dithering: Codec) -> None:
    picture = Picture(pixels=sample(70, 90, 7))
    encoded = dithering.encode(picture, Quality(4), measure=True)
    assert encoded.reconstruction is not None
    assert np.array_equal(dithering.decode(encoded.data).pixels, encoded.reconstruction)
    assert read_header(encoded.data)[0].seed == seed_of(picture.pixels)
    assert dithering.encode(picture, Quality(4)).data == encoded.data


def test_the_second_decoder_agrees(dithering: Codec) -> None:
    data = dithering.encode(Picture(pixels=sample(40, 70, 3)), Quality(5)).data
    (strip,) = reference.decode_latents(data, dithering.bundle.path)
    (z,), (y,) = latents(dithering, data)
    assert reference.flat(strip.z) == z.ravel().tolist() and reference.flat(strip.y) == y.ravel().tolist()
    y_hat = dithering._read_strip(unpack(data).payload[0], 0, unpack(data).header)
    assert reference.flat(strip.y_hat) == y_hat.ravel().tolist()
    # not all are dithered, and those that are lie between whole steps
    scales = dithering._architecture.dithered.scales
    index = np.array(strip.index)
    assert (index < scales).any() and (index >= scales).any()


def test_one_sample_changes_all_offsets(dithering: Codec) -> None:
    """Of what the file's latents are, not of what its header says."""
    pixels = sample(64, 64, 9)
    changed = pixels.copy()
    changed[0, 0, 0] ^= 1
    grids = []
    for each in (pixels, changed):
        file = unpack(dithering.encode(Picture(pixels=each), Quality(4)).data)
        y_hat = dithering._read_strip(file.payload[0], 0, file.header)
        # of hyper the place between two whole steps; cheng's means move, too
        grids.append(y_hat % file.header.step)
    dithered = (grids[0] != 0) | (grids[1] != 0)
    assert dithered.any() and (grids[0] != grids[1])[dithered].mean() > 0.5


def test_effort_finds_better_latents_on_their_grids(dithering: Codec) -> None:
    pixels = sample(64, 96, 3)
    scores = []
    for effort in (0, 2):
        encoded = dithering.encode(Picture(pixels=pixels), Quality(4), measure=True, effort=effort)
        assert encoded.reconstruction is not None
        error = np.square(encoded.reconstruction.astype(float) - pixels).mean()
        scores.append(8 * len(encoded.data) / (64 * 96) + dithering.bundle.manifest.lagrangian(encoded.step) * error)
        assert np.array_equal(dithering.decode(encoded.data).pixels, encoded.reconstruction)
    assert scores[1] < scores[0]


def test_a_seed_that_does_not_belong_is_found(dithering: Codec, codec: Codec) -> None:
    data = dithering.encode(Picture(pixels=sample(32, 48, 3)), Quality(4)).data
    file = unpack(data)
    turned = bytes([file.header.seed[0] ^ 1]) + file.header.seed[1:]
    for seed in (turned, b""):
        header = type(file.header)(**{**vars(file.header), "seed": seed})
        with pytest.raises(CorruptFile):
            dithering.decode(pack(header, file.chunks))
    plain = unpack(codec.encode(Picture(pixels=sample(32, 48, 3)), Quality(4)).data)
    header = type(plain.header)(**{**vars(plain.header), "seed": bytes(8)})
    with pytest.raises(CorruptFile, match="seed"):
        codec.decode(pack(header, plain.chunks))


def test_zones_do_not_reach_what_is_dithered(tmp_path: Path) -> None:
    source = regenerate.dithered(tmp_path / "dithered")
    parts = {name: load((source.path / name).read_bytes()) for name in PARTS}
    parts[ANALYSIS]["dead_zones"] = np.full(64, 1.5 * 1024, np.uint16)
    architecture = Codec(write_bundle(tmp_path / "held", manifest_document(source.manifest), parts), 1)._architecture
    scales = architecture.dithered.scales
    assert len(architecture.y_tables) == scales + architecture.dithered.tables
    assert architecture.dead_zones.tolist() == [1.5] * scales + [0.5] * architecture.dithered.tables
    pixels = sample(64, 64, 2)
    strip = prepare_strip(architecture, analyse(architecture, pixels, 0, 64), b"a key")
    seen = []

    def note(group: Group) -> NDArray[np.int32]:
        seen.append(group)
        return quantised(strip.y, group, 1024, strip.dead_zones)

    walk(strip.conditions.schedule(1024), note)
    assert max(int(group.table.max()) for group in seen) >= scales


# --- bundles ------------------------------------------------------------------------------------------------


def broken(folder: Path, change: str) -> Bundle:
    parts = {name: load((TINY / name).read_bytes()) for name in PARTS}
    arrays = dict(load((regenerate.dithered(folder / "sound").path / ENTROPY).read_bytes()))
    if change == "first is no array of one":
        arrays["dither.first"] = np.array([24, 24], np.int32)
    elif change == "first is too late":
        arrays["dither.first"] = np.array([49], np.int32)
    elif change == "first is negative":
        arrays["dither.first"] = np.array([-1], np.int32)
    elif change == "a table is missing":
        count = int(arrays["dither.lengths"][-1])
        arrays["dither.lengths"] = arrays["dither.lengths"][:-1]
        arrays["dither.minimums"] = arrays["dither.minimums"][:-1]
        arrays["dither.frequencies"] = arrays["dither.frequencies"][:-count]
    elif change == "no first":
        del arrays["dither.first"]
    elif change == "no minimums":
        del arrays["dither.minimums"]
    parts[ENTROPY] = arrays
    return write_bundle(folder / "broken", manifest_document(open_bundle(TINY).manifest), parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("first is no array of one", "must be 8 for each scale"),
        ("first is too late", "cannot be dithered"),
        ("first is negative", "cannot be dithered"),
        ("a table is missing", "must be 8 for each scale"),
        ("no first", "missing or unknown arrays, dither"),
        ("no minimums", "dither.minimums"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ModelDamaged, match=message):
        Codec(broken(tmp_path, change), threads=1).encode(Picture(pixels=sample(16, 16)), Quality(4))

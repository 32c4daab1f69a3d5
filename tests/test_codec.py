"""Whole files: reading gives what was written, whatever the tiles and strips, and nothing damaged gives a picture."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from regenerate import GOLDEN, latents, sample

from robustcodec import codec as codec_module
from robustcodec import transforms
from robustcodec.alpha import encode_alpha
from robustcodec.bundle import Bundle
from robustcodec.codec import Codec, codec_for_file
from robustcodec.container import Chunk, ChunkType, Limits, join_strip, pack, split_strip, unpack
from robustcodec.entropy import ideal_bits
from robustcodec.errors import (
    CorruptFile,
    FileFormatError,
    ImageError,
    LimitExceeded,
    ModelError,
    ModelNotFound,
    TargetError,
)
from robustcodec.images import Picture
from robustcodec.metrics import psnr
from robustcodec.rate import BitsPerPixel, FileSize, Psnr, Quality, Step
from robustcodec.tiling import Region

Pixels = NDArray[np.uint8]
Sample = Callable[..., Pixels]


def picture(height: int, width: int, seed: int = 0, **metadata: bytes) -> Picture:
    return Picture(pixels=sample(height, width, seed), **metadata)  # type: ignore[arg-type]


def noisy(height: int, width: int) -> Picture:
    return Picture(pixels=np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8))


@pytest.fixture
def small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_module, "STRIP_ABOVE", 1)
    monkeypatch.setattr(codec_module, "STRIP_ROWS", 64)


def header_of(data: bytes) -> Any:
    return unpack(data).header


def with_payload(data: bytes, index: int, content: bytes) -> bytes:
    """A file with another content of one strip, and right checksums of the container."""
    file = unpack(data)
    strips = [at for at, chunk in enumerate(file.chunks) if chunk.type == ChunkType.STRIP]
    chunks = list(file.chunks)
    chunks[strips[index]] = Chunk(ChunkType.STRIP, content)
    return pack(file.header, chunks)


# --- round trip ---------------------------------------------------------------------------------------------


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    seed=st.integers(0, 99),
    quality=st.floats(1, 6),
    icc=st.none() | st.binary(min_size=1, max_size=9),
    exif=st.none() | st.binary(min_size=1, max_size=9),
    xmp=st.none() | st.binary(min_size=1, max_size=9),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_decoding_gives_what_the_encoder_saw(
    codec: Codec, height: int, width: int, seed: int, quality: float, **metadata: Any
) -> None:
    given_picture = picture(height, width, seed, **metadata)
    encoded = codec.encode(given_picture, Quality(quality), measure=True)
    decoded = codec.decode(encoded.data)
    assert encoded.reconstruction is not None
    assert np.array_equal(decoded.pixels, encoded.reconstruction)
    assert decoded.pixels.shape == (height, width, 3)
    assert (decoded.icc, decoded.exif, decoded.xmp) == (given_picture.icc, given_picture.exif, given_picture.xmp)
    assert encoded.step == header_of(encoded.data).step == codec.bundle.manifest.step(quality)
    assert encoded.quality == pytest.approx(quality, abs=0.005)
    assert codec.encode(given_picture, Quality(quality)) == replace(encoded, reconstruction=None)


def test_a_picture_survives_recognisably(codec: Codec) -> None:
    given_picture = picture(128, 160, 3)
    finer = [codec.encode(given_picture, Quality(quality), measure=True) for quality in (1, 2.5, 4, 6)]
    fidelity = [psnr(given_picture.pixels, each.reconstruction) for each in finer]  # type: ignore[arg-type]
    assert fidelity[0] > 26 and fidelity == sorted(fidelity)
    sizes = [len(each.data) for each in finer]
    assert sizes == sorted(set(sizes))


def test_views_are_pictures_too(codec: Codec) -> None:
    pixels = sample(60, 50, 2)
    turned = pixels[::-1].transpose(1, 0, 2)
    assert codec.encode(Picture(pixels=turned)).data == codec.encode(Picture(pixels=turned.copy())).data


@pytest.mark.parametrize("transform", range(8))
def test_transforms_are_undone(codec: Codec, transform: int) -> None:
    """The table of docs/format.md, pixel by pixel; `read(i, j)` is p where c[i, j] comes from."""
    data = codec.encode(picture(20, 37, 4)).data
    coded = codec.decode(data).pixels
    file = unpack(data)
    height, width = (37, 20) if transform & 4 else (20, 37)
    shown = codec.decode(pack(replace(file.header, transform=transform, width=width, height=height), file.chunks))
    last_row, last_column = height - 1, width - 1
    source: dict[int, Callable[[int, int], tuple[int, int]]] = {
        0: lambda i, j: (i, j),
        1: lambda i, j: (i, last_column - j),
        2: lambda i, j: (last_row - i, j),
        3: lambda i, j: (last_row - i, last_column - j),
        4: lambda i, j: (j, i),
        5: lambda i, j: (j, last_column - i),
        6: lambda i, j: (last_row - j, i),
        7: lambda i, j: (last_row - j, last_column - i),
    }
    assert shown.pixels.shape == (height, width, 3)
    for i, j in np.ndindex(20, 37):
        assert np.array_equal(coded[i, j], shown.pixels[source[transform](i, j)])


# --- grey and alpha -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [Quality(4), Psnr(28), FileSize(1500)])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_grey_and_alpha(codec: Codec, channels: int, target: Any) -> None:
    """Alpha comes back exactly, grey as one channel, the mean of the three that the network gives."""
    alpha = np.minimum(sample(128, 160, 2)[..., :1], 160) // 32 * 51
    samples = np.concatenate([sample(128, 160, 3), alpha], axis=2)
    samples = samples[..., [[0], [0, 3], [0, 1, 2], [0, 1, 2, 3]][channels - 1]]
    given_picture = Picture.of(samples, icc=b"profile", xmp=b"xmp")
    encoded = codec.encode(given_picture, target, measure=True)
    decoded = codec.decode(encoded.data)
    header = header_of(encoded.data)
    assert header.grey == decoded.grey == (channels < 3)
    assert decoded.pixels.shape == (128, 160, 3)
    assert np.array_equal(decoded.pixels, encoded.reconstruction)  # type: ignore[arg-type]
    assert header.alpha == (channels in (2, 4))
    if header.alpha:
        assert np.array_equal(decoded.alpha, samples[..., -1])  # type: ignore[arg-type]
    if header.grey:
        file = unpack(encoded.data)
        colour = codec.decode(pack(replace(header, grey=False), file.chunks)).pixels
        assert np.abs(decoded.pixels[..., 0] - colour.mean(axis=2)).max() <= 1
    assert psnr(given_picture.pixels, decoded.pixels) > 24


def test_grey_is_nearer_than_its_colours(codec: Codec) -> None:
    given_picture = Picture.of(sample(96, 96, 3)[..., :1])
    data = codec.encode(given_picture).data
    file = unpack(data)
    colour = codec.decode(pack(replace(file.header, grey=False), file.chunks)).pixels
    assert psnr(given_picture.pixels, codec.decode(data).pixels) > psnr(given_picture.pixels, colour)


@pytest.mark.parametrize("transform", range(8))
def test_alpha_is_not_transformed(codec: Codec, transform: int) -> None:
    alpha = sample(20, 37, 5)[..., 0]
    alpha = alpha.reshape(37, 20) if transform & 4 else alpha
    file = unpack(codec.encode(picture(20, 37, 4)).data)
    header = replace(file.header, transform=transform, height=alpha.shape[0], width=alpha.shape[1], alpha=True)
    shown = codec.decode(pack(header, [*file.chunks, Chunk(ChunkType.ALPHA, encode_alpha(alpha))]))
    assert np.array_equal(shown.alpha, alpha)  # type: ignore[arg-type]


def test_damaged_alpha_gives_no_picture(codec: Codec) -> None:
    file = unpack(codec.encode(Picture(pixels=sample(20, 37, 4), alpha=sample(20, 37, 5)[..., 0])).data)
    chunks = [Chunk(each.type, b"\x09") if each.type == ChunkType.ALPHA else each for each in file.chunks]
    data = pack(file.header, chunks)
    with pytest.raises(CorruptFile, match="transparency cannot be read"):
        codec.decode(data)
    saved = codec.salvage(data)
    assert saved.lost == () and saved.picture.alpha is None
    assert saved.picture.notes == ("its transparency is lost",)


@pytest.mark.usefixtures("small_strips")
@pytest.mark.parametrize("grey", [False, True])
def test_regions_and_salvage_of_grey_and_alpha(codec: Codec, grey: bool) -> None:
    pixels, alpha = sample(150, 80, 4), sample(150, 80, 5)[..., 0]
    pixels = np.repeat(pixels[..., :1], 3, axis=2) if grey else pixels
    data = codec.encode(Picture(pixels=pixels, alpha=alpha, grey=grey)).data
    whole = codec.decode(data)
    part = codec.decode(data, region=Region(7, 60, 30, 50))
    assert np.array_equal(part.samples, whole.samples[60:110, 7:37])
    saved = codec.salvage(data).picture
    assert np.array_equal(saved.samples, whole.samples)


# --- size ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [8, 40])
def test_size_is_within_a_percent_of_the_ideal(codec: Codec, step: int) -> None:
    prepared = codec._prepare(noisy(512, 640))
    data = codec._code(prepared, step).data
    strip = prepared.strips[0]
    (y,) = latents(codec, data)[1]
    group = next(strip.conditions.schedule(step))
    bits = ideal_bits(y, group.table, codec._architecture.y_tables).sum()
    side_index = codec._architecture.side_index(*strip.y.shape[1:])
    bits += ideal_bits(strip.z, side_index, codec._architecture.z_tables).sum()
    assert bits / 8 < len(data) < bits / 8 * 1.01


def test_the_bits_that_tables_expect_are_said(codec: Codec) -> None:
    prepared = codec._prepare(noisy(96, 80))
    strip = prepared.strips[0]
    architecture = codec._architecture
    group = next(strip.conditions.schedule(40))
    indexes = (group.table, architecture.y_tables), (architecture.side_index(*strip.y.shape[1:]), architecture.z_tables)
    expected = sum(tables.entropies[index].sum() for index, tables in indexes)
    assert codec._code(prepared, 40).expected == pytest.approx(expected)
    assert codec.encode(noisy(96, 80), Step(40)).expected == pytest.approx(expected)


@pytest.mark.parametrize("target", [FileSize(300), BitsPerPixel(0.1), FileSize(700)])
def test_size_targets_are_met(codec: Codec, target: FileSize | BitsPerPixel) -> None:
    given_picture = picture(160, 200, 6)
    size = target.size if isinstance(target, FileSize) else int(target.value * 160 * 200 / 8)
    encoded = codec.encode(given_picture, target, measure=True)
    # words of four bytes are a larger part of such small files than a percent
    assert size - 8 <= len(encoded.data) <= size
    assert encoded.reconstruction is not None
    assert np.array_equal(codec.decode(encoded.data).pixels, encoded.reconstruction)


@pytest.mark.parametrize("decibels", [26.5, 28, 30, 31.7])
def test_fidelity_targets_are_met_and_measured_with_few_syntheses(
    codec: Codec, monkeypatch: pytest.MonkeyPatch, decibels: float
) -> None:
    coded, shown = count(monkeypatch, codec, "_code"), count(monkeypatch, codec, "_reconstruct")
    given_picture = picture(128, 160, 3)
    encoded = codec.encode(given_picture, Psnr(decibels), measure=True)
    assert 2 <= len(shown) == len(coded) <= 6
    assert encoded.reconstruction is not None
    assert np.array_equal(codec.decode(encoded.data).pixels, encoded.reconstruction)
    assert abs(psnr(given_picture.pixels, encoded.reconstruction) - decibels) <= 0.1
    assert codec.encode(given_picture, Psnr(decibels)).reconstruction is None


def test_the_file_that_a_search_ends_with_is_not_made_again(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    coded, shown = count(monkeypatch, codec, "_code"), count(monkeypatch, codec, "_reconstruct")
    codec.encode(picture(160, 200, 6), FileSize(700), measure=True)
    assert len({step for _, step, _ in coded}) == len(coded) > 1
    assert len(shown) == 1


def count(monkeypatch: pytest.MonkeyPatch, codec: Codec, method: str) -> list[tuple[Any, ...]]:
    """Arguments of each call of a method from now on."""
    calls = []
    call = getattr(codec, method)
    monkeypatch.setattr(codec, method, lambda *arguments: calls.append(arguments) or call(*arguments))
    return calls


@pytest.mark.parametrize(
    ("target", "says"), [(FileSize(38), "at least"), (BitsPerPixel(0.01), "at least"), (Psnr(70), "at most")]
)
def test_targets_out_of_reach_are_refused(codec: Codec, target: Any, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        codec.encode(picture(64, 64), target)


# --- tiles and strips ---------------------------------------------------------------------------------------


def test_tiles_do_not_show(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiled networks add up floats in another order: a latent may differ only where it is almost a half."""
    given_picture = picture(150, 210, 8)
    step = codec.bundle.manifest.step(5)
    whole = transforms.analyse(codec._architecture, given_picture.pixels, 0, 150) * np.float32(1024 / step)
    data = codec.encode(given_picture, Quality(5)).data
    shown = codec.decode(data).pixels
    for size in (64, 80):
        monkeypatch.setattr(transforms, "TILE", size)
        tiled = transforms.analyse(codec._architecture, given_picture.pixels, 0, 150) * np.float32(1024 / step)
        differs = np.rint(tiled) != np.rint(whole)
        assert np.abs(np.abs(whole - np.rint(whole)) - 0.5)[differs].max(initial=0) < 1e-4
        assert np.abs(tiled - whole).max() < 1e-3
        assert np.abs(codec.decode(data).pixels.astype(int) - shown).max() <= 1


def test_pictures_are_cut_into_strips_above_a_size(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_module, "STRIP_ROWS", 64)
    for above, pixels, strips in (
        (64 * 70 - 1, (70, 64), 2),
        (64 * 70, (70, 64), 1),
        (0, (64, 64), 1),
        (0, (65, 1), 2),
    ):
        monkeypatch.setattr(codec_module, "STRIP_ABOVE", above)
        data = codec.encode(picture(*pixels)).data
        assert len(unpack(data).payload) == strips
        assert codec.decode(data).pixels.shape == (*pixels, 3)


@pytest.mark.usefixtures("small_strips")
def test_strips_are_independent(codec: Codec) -> None:
    """A strip of another picture changes its own latents, and pixels as far as synthesis reads beyond it."""
    one, other = (codec.encode(picture(192, 48, seed), Quality(4)).data for seed in (1, 2))
    mixed = with_payload(one, 1, unpack(other).payload[1])
    for found, first, middle in zip(latents(codec, mixed), latents(codec, one), latents(codec, other), strict=True):
        assert np.array_equal(found[0], first[0]) and np.array_equal(found[2], first[2])
        assert np.array_equal(found[1], middle[1])
    shown, before, taken = (codec.decode(data).pixels for data in (mixed, one, other))
    assert np.array_equal(shown[:32], before[:32]) and np.array_equal(shown[160:], before[160:])
    assert np.array_equal(shown[96:97], taken[96:97])
    assert not np.array_equal(shown[64:128], before[64:128])


@pytest.mark.usefixtures("small_strips")
def test_strips_change_no_picture_but_at_their_edges(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    given_picture = picture(150, 80, 9)
    cut = codec.encode(given_picture, Quality(6), measure=True)
    monkeypatch.setattr(codec_module, "STRIP_ABOVE", 1 << 22)
    whole = codec.encode(given_picture, Quality(6), measure=True)
    assert header_of(cut.data).strip_rows == 64 and header_of(whole.data).strip_rows == 0
    # the latents of y are those of the whole picture: strips only code them with other probabilities
    assert np.array_equal(cut.reconstruction, whole.reconstruction)  # type: ignore[arg-type]


# --- hostile and damaged ------------------------------------------------------------------------------------


def prepared_with(codec: Codec, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Any:
    """A small picture whose latents are changed after the analysis."""
    prepared = codec._prepare(picture(48, 64))
    strip = prepared.strips[0]
    return replace(prepared, strips=(replace(strip, y=change(strip.y.copy()).astype(np.float32)),))


@pytest.mark.parametrize("step", [8, 1024, 65535])
def test_latents_are_cut_off_and_survive(codec: Codec, step: int) -> None:
    def change(y: NDArray[np.float32]) -> NDArray[np.float32]:
        y[0], y[1], y[2, 0, 0] = 1e30, -1e30, 32767.4 * step / 1024
        return y

    data = codec._code(prepared_with(codec, change), step).data
    (y,) = latents(codec, data)[1]
    assert (y[0] == 32767).all() and (y[1] == -32767).all() and y[2, 0, 0] == 32767


def test_latents_that_decode_to_no_number_are_refused(codec: Codec) -> None:
    """What synthesis makes of the largest latents is infinite, and then no number."""
    noise = np.random.default_rng(0).normal(size=(12, 3, 4))
    data = codec._code(prepared_with(codec, lambda y: noise * 1e9), 65535).data
    with pytest.raises(CorruptFile, match="no finite picture"):
        codec.decode(data)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([np.nan], None),
        ([0.5, np.inf], None),
        ([np.inf, -np.inf], None),
        ([3e38, -3e38], [255, 0]),
        ([-0.001, 0.0, 0.0019, 0.002, 0.5, 0.999, 1.0, 1.01], [0, 0, 0, 1, 128, 255, 255, 255]),
    ],
)
def test_pixels_of_any_number(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch, values: list[float], shown: list[int] | None
) -> None:
    codec = Codec(tiny, threads=1)
    x = np.resize(np.array(values, np.float32), (3, 16, 16))
    monkeypatch.setattr(codec._architecture, "synthesise", lambda y_hat: x)
    data = codec.encode(picture(16, 16)).data
    if shown is None:
        with pytest.raises(CorruptFile, match="no finite picture"):
            codec.decode(data)
    else:
        expected = np.resize(np.array(shown, np.uint8), (3, 16, 16))
        assert np.array_equal(codec.decode(data).pixels, expected.transpose(1, 2, 0))


def test_an_analysis_without_finite_latents_is_an_error(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec(tiny, threads=1)
    monkeypatch.setattr(codec._architecture, "analyse", lambda x: np.full((12, 1, 1), np.nan, np.float32))
    with pytest.raises(ImageError, match="no finite latents"):
        codec.encode(picture(16, 16))


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_damaged_strips_give_no_picture(codec: Codec, draw: st.DataObject) -> None:
    """With right checksums of the container, so that the entropy decoder meets the damage."""
    data = (GOLDEN / "strips.rbc").read_bytes()
    index = draw.draw(st.integers(0, 2))
    content = bytearray(unpack(data).payload[index])
    kind = draw.draw(st.sampled_from(["flip", "cut", "extend", "replace"]))
    if kind == "flip":
        content[draw.draw(st.integers(0, len(content) - 1))] ^= draw.draw(st.integers(1, 255))
    elif kind == "cut":
        del content[draw.draw(st.integers(4, len(content) - 1)) :]
    elif kind == "extend":
        content += draw.draw(st.binary(min_size=1, max_size=8))
    else:
        content[4:] = draw.draw(st.binary(max_size=400))
    with pytest.raises(CorruptFile):
        codec.decode(with_payload(data, index, bytes(content)))


def test_swapped_strips_and_other_sizes_are_refused(codec: Codec) -> None:
    data = (GOLDEN / "strips.rbc").read_bytes()
    file = unpack(data)
    with pytest.raises(CorruptFile):
        codec.decode(with_payload(data, 2, file.payload[1]))
    for changes in ({"step": file.header.step + 1}, {"width": 50}, {"height": 170}, {"height": 175, "width": 48}):
        with pytest.raises(CorruptFile):
            codec.decode(pack(replace(file.header, **changes), file.chunks))


def test_other_probabilities_are_found_out(codec: Codec) -> None:
    """A message that decodes to its end but to other latents than the checksum's."""
    data = codec.encode(picture(32, 32)).data
    crc, message = split_strip(unpack(data).payload[0])
    with pytest.raises(CorruptFile, match="checksum"):
        codec.decode(with_payload(data, 0, join_strip(crc ^ 1, message)))
    assert crc == zlib.crc32(b"".join(array[0].astype("<i2").tobytes() for array in latents(codec, data)))


def test_every_flipped_bit_of_a_small_file_is_refused(codec: Codec) -> None:
    data = (GOLDEN / "one-pixel.rbc").read_bytes()
    for at, bit in np.ndindex(len(data), 8):
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        with pytest.raises(FileFormatError):
            codec.decode(bytes(damaged))


# --- what a codec does not take -----------------------------------------------------------------------------


def test_another_model_is_named(codec: Codec, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    file = unpack(codec.encode(picture(16, 16)).data)
    foreign = pack(replace(file.header, fingerprint=bytes(8)), file.chunks)
    with pytest.raises(ModelError, match="0000000000000000"):
        codec.decode(foreign)
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tmp_path))
    with pytest.raises(ModelNotFound, match="0000000000000000"):
        codec_for_file(foreign)
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(codec.bundle.path.parent))
    assert codec_for_file(pack(file.header, file.chunks)).bundle.id == "hyper-tiny"


def test_limits(codec: Codec) -> None:
    given_picture = picture(17, 16, icc=b"12345")
    data = codec.encode(given_picture).data
    for limits in (Limits(max_pixels=511), Limits(max_metadata=4)):
        with pytest.raises(LimitExceeded):
            codec.encode(given_picture, limits=limits)
        with pytest.raises(LimitExceeded):
            codec.decode(data, limits)
    limits = Limits(max_pixels=512, max_metadata=5)
    assert codec.decode(codec.encode(given_picture, limits=limits).data, limits).icc == b"12345"

"""Payloads that need no model: exact where they promise it, bounded in size, and of the size that the header says."""

import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from regenerate import PLAIN, sample

from robustcodec import codec as codec_module
from robustcodec import images, layout, plain
from robustcodec.alpha import encode_samples
from robustcodec.bundle import Bundle
from robustcodec.codec import Codec, codec_for_file, encode_plain
from robustcodec.container import Chunk, ChunkType, Limits, Payload, pack, unpack
from robustcodec.errors import CorruptFile, LimitExceeded, RobustcodecError
from robustcodec.images import Picture
from robustcodec.metrics import psnr
from robustcodec.tiling import Region

Pixels = NDArray[np.uint8]


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)


def raw(picture: Picture) -> int:
    return picture.samples.size


@pytest.fixture
def small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_AREA", 1)


KINDS: dict[str, Callable[[int, int], Picture]] = {
    "colour": lambda h, w: Picture(pixels=sample(h, w, 4)),
    "grey": lambda h, w: Picture.of(sample(h, w, 4)[..., :1]),
    "grey and alpha": lambda h, w: Picture.of(sample(h, w, 4)[..., :2]),
    "everything": lambda h, w: Picture.of(
        np.concatenate([sample(h, w, 4), sample(h, w, 5)[..., :1]], axis=2), icc=b"i", exif=b"e", xmp=b"x"
    ),
    "noise": lambda h, w: Picture.of(noise(h, w, 3)),
    "grey noise": lambda h, w: Picture.of(noise(h, w, 1)),
    "noise and alpha": lambda h, w: Picture.of(noise(h, w, 4)),
    "black": lambda h, w: Picture(pixels=np.zeros((h, w, 3), np.uint8)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (70, 9), (40, 40), (200, 150)])
def test_lossless_files_are_exact_and_bounded(codec: Codec, kind: str, size: tuple[int, int]) -> None:
    picture = KINDS[kind](*size)
    encoded = encode_plain(picture, None)
    assert encoded is not None and encoded.quality is None and encoded.step == 0
    decoded = codec.decode(encoded.data)
    assert np.array_equal(decoded.samples, picture.samples)
    assert np.array_equal(encoded.reconstruction, picture.pixels)  # type: ignore[arg-type]
    assert (decoded.grey, decoded.icc, decoded.exif, decoded.xmp) == (
        picture.grey,
        picture.icc,
        picture.exif,
        picture.xmp,
    )
    metadata = sum(len(part) + 6 for part in (picture.icc, picture.exif, picture.xmp) if part)
    assert len(encoded.data) - metadata <= raw(picture) * 1.001 + 64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (70, 9), (200, 150)])
@pytest.mark.parametrize("avif", [True, False])
def test_classical_files_decode_to_what_was_measured(
    codec: Codec, monkeypatch: pytest.MonkeyPatch, kind: str, size: tuple[int, int], avif: bool
) -> None:
    picture = KINDS[kind](*size)
    if not avif:
        monkeypatch.delitem(images.Image.SAVE, "AVIF")
    encoded = encode_plain(picture, 70)
    assert encoded is not None and encoded.reconstruction is not None
    assert unpack(encoded.data).payload[0].startswith(b"\x0a" if avif else b"RIFF")
    decoded = codec.decode(encoded.data)
    assert np.array_equal(decoded.pixels, encoded.reconstruction)
    assert decoded.grey == picture.grey
    if kind in ("colour", "grey", "black") and min(size) > 9:
        assert psnr(decoded.pixels, picture.pixels) > 30


@pytest.mark.usefixtures("small_strips")
@pytest.mark.parametrize("quality", [None, 90])
@pytest.mark.parametrize("grey", [False, True])
def test_strips_regions_and_salvage(codec: Codec, quality: int | None, grey: bool) -> None:
    picture = Picture.of(sample(150, 80, 2)[..., : 1 if grey else 3])
    encoded = encode_plain(picture, quality)
    assert encoded is not None
    file = unpack(encoded.data)
    assert len(file.payload) == 3
    whole = codec.decode(encoded.data)
    assert np.array_equal(whole.pixels, encoded.reconstruction)  # type: ignore[arg-type]
    part = codec.decode(encoded.data, region=Region(7, 60, 30, 50))
    assert np.array_equal(part.samples, whole.samples[60:110, 7:37])
    assert np.array_equal(codec.salvage(encoded.data).picture.samples, whole.samples)
    chunks = list(file.chunks)
    chunks[1] = Chunk(chunks[1].type, b"no picture")
    damaged = pack(file.header, chunks)
    with pytest.raises(CorruptFile):
        codec.decode(damaged)
    saved = codec.salvage(damaged)
    assert saved.inexact == 0
    assert saved.lost == (Region(0, 64, 80, 64),)
    assert np.array_equal(saved.picture.samples[:64], whole.samples[:64])
    assert (saved.picture.samples[64:128] == 128).all()


def test_wide_pictures_are_transposed(codec: Codec) -> None:
    picture = Picture(pixels=sample(3, 17000, 2))
    encoded = encode_plain(picture, None)
    assert encoded is not None
    header = unpack(encoded.data).header
    assert (header.transform, header.coded_width) == (4, 3)
    assert np.array_equal(codec.decode(encoded.data).pixels, picture.pixels)


def test_a_picture_that_no_classical_codec_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_module, "write_classical", lambda *_: None)
    assert encode_plain(Picture(pixels=sample(9, 9)), 50) is None


def test_no_model_is_needed(monkeypatch: pytest.MonkeyPatch, tiny: Bundle) -> None:
    """Neither the model that wrote other files nor any network is opened."""
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tiny.path.parent))
    monkeypatch.setattr(codec_module, "open_architecture", None)
    encoded = encode_plain(Picture(pixels=sample(20, 30)), None)
    assert encoded is not None
    assert np.array_equal(codec_for_file(encoded.data).decode(encoded.data).pixels, sample(20, 30))


def test_limits() -> None:
    picture = Picture(pixels=sample(20, 30))
    with pytest.raises(LimitExceeded):
        encode_plain(picture, None, Limits(max_pixels=1000))


def contents() -> dict[str, bytes]:
    """What a chunk of a 24 x 16 picture may hold."""
    pixels = sample(16, 24, 1)
    webp, lossy = images.compress(pixels, "WebP", None), images.compress(pixels, "WebP", 60)
    av1 = plain.write_classical(pixels, 60)
    assert webp and lossy and av1
    return {"lossless WebP": webp, "lossy WebP": lossy, "AV1": av1, "deflate": encode_samples(pixels)}


def read(name: str, data: bytes, height: int = 16, width: int = 24) -> Pixels:
    reader = plain.read_lossless if name in ("lossless WebP", "deflate") else plain.read_classical
    return reader(data, height, width, 3)


@pytest.mark.parametrize("name", contents())
def test_only_a_picture_of_the_right_size_is_decoded(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    data = contents()[name]
    assert read(name, data).shape == (16, 24, 3)

    def decoding(*_: object) -> Pixels:
        raise AssertionError("no decoder may see this")

    monkeypatch.setattr(plain, "decompress", decoding)
    turned = [] if name == "deflate" else [(24, 16)]  # as many samples
    for height, width in [*turned, (16, 25), (17, 24), (15, 24)]:
        with pytest.raises(CorruptFile):
            read(name, data, height, width)
    for changed in (data + b"\0", data[:-1], b"", data[:20], data + data):
        with pytest.raises(CorruptFile):
            read(name, changed)


def test_each_payload_takes_its_own_formats_only() -> None:
    made = contents()
    for name, data in made.items():
        other = plain.read_classical if name in ("lossless WebP", "deflate") else plain.read_lossless
        with pytest.raises(CorruptFile):
            other(data, 16, 24, 3)


def test_grey_and_colour_are_not_confused() -> None:
    for channels in (1, 3):
        data = plain.write_classical(sample(16, 24, 1)[..., :channels], 60)
        assert data is not None
        with pytest.raises(CorruptFile):
            plain.read_classical(data, 16, 24, 4 - channels)


def test_what_could_hide_a_larger_picture_is_refused() -> None:
    """A second sequence header or frame, extended WebP, an animation, a container with a picture of its own."""
    made = contents()
    large = plain.write_classical(sample(64, 64, 1), 60)
    avif = images.compress(sample(16, 24, 1), "AVIF", 60)
    assert large and avif
    extended = b"RIFF" + struct.pack("<I", 4 + 18) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(10)
    for data in (made["AV1"] + large, large + made["AV1"], avif, extended, made["AV1"].replace(b"\x0a", b"\x0e", 1)):
        with pytest.raises(CorruptFile):
            plain.read_classical(data, 16, 24, 3)


@given(st.sampled_from(sorted(contents())), st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_damage_gives_a_picture_or_an_error_of_ours(name: str, data: st.DataObject) -> None:
    content = bytearray(contents()[name])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert read(name, bytes(content)).shape == (16, 24, 3)
    except RobustcodecError as error:
        assert isinstance(error, CorruptFile)


@pytest.mark.parametrize("transform", range(8))
def test_pictures_are_coded_under_every_transform(codec: Codec, transform: int) -> None:
    picture = Picture(pixels=sample(40, 57, 3), alpha=sample(40, 57, 5)[..., 0])
    encoded = codec.encode(picture, measure=True, transform=transform)
    header = unpack(encoded.data).header
    assert header.transform == transform and (header.width, header.height) == (57, 40)
    decoded = codec.decode(encoded.data)
    assert np.array_equal(decoded.pixels, encoded.reconstruction)  # type: ignore[arg-type]
    assert np.array_equal(decoded.alpha, picture.alpha)  # type: ignore[arg-type]
    assert psnr(decoded.pixels, picture.pixels) > 26
    # the same as turning the picture before and the result after
    turned = codec.encode(Picture(pixels=layout.transformed(picture.pixels, transform)), measure=True)
    assert turned.reconstruction is not None
    assert np.array_equal(layout.transformed(decoded.pixels, transform), turned.reconstruction)


def test_kept_latents_are_those_of_the_file(codec: Codec) -> None:
    """What was measured is what reading the file gives."""
    picture = Picture(pixels=noise(80, 64, 3))
    written = codec._code(codec._prepare(picture), 40)
    (kept,) = written.latents
    assert np.array_equal(kept, codec._read_strip(unpack(written.data).payload[0], 0, unpack(written.data).header))
    assert np.array_equal(codec._reconstruct(written), codec._reconstruct(replace(written, latents=())))


def test_payload_and_chunks_agree(codec: Codec) -> None:
    encoded = encode_plain(Picture(pixels=sample(20, 30)), None)
    assert encoded is not None
    file = unpack(encoded.data)
    wrong = pack(
        replace(file.header, payload=Payload.CLASSICAL), [Chunk(ChunkType.CLASSICAL, each) for each in file.payload]
    )
    with pytest.raises(CorruptFile):
        codec.decode(wrong)


def test_files_of_this_release_stay_readable(codec: Codec) -> None:
    """Whole files as they were written once, one of each kind; a decoder of AV1 may be off by a level."""
    lossy, lossless = ("av1", "av1-grey", "av1-strips", "webp"), ("webp-lossless", "lossless-strips", "deflate")
    for name in (*lossy, *lossless):
        decoded = codec.decode((PLAIN / f"{name}.rbc").read_bytes())
        expected = images.read_picture((PLAIN / f"{name}.png").read_bytes(), 1 << 20, as_is=True)
        assert decoded.grey == expected.grey
        assert np.abs(decoded.samples.astype(int) - expected.samples).max() <= (name in lossy), name

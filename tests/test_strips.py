"""Large pictures: strips and tiles never show, regions are what the whole has, and strips survive one another."""

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from regenerate import CHENG, GOLDEN, sample

from robustcodec import codec as codec_module
from robustcodec import transforms
from robustcodec.architectures import hyper, hyperprior
from robustcodec.bundle import open_bundle
from robustcodec.codec import Codec, strip_rows
from robustcodec.container import (
    MAX_STRIP_PIXELS,
    Chunk,
    ChunkType,
    Header,
    Limits,
    Payload,
    join_strip,
    pack,
    split_strip,
    unpack,
)
from robustcodec.data import SAMPLE
from robustcodec.errors import CorruptFile, LimitExceeded, NotRobustcodec, UsageError
from robustcodec.images import Picture, read_picture
from robustcodec.metrics import psnr
from robustcodec.rate import STEP_UNIT, FileSize, Psnr, Quality
from robustcodec.salvage import recover
from robustcodec.tiling import Region

ROOT = Path(__file__).parent.parent
Pixels = NDArray[np.uint8]
METADATA: dict[str, Any] = {"icc": b"a profile", "exif": b"II*\x00" + bytes(8), "xmp": b"<x:xmpmeta/>"}


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips and tiles of 64 pixels, windows of the hyper synthesis of 128."""
    monkeypatch.setattr(codec_module, "STRIP_ABOVE", 1)
    monkeypatch.setattr(codec_module, "STRIP_ROWS", 64)
    monkeypatch.setattr(transforms, "TILE", 64)
    monkeypatch.setattr(hyper, "_WINDOW", 2)


def turned(data: bytes, transform: int) -> bytes:
    """The same coded picture, shown another way round."""
    file = unpack(data)
    width, height = file.header.width, file.header.height
    if transform & 4:
        width, height = height, width
    return pack(replace(file.header, transform=transform, width=width, height=height), file.chunks)


def with_strip(data: bytes, index: int, content: bytes) -> bytes:
    """Another content of one strip, with right checksums of the container."""
    file = unpack(data)
    at = index + file.header.icc
    return pack(file.header, [*file.chunks[:at], Chunk(ChunkType.STRIP, content), *file.chunks[at + 1 :]])


@pytest.fixture(scope="module")
def ordinary() -> Codec:
    """A codec of a model of the usual size, on one thread."""
    return Codec(open_bundle(ROOT / "weights" / "hyper-base"), threads=1)


def photograph() -> Pixels:
    return read_picture(SAMPLE.read_bytes(), 1 << 20).pixels


# --- one strip at a time ------------------------------------------------------------------------------------


def test_strips_of_wide_pictures_are_lower() -> None:
    assert strip_rows(4096, 1024) == 0
    assert strip_rows(4096, 1025) == strip_rows(16384, 1025) == 1024
    assert strip_rows(16385, 1000) == 960
    assert strip_rows(2**18, 65) == strip_rows(2**26, 65) == 64
    assert strip_rows(2**18, 64) == strip_rows(2**26, 64) == 0
    assert strip_rows(1, 2**22) == 0 and strip_rows(1, 2**22 + 1) == 1024


@given(width=st.integers(1, 2**26), height=st.integers(1, 2**26))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_every_picture_has_strips_that_a_header_can_say(width: int, height: int) -> None:
    rows = strip_rows(width, height)
    header = Header(width=width, height=height, payload=Payload.NETWORK, step=8, strip_rows=rows)
    assert header.num_strips == 1 or width * height > 2**22
    assert len(header.rows_of_strip(0)) * width <= MAX_STRIP_PIXELS or len(header.rows_of_strip(0)) <= 64


def test_latents_of_a_strip_are_those_of_the_picture(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit where the tiles are the same; elsewhere sums of another order differ in the last digits."""
    pixels = sample(300, 200, 1)
    architecture = codec._architecture
    for tile, exact in ((64, True), (128, True), (1024, False)):
        monkeypatch.setattr(transforms, "TILE", tile)
        whole = transforms.analyse(architecture, pixels, 0, 300)
        for top in range(0, 300, 128):
            bottom = min(top + 128, 300)
            part = transforms.analyse(architecture, pixels, top, bottom)
            expected = whole[:, top // 16 : -(-bottom // 16)]
            assert part.shape == expected.shape
            assert np.abs(part - expected).max() <= (0 if exact else 1e-4)


@pytest.mark.parametrize("quality", [1, 4, 6])
@pytest.mark.parametrize("model", ["tiny", "ordinary"])
def test_latents_round_as_in_the_whole_picture_but_beside_a_half(
    codec: Codec, ordinary: Codec, monkeypatch: pytest.MonkeyPatch, model: str, quality: int
) -> None:
    """Symbols of strips and tiles of 128 against those of the picture at once, of odd size, counted."""
    used = codec if model == "tiny" else ordinary
    pixels = np.ascontiguousarray(photograph()[:301, :421])
    scale = np.float32(STEP_UNIT / used.bundle.manifest.step(quality))
    whole = transforms.analyse(used._architecture, pixels, 0, 301) * scale
    monkeypatch.setattr(transforms, "TILE", 128)
    strips = [transforms.analyse(used._architecture, pixels, top, min(top + 128, 301)) for top in (0, 128, 256)]
    other = np.rint(np.concatenate(strips, axis=1) * scale) != np.rint(whole)
    assert other.sum() <= 3  # none here; a few are possible where sums have another order
    assert (np.abs(np.abs(whole[other] % 1) - 0.5) < 1e-4).all()


@given(height=st.integers(1, 60), width=st.integers(1, 60), step=st.sampled_from([8, 700, 65535]))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_windows_of_the_hyper_synthesis_are_exact(codec: Codec, height: int, width: int, step: int) -> None:
    architecture = codec._architecture
    generator = np.random.default_rng(height * 100 + width)
    z = generator.integers(-32767, 32768, architecture.side_index(height, width).shape).astype(np.int32)
    whole = next(architecture.conditions(z, height, width).schedule(step)).table
    for window in (1, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hyper, "_WINDOW", window)
            parts = next(architecture.conditions(z, height, width).schedule(step)).table
        assert np.array_equal(parts, whole)


def test_side_information_of_wide_strips_comes_in_parts(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    y = transforms.analyse(codec._architecture, sample(64, 700, 2), 0, 64)
    whole = codec._architecture.side_information(y)
    monkeypatch.setattr(hyperprior, "_ANALYSED", 8)
    parts = codec._architecture.side_information(y)
    assert parts.shape == whole.shape
    assert (parts != whole).mean() < 0.01  # a half may round either way


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("target", [Quality(4), FileSize(900), Psnr(25)])
def test_strips_are_analysed_once_however_many_steps_are_tried(
    codec: Codec, monkeypatch: pytest.MonkeyPatch, target: Quality | FileSize | Psnr
) -> None:
    analysed = []
    analyse = codec_module.analyse

    def noted(*arguments: Any) -> Any:
        analysed.append(arguments[2:])
        return analyse(*arguments)

    monkeypatch.setattr(codec_module, "analyse", noted)
    encoded = codec.encode(Picture(pixels=sample(200, 100, 3)), target, measure=True)
    assert analysed == [(0, 64), (64, 128), (128, 192), (192, 200)]
    assert np.array_equal(encoded.reconstruction, codec.decode(encoded.data).pixels)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_tiles")
def test_a_decoder_holds_the_strips_that_a_tile_sees_and_no_more(codec: Codec) -> None:
    data = codec.encode(Picture(pixels=sample(500, 40, 3))).data
    read = codec_module._Rows(lambda index: np.full((1, 4, 1), index, np.int32), 4)
    seen = []
    for first, last in ((0, 6), (2, 10), (6, 14), (28, 32)):
        rows = read(first, last)
        assert rows[0, :, 0].tolist() == [row // 4 for row in range(first, last)]
        seen.append(sorted(read._held))
    assert seen == [[0, 1], [0, 1, 2], [1, 2, 3], [7]]
    assert codec.decode(data).pixels.shape == (500, 40, 3)


@pytest.mark.parametrize("model", ["tiny", "ordinary"])
def test_strip_borders_do_not_show(codec: Codec, ordinary: Codec, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """A picture in strips is the picture at once, and the PSNR across each border shows none."""
    used = codec if model == "tiny" else ordinary
    pixels = np.ascontiguousarray(photograph()[100:356, 200:360])
    monkeypatch.setattr(codec_module, "STRIP_ROWS", 64)
    shown = []
    for above in (1 << 22, 1):
        monkeypatch.setattr(codec_module, "STRIP_ABOVE", above)
        data = used.encode(Picture(pixels=pixels), Quality(3)).data
        shown.append(used.decode(data).pixels)
    assert unpack(data).header.num_strips == 4
    assert (np.abs(shown[0].astype(int) - shown[1]) > 1).mean() < 0.01  # none here
    for border in (64, 128, 192):
        beside = slice(border - 2, border + 2)
        at_once, in_strips = (psnr(pixels[beside], each[beside]) for each in shown)
        assert in_strips == pytest.approx(at_once, abs=0.01)


def test_strip_borders_of_cheng_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The means that latents are rounded about are a strip's own, so that errors are others, but no larger."""
    used = Codec(open_bundle(CHENG), threads=1)
    pixels = np.ascontiguousarray(photograph()[100:356, 200:360])
    monkeypatch.setattr(codec_module, "STRIP_ROWS", 64)
    shown = []
    for above in (1 << 22, 1):
        monkeypatch.setattr(codec_module, "STRIP_ABOVE", above)
        shown.append(used.decode(used.encode(Picture(pixels=pixels), Quality(3)).data).pixels)
    at_once, in_strips = (psnr(pixels, each) for each in shown)
    assert in_strips == pytest.approx(at_once, abs=0.05) and not np.array_equal(*shown)
    beside = [row for border in (64, 128, 192) for row in range(border - 2, border + 2)]
    at_once, in_strips = (psnr(pixels[beside], each[beside]) for each in shown)
    assert in_strips == pytest.approx(at_once, abs=0.1)


# --- regions ------------------------------------------------------------------------------------------------


def in_strips(codec: Codec) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec_module, "STRIP_ABOVE", 1)
        patch.setattr(codec_module, "STRIP_ROWS", 64)
        return codec.encode(Picture(pixels=sample(300, 180, 6), **METADATA), Quality(5)).data


@pytest.fixture(scope="module")
def cut(codec: Codec) -> bytes:
    return in_strips(codec)


@pytest.fixture(scope="module")
def cheng() -> Codec:
    return Codec(open_bundle(CHENG), threads=1)


@pytest.fixture(scope="module")
def cut_cheng(cheng: Codec) -> bytes:
    return in_strips(cheng)


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_region_is_what_the_whole_picture_has_there(codec: Codec, cut: bytes, draw: st.DataObject) -> None:
    check_region(codec, cut, draw)


@given(st.data())
@settings(max_examples=20, deadline=None, derandomize=True)
def test_a_region_of_cheng_is_what_the_whole_picture_has(cheng: Codec, cut_cheng: bytes, draw: st.DataObject) -> None:
    check_region(cheng, cut_cheng, draw)


def check_region(codec: Codec, cut: bytes, draw: st.DataObject) -> None:
    data = turned(cut, draw.draw(st.integers(0, 7)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "TILE", 64)
        whole = codec.decode(data)
        x, y = draw.draw(st.integers(0, whole.width - 1)), draw.draw(st.integers(0, whole.height - 1))
        width, height = draw.draw(st.integers(1, whole.width - x)), draw.draw(st.integers(1, whole.height - y))
        part = codec.decode(data, region=Region(x, y, width, height))
    assert np.array_equal(part.pixels, whole.pixels[y : y + height, x : x + width])
    assert (part.icc, part.exif, part.xmp) == tuple(METADATA.values())


def test_a_region_reads_and_computes_what_it_needs(codec: Codec, cut: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "TILE", 64)
    read, tiles = [], []
    read_strip, synthesise = codec._read_strip, codec._architecture.synthesise
    monkeypatch.setattr(codec, "_read_strip", lambda *arguments: read.append(arguments[1]) or read_strip(*arguments))
    monkeypatch.setattr(codec._architecture, "synthesise", lambda y: tiles.append(y.shape) or synthesise(y))
    damaged = with_strip(cut, 0, b"not a strip at all")
    expected = codec.decode(cut).pixels[200:210, 70:90]
    read.clear()
    tiles.clear()
    assert np.array_equal(codec.decode(damaged, region=Region(70, 200, 20, 10)).pixels, expected)
    assert read == [2, 3, 4] and tiles == [(12, 8, 8)]
    # the checksum of a strip that is not needed is not looked at, the framing is
    at = damaged.index(b"not a strip")
    other = damaged[:at] + b"N" + damaged[at + 1 :]
    assert np.array_equal(codec.decode(other, region=Region(70, 200, 20, 10)).pixels, expected)
    with pytest.raises(CorruptFile):
        codec.decode(other)
    with pytest.raises(CorruptFile):
        codec.decode(other + b"x", region=Region(70, 200, 20, 10))


def test_regions_outside_the_picture_are_refused(codec: Codec, cut: bytes) -> None:
    for numbers in ((0, 0, 181, 1), (0, 0, 1, 301), (180, 0, 1, 1), (0, 300, 1, 1), (2**40, 0, 1, 1)):
        with pytest.raises(UsageError, match="does not lie within the picture of 180x300"):
            codec.decode(cut, region=Region(*numbers))
    for numbers in ((-1, 0, 1, 1), (0, -1, 1, 1), (0, 0, 0, 1), (0, 0, 1, 0)):
        with pytest.raises(UsageError, match="no pixels or begins outside"):
            Region(*numbers)


# --- salvage ------------------------------------------------------------------------------------------------


def chunk_ends(data: bytes) -> list[int]:
    """Where each section of a sound file ends."""
    return np.cumsum(list(unpack(data).sections.values())).tolist()


def lost_rows(codec: Codec, damaged: bytes) -> list[int]:
    """The strips of `cut` that are lost."""
    salvaged = codec.salvage(damaged)
    lost = [region.y // 64 for region in salvaged.lost]
    assert [(region.x, region.width) for region in salvaged.lost] == [(0, 180)] * len(lost)
    return lost


def test_a_sound_file_is_salvaged_whole(codec: Codec, cut: bytes) -> None:
    for transform in range(8):
        data = turned(cut, transform)
        salvaged, whole = codec.salvage(data), codec.decode(data)
        assert salvaged.lost == ()
        assert np.array_equal(salvaged.picture.pixels, whole.pixels)
        assert salvaged.picture.exif == whole.exif


@pytest.mark.parametrize("transform", [0, 1, 2, 5, 6])
def test_lost_strips_are_grey_and_others_right(codec: Codec, cut: bytes, transform: int) -> None:
    content = bytearray(unpack(cut).payload[2])
    content[9] ^= 1
    data = turned(with_strip(cut, 2, bytes(content)), transform)
    with pytest.raises(CorruptFile):
        codec.decode(data)
    whole = codec.decode(turned(cut, transform)).pixels
    salvaged = codec.salvage(data)
    (region,) = salvaged.lost
    assert salvaged.inexact == 32
    inside = np.zeros(whole.shape[:2], bool)
    inside[region.rows, region.columns] = True
    assert inside.sum() == 64 * 180
    assert (salvaged.picture.pixels[inside] == 128).all()
    near = np.zeros_like(inside)
    if transform & 4:
        near[:, max(0, region.x - 32) : region.x + region.width + 32] = True
    else:
        near[max(0, region.y - 32) : region.y + region.height + 32] = True
    assert np.array_equal(salvaged.picture.pixels[~near], whole[~near])
    assert not np.array_equal(salvaged.picture.pixels[near & ~inside], whole[near & ~inside])


def test_damage_costs_the_strips_that_it_meets(codec: Codec, cut: bytes) -> None:
    _, icc, *strips, exif, xmp = chunk_ends(cut)
    starts = [icc, *strips]
    for index in range(5):
        for at in (starts[index], starts[index] + 1, starts[index] + 20, strips[index] - 1):
            damaged = cut[:at] + bytes([cut[at] ^ 0x15]) + cut[at + 1 :]
            assert lost_rows(codec, damaged) == [index], at
        # taken out without a trace: any strip may be the missing one
        with pytest.raises(CorruptFile, match="no strip of it is intact and in its place"):
            codec.salvage(cut[: starts[index]] + cut[strips[index] :])
    # a hole in the middle: strips before it by their place from the front, behind it from the end
    assert lost_rows(codec, cut[: starts[1] + 9] + cut[starts[3] + 5 :]) == [1, 2, 3]
    assert lost_rows(codec, cut[: starts[2] + 9]) == [2, 3, 4]
    assert codec.salvage(cut[:exif]).picture.xmp is None and codec.salvage(cut[: xmp - 1]).lost == ()
    # two holes: nobody knows which strips lie between them
    two = cut[: starts[0] + 5] + cut[starts[1] : starts[2] + 5] + cut[starts[3] :]
    assert lost_rows(codec, two) == [0, 1, 2]


def test_strips_between_one_lost_each_are_kept(codec: Codec, cut: bytes) -> None:
    damaged = bytearray(cut)
    ends = chunk_ends(cut)
    for index in (1, 3):
        damaged[ends[index + 1] + 30] ^= 1
    assert lost_rows(codec, bytes(damaged)) == [1, 3]


def test_nothing_to_salvage(codec: Codec, cut: bytes) -> None:
    for damaged in (cut[:40], with_one_strip(codec)):
        with pytest.raises(CorruptFile, match="no strip of it is intact"):
            codec.salvage(damaged)
    for damaged, error in ((b"GIF89a", NotRobustcodec), (cut[:20], CorruptFile), (b"", NotRobustcodec)):
        with pytest.raises(error):
            codec.salvage(damaged)
    with pytest.raises(LimitExceeded):
        codec.salvage(cut, Limits(max_pixels=100))


def with_one_strip(codec: Codec) -> bytes:
    data = codec.encode(Picture(pixels=sample(30, 30))).data
    crc, message = split_strip(unpack(data).payload[0])
    return with_strip(data, 0, join_strip(crc ^ 1, message))


@given(st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_salvage_never_shows_a_wrong_strip(codec: Codec, cut: bytes, draw: st.DataObject) -> None:
    """Whatever is done to the bytes behind the header: strips found are the strips written, where they were."""
    at = draw.draw(st.integers(40, len(cut) - 1))
    size = draw.draw(st.integers(1, 3000))
    middle = draw.draw(st.sampled_from([b"", b"\x10", bytes(size), cut[at - 30 : at + size]]))
    damaged = cut[:at] + middle + cut[at + size :]
    if draw.draw(st.booleans()):
        damaged = damaged[: draw.draw(st.integers(40, len(damaged)))]
    found, strips = recover(damaged).strips, unpack(cut).payload
    assert all(one is None or one == other for one, other in zip(found, strips, strict=True))


def test_a_search_for_chunks_ends_soon() -> None:
    """Each byte might begin a chunk as long as the rest of the file: the effort is bounded, not quadratic."""
    data = (GOLDEN / "strips.rbc").read_bytes()
    hostile = data[: unpack(data).sections["header"]] + b"\x10\x80\x80\x08" * 100_000
    assert all(strip is None for strip in recover(hostile).strips)


def test_a_search_that_finds_chunks_ends_as_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind each chunk that claims most of the file stands an intact one, from which the search goes on."""
    data = (GOLDEN / "strips.rbc").read_bytes()
    small = bytes([ChunkType.EXIF, 1, 0])
    intact = small + zlib.crc32(small).to_bytes(4, "little")
    claim = bytes([ChunkType.EXIF, 0x80, 0x80, 1])  # 16384 bytes
    hostile = data[: unpack(data).sections["header"]] + (claim + intact) * 3000
    summed = 0

    def counted(part: bytes | memoryview, start: int = 0) -> int:
        nonlocal summed
        summed += len(part)
        return sum_of(part, start)

    sum_of = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", counted)
    assert all(strip is None for strip in recover(hostile).strips)
    assert summed < 65 * len(hostile)

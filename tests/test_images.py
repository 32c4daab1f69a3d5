import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from robustcodec import images
from robustcodec.errors import ImageError, LimitExceeded, OutputError
from robustcodec.images import (
    WRITABLE_FORMATS,
    Picture,
    allow_pixels,
    losses,
    read_picture,
    shrink,
    to_picture,
    to_pillow,
    write_picture,
)

LIMIT = 10**6
PIXELS = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(40) * 2, np.arange(56) * 2)[..., None].astype(np.uint8) + np.uint8([0, 9, 20])
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="1"/>'


def exif(orientation: int = 1) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "a maker with a name"
    tags[0x0132] = "2026:11:21 12:00:00"
    return tags.tobytes().removeprefix(b"Exif\0\0")


def save(image: Image.Image, format: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


RGB = Image.fromarray(PIXELS)
FULL = Picture(pixels=PIXELS, icc=ICC, exif=exif(), xmp=XMP)


@pytest.mark.parametrize("format", WRITABLE_FORMATS)
def test_written_pictures_are_read_back(format: str) -> None:
    back = read_picture(write_picture(FULL, format), LIMIT)
    if format in ("JPEG", "AVIF"):
        lossy = read_picture(write_picture(Picture(pixels=SMOOTH), format), LIMIT)
        assert np.abs(lossy.pixels.astype(int) - SMOOTH).max() <= 8
    else:
        assert np.array_equal(back.pixels, PIXELS)
    if format in ("BMP", "PPM"):
        assert (back.icc, back.exif, back.xmp) == (None, None, None)
    else:
        assert (back.icc, back.xmp) == (ICC, XMP)
        tags = Image.Exif()
        tags.load(back.exif)
        assert tags[0x010F] == "a maker with a name"
        assert tags.get(0x0112, 1) == 1
    assert back.notes == ()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WebP"])
def test_exif_survives_byte_for_byte(format: str) -> None:
    assert read_picture(write_picture(FULL, format), LIMIT).exif == exif()


@pytest.mark.parametrize("format", WRITABLE_FORMATS)
@pytest.mark.parametrize("picture", [FULL, Picture(pixels=PIXELS)], ids=["metadata", "plain"])
def test_truncated_files_are_refused(format: str, picture: Picture) -> None:
    data = write_picture(picture, format)
    for size in [*range(1, 40), *range(40, len(data) - 20, 211)]:
        with pytest.raises(ImageError):
            read_picture(data[:size], LIMIT)


@pytest.mark.parametrize("data", [b"", b"\0", b"hello, world", b"%!PS-Adobe", b"\x8bRB\n and more", b"RIFF1234WAVE"])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"empty|known format|robustcodec file"):
        read_picture(data, LIMIT)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_applied_and_reset(format: str, orientation: int) -> None:
    xmp = XMP.replace(b'"1"', b'"%d"' % orientation)
    options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format == "AVIF" else {}
    if format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    smooth = Image.fromarray(SMOOTH)
    turned = Image.Exif()
    turned.load(exif(orientation))
    data = save(smooth, format, exif=turned, xmp=xmp, **options)
    with Image.open(BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    picture = read_picture(data, LIMIT)
    assert np.array_equal(picture.pixels, expected)
    assert picture.pixels.shape[:2] == ((40, 56) if orientation < 5 else (56, 40))
    tags = Image.Exif()
    tags.load(picture.exif)
    assert tags.get(0x0112, 1) == 1
    assert tags[0x010F] == "a maker with a name"
    if format != "TIFF":
        assert picture.xmp == XMP


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("has_exif", [False, True])
def test_an_orientation_that_only_xmp_has_counts(format: str, orientation: int, has_exif: bool) -> None:
    xmp = XMP.replace(b'"1"', b'"%d"' % orientation)
    options: dict[str, object] = {"exif": Image.Exif(), "xmp": xmp}
    if has_exif:
        options["exif"][0x010F] = "a maker with a name"
    if format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    if format == "TIFF":
        options["exif"][700] = xmp
    data = save(Image.fromarray(SMOOTH), format, **options)
    with Image.open(BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    picture = read_picture(data, LIMIT)
    assert np.array_equal(picture.pixels, expected)
    assert (picture.width > picture.height) == (orientation < 5)
    if format != "TIFF":
        assert picture.xmp == XMP


def test_exif_says_the_orientation_where_both_do() -> None:
    picture = read_picture(save(RGB, "JPEG", exif=b"Exif\0\0" + exif(1), xmp=XMP.replace(b'"1"', b'"6"')), LIMIT)
    assert (picture.width, picture.height, picture.xmp) == (56, 40, XMP)


@pytest.mark.parametrize("order", ["<", ">"])
def test_only_the_orientation_changes(order: str) -> None:
    entries = struct.pack(f"{order}HHI4s", 0x010F, 2, 4, b"abc\0") + struct.pack(
        f"{order}HHIHH", 0x0112, 3, 1, 6, 0xBEEF
    )
    magic = b"II*\0" if order == "<" else b"MM\0*"
    block = magic + struct.pack(f"{order}IH", 8, 2) + entries + bytes(4) + b"maker note"
    picture = read_picture(save(RGB, "PNG", exif=block), LIMIT)
    position = block.index(entries) + 12 + 8
    assert picture.exif == block[:position] + struct.pack(f"{order}H", 1) + block[position + 2 :]
    assert np.array_equal(picture.pixels, np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    "block",
    [b"nonsense", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\x05\0" + bytes(12), exif(9), exif(0)],
)
def test_damaged_exif_is_left_out_with_a_note(block: bytes) -> None:
    picture = read_picture(save(RGB, "PNG", exif=block), LIMIT)
    assert picture.exif is None
    assert "EXIF" in picture.notes[0]
    assert np.array_equal(picture.pixels, PIXELS)


@pytest.mark.parametrize(
    ("image", "format"),
    [
        (RGB.convert("L"), "PNG"),
        (RGB.convert("L"), "TIFF"),
        (RGB.convert("1"), "PNG"),
        (RGB.convert("1"), "BMP"),
        (RGB.convert("1"), "TIFF"),
        (RGB.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        (RGB.convert("P", palette=Image.Palette.ADAPTIVE), "GIF"),
        (RGB.convert("L"), "PPM"),
        (RGB.convert("1"), "PPM"),
        (RGB.convert("CMYK"), "TIFF"),
        (RGB.convert("RGBA"), "PNG"),
        (RGB.convert("RGBA"), "TIFF"),
        (RGB.convert("LA"), "PNG"),
    ],
)
def test_other_kinds_become_rgb(image: Image.Image, format: str) -> None:
    picture = read_picture(save(image, format), LIMIT)
    assert np.array_equal(picture.pixels, np.asarray(image.convert("RGB")))


def test_cmyk_jpeg_becomes_rgb() -> None:
    picture = read_picture(save(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95), LIMIT)
    assert np.abs(picture.pixels.astype(int) - SMOOTH).max() < 40
    assert np.abs(picture.pixels.astype(int) - SMOOTH).mean() < 4


def test_profiles_of_other_colour_spaces_are_left_out() -> None:
    grey = ICC[:16] + b"GRAY" + ICC[20:]
    for profile in (grey, b"short"):
        picture = read_picture(save(RGB.convert("L"), "PNG", icc_profile=profile), LIMIT)
        assert picture.icc is None
        assert "colour profile" in picture.notes[0]


def transparent() -> list[tuple[Image.Image, str, dict[str, object]]]:
    rgba = RGB.convert("RGBA")
    rgba.putpixel((55, 39), (1, 2, 3, 254))
    grey = rgba.convert("LA")
    palette = RGB.quantize(16)
    used = palette.getpixel((0, 0))
    return [
        (rgba, "PNG", {}),
        (rgba, "WEBP", {"lossless": True}),
        (rgba, "AVIF", {"quality": 100}),
        (rgba, "TIFF", {}),
        (grey, "PNG", {}),
        (palette, "PNG", {"transparency": used}),
        (palette, "GIF", {"transparency": used}),
        (RGB, "PNG", {"transparency": tuple(int(v) for v in PIXELS[3, 4])}),
    ]


@pytest.mark.parametrize(("image", "format", "options"), transparent())
def test_transparency_is_refused(image: Image.Image, format: str, options: dict[str, object]) -> None:
    with pytest.raises(ImageError, match="transparent"):
        read_picture(save(image, format, **options), LIMIT)


def png(width: int, height: int, depth: int, colour: int, data: bytes, *more: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def tiff_rgb16() -> bytes:
    entries = [
        (256, 3, 1, 1),
        (257, 3, 1, 1),
        (258, 3, 3, 122),
        (262, 3, 1, 2),
        (273, 4, 1, 128),
        (277, 3, 1, 3),
    ]
    entries += [(278, 3, 1, 1), (279, 4, 1, 6)]
    block = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
    return block.ljust(122, b"\0") + struct.pack("<3H", 16, 16, 16) + bytes(6)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (png(1, 1, 16, 2, bytes(1) + struct.pack(">3H", 65535, 32768, 255)), (255, 128, 0)),
        (png(1, 1, 16, 6, bytes(1) + struct.pack(">4H", 65535, 32768, 255, 65535)), (255, 128, 0)),
        (png(1, 1, 16, 4, bytes(1) + struct.pack(">2H", 51400, 65535)), (200, 200, 200)),
        (png(1, 1, 16, 0, bytes(1) + struct.pack(">H", 51400)), (200, 200, 200)),
        (png(1, 1, 16, 0, bytes(1) + struct.pack(">H", 51400 + 200)), (201, 201, 201)),
        (b"P6 1 1 65535\n" + struct.pack(">3H", 51400, 65535, 0), (200, 255, 0)),
        (b"P6 1 1 256\n" + struct.pack(">3H", 256, 128, 0), (255, 128, 0)),
        (b"P5 1 1 65535\n" + struct.pack(">H", 51400), (200, 200, 200)),
        (b"P3 1 1 1000\n1000 200 0\n", (255, 51, 0)),
        (tiff_rgb16(), (0, 0, 0)),
        (save(Image.fromarray(np.full((1, 1), 51400, np.uint16)), "TIFF"), (200, 200, 200)),
        (save(Image.fromarray(np.full((1, 1), 51400, np.uint16)), "PNG"), (200, 200, 200)),
    ],
)
def test_16_bits_become_8_with_a_note(data: bytes, colour: tuple[int, int, int]) -> None:
    picture = read_picture(data, LIMIT)
    assert tuple(picture.pixels[0, 0]) == colour
    assert picture.notes == ("its 16 bits per sample were reduced to 8",)


def test_a_transparent_level_of_16_bits_becomes_alpha() -> None:
    samples = np.array([[0, 51400, 51401, 65535]], np.uint16)
    data = save(Image.fromarray(samples), "PNG", transparency=51400)
    picture = read_picture(data, LIMIT, as_is=True)
    assert picture.grey
    assert picture.samples.tolist() == [[[0, 255], [200, 0], [200, 255], [255, 255]]]
    with pytest.raises(ImageError, match="16 bits per sample and a transparent colour"):
        read_picture(png(1, 1, 16, 2, bytes(7), (b"tRNS", bytes(6))), LIMIT, as_is=True)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (save(Image.new("F", (2, 2)), "TIFF"), "32 bits per sample"),
        (save(Image.new("I", (2, 2)), "TIFF"), "32 bits per sample"),
        (save(Image.new("LAB", (2, 2)), "TIFF"), "colours are LAB"),
    ],
)
def test_samples_of_other_kinds_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=rf"{says}.*; convert it to"):
        read_picture(data, LIMIT)


def test_grey_and_transparency_are_kept_as_they_are() -> None:
    grey, alpha = PIXELS[..., 0], PIXELS[..., 1]
    for samples in (grey, np.dstack([grey, alpha]), PIXELS, np.dstack([PIXELS, alpha])):
        picture = read_picture(save(Image.fromarray(samples), "PNG", exif=exif(6)), LIMIT, as_is=True)
        assert np.array_equal(picture.samples, np.rot90(samples, -1))
        assert picture.pixels.shape == (56, 40, 3)
        back = read_picture(write_picture(picture, "PNG"), LIMIT, as_is=True)
        assert np.array_equal(back.samples, picture.samples)
        assert np.array_equal(np.asarray(to_pillow(picture)), picture.samples)
        assert np.array_equal(to_picture(picture.samples, LIMIT).samples, picture.samples)


def test_opaque_alpha_is_left_out() -> None:
    picture = read_picture(save(RGB.convert("RGBA"), "PNG"), LIMIT, as_is=True)
    assert picture.alpha is None
    assert np.array_equal(picture.samples, PIXELS)


def test_what_formats_lose_is_said_and_done() -> None:
    alpha = np.full((2, 2), 0, np.uint8)
    alpha[0, 0] = 102
    picture = Picture(pixels=np.full((2, 2, 3), 50, np.uint8), alpha=alpha, xmp=XMP)
    for format in WRITABLE_FORMATS:
        said = losses(picture, format)
        assert [("white" in note, "metadata" in note) for note in said] == {
            "JPEG": [(True, False)],
            "BMP": [(True, False), (False, True)],
            "PPM": [(True, False), (False, True)],
        }.get(format, [])
        back = read_picture(write_picture(picture, format), LIMIT, as_is=True)
        if said:
            assert back.alpha is None
            assert np.abs(back.pixels[..., 0].astype(int) - [[173, 255], [255, 255]]).max() <= (12 * (format == "JPEG"))
        elif format == "AVIF":
            assert np.abs(back.samples.astype(int) - picture.samples)[..., 3].max() <= 3
        else:
            assert np.array_equal(back.samples, picture.samples)


def test_profiles_for_grey_stay_with_grey() -> None:
    grey = ICC[:16] + b"GRAY" + ICC[20:]
    picture = read_picture(save(RGB.convert("L"), "PNG", icc_profile=grey), LIMIT, as_is=True)
    assert picture.icc == grey
    for format in WRITABLE_FORMATS:
        kept = format in ("PNG", "JPEG", "TIFF")
        assert read_picture(write_picture(picture, format), LIMIT, as_is=True).icc == (grey if kept else None)
        assert bool(losses(picture, format)) is not kept


def test_lossy_webp_on_demand() -> None:
    lossless, fine, coarse = (len(write_picture(Picture(pixels=SMOOTH), "WebP", q)) for q in (None, 90, 10))
    assert lossless != fine > coarse
    back = read_picture(write_picture(Picture(pixels=SMOOTH), "WebP", 90), LIMIT)
    assert 0 < np.abs(back.pixels.astype(int) - SMOOTH).mean() < 4


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [((40, 56), 56, (40, 56)), ((40, 56), 28, (20, 28)), ((1, 300), 100, (1, 100)), ((301, 2), 5, (5, 1))],
)
def test_shrinking_keeps_the_proportion(size: tuple[int, int], limit: int, expected: tuple[int, int]) -> None:
    picture = Picture(pixels=np.full((*size, 3), 90, np.uint8), grey=True, alpha=np.zeros(size, np.uint8), xmp=XMP)
    small = shrink(picture, limit)
    assert (small.height, small.width) == expected
    assert small.grey and small.xmp == XMP
    assert small.alpha is not None and not small.alpha.any()


def test_transparent_colours_do_not_bleed_when_shrunk() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:, 4:] = 255
    small = shrink(Picture(pixels=pixels, alpha=alpha), 3)
    assert small.alpha is not None
    assert (small.pixels[small.alpha > 8] == 255).all()


def test_animations_give_their_first_frame_and_a_note() -> None:
    first, second = Image.new("RGB", (8, 8), (200, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 200))
    for format in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format == "AVIF" else {}
        picture = read_picture(save(first, format, save_all=True, append_images=[second], **options), LIMIT)
        assert np.abs(picture.pixels.astype(int) - [200, 0, 0]).max() <= 2, format
        assert "first" in picture.notes[0], format


@pytest.mark.parametrize(
    "data",
    [
        png(60000, 60000, 8, 2, b""),
        png(2**31 - 1, 2**31 - 1, 8, 2, b""),
        b"P6 60000 60000 255\n",
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"," + bytes(20),
        save(Image.new("L", (1001, 1000)), "WEBP"),
        save(Image.new("L", (1001, 1000)), "PNG"),
    ],
    ids=["png", "png-huge", "ppm", "bmp", "gif", "webp", "real"],
)
def test_bombs_are_refused_before_decoding(data: bytes) -> None:
    with pytest.raises((LimitExceeded, ImageError)) as caught:
        read_picture(data, LIMIT)
    if data[:3] != b"GIF":  # the made-up GIF may be called damaged first
        assert isinstance(caught.value, LimitExceeded)


def tiled(width: int, height: int, across: int, down: int) -> bytes:
    """A grey TIFF picture whose tiles are all the same black one."""
    tile = zlib.compress(bytes(across * down))
    count = -(-width // across) * -(-height // down)
    fields = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 322: across, 323: down}
    start = 8 + 2 + 12 * (len(fields) + 2) + 4
    lists = [(324, count, start), (325, count, start + 4 * count)]
    if count == 1:
        lists = [(324, 1, start), (325, 1, len(tile))]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items()]
    entries += [struct.pack("<HHII", tag, 4, length, value) for tag, length, value in lists]
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    if count > 1:
        data += struct.pack(f"<{count}I", *[start + 8 * count] * count)
        data += struct.pack(f"<{count}I", *[len(tile)] * count)
    return data + tile


def test_tiles_that_are_decoded_for_nothing_are_refused() -> None:
    """A small file could ask for gigabytes, or for hours: all tiles may be one and the same."""
    for size in ((16, 16, 16, 16), (100, 40, 64, 32), (16, 16, 512, 512), (900, 900, 512, 1024)):
        assert read_picture(tiled(*size), LIMIT).pixels.shape[:2] == (size[1], size[0])
    for size in ((16, 16, 4096, 2048), (4096, 16, 16, 1 << 18)):
        with pytest.raises(LimitExceeded, match="is cut into tiles of"):
            read_picture(tiled(*size), LIMIT)


def test_jpeg_pictures_of_very_many_scans_are_refused() -> None:
    """Each takes a few bytes, and a pass over the whole picture."""
    data = save(Image.new("L", (64, 64), 90), "JPEG", progressive=True, comment=b"\xff\xda\0\2" * 1000)
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    scans = images._num_scans(data)
    assert 2 < scans < 20
    more = data[:end] + data[start:end] * (500 - scans)
    assert read_picture(more + b"\xff\xd9" + data[start:end], LIMIT).width == 64
    with pytest.raises(LimitExceeded, match="more than 500 scans"):
        read_picture(more + data[start:end] + b"\xff\xd9", LIMIT)


def test_the_limit_is_inclusive() -> None:
    data = save(RGB, "PNG")
    assert read_picture(data, 40 * 56).width == 56
    with pytest.raises(LimitExceeded, match="56 x 40 pixels, more than the limit of 2239"):
        read_picture(data, 40 * 56 - 1)


def test_the_limit_of_pillow_is_not_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(images, "_BAND_PIXELS", 56)  # its check of crops comes into play below a megapixel only
    for format in ("PNG", "JPEG", "BMP", "PPM"):
        assert read_picture(write_picture(FULL, format), LIMIT).height == 40
    assert Image.MAX_IMAGE_PIXELS == 100
    allow_pixels(LIMIT)
    assert Image.MAX_IMAGE_PIXELS == LIMIT


@settings(deadline=None, max_examples=150)
@given(st.sampled_from([*WRITABLE_FORMATS, "GIF"]), st.data())
def test_damage_gives_a_picture_or_one_of_our_errors(format: str, data: st.DataObject) -> None:
    whole = bytearray(SAMPLES[format])
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, min(len(whole) - 1, 400)))] = data.draw(st.integers(0, 255))
    try:
        picture = read_picture(bytes(whole), LIMIT)
    except (ImageError, LimitExceeded) as error:
        assert "\n" not in str(error)
    else:
        assert picture.pixels.size <= 3 * LIMIT


SAMPLES = {format: write_picture(FULL, format) for format in WRITABLE_FORMATS} | {"GIF": save(RGB, "GIF")}


def test_what_a_format_cannot_hold_is_an_output_error() -> None:
    with pytest.raises(OutputError, match="WebP"):
        write_picture(Picture(pixels=np.zeros((1, 16384, 3), np.uint8)), "WebP")


ODD = exif().replace(struct.pack(">HHI", 0x010F, 2, 20), struct.pack(">HHI", 0x010F, 5, 1))  # a number for a name


@pytest.mark.parametrize(
    ("format", "fields", "lost"),
    [
        ("JPEG", {"exif": exif() + bytes(65533 - len(exif()) - 6)}, ""),
        ("JPEG", {"exif": exif() + bytes(65534 - len(exif()) - 6)}, "EXIF data"),
        ("JPEG", {"xmp": XMP.ljust(65504)}, ""),
        ("JPEG", {"xmp": XMP.ljust(65505)}, "XMP data"),
        ("PNG", {"xmp": XMP.decode().encode("utf-16")}, "XMP data"),
        ("PNG", {"icc": ICC.ljust(1 << 20, b"\0")}, ""),
        ("PNG", {"icc": ICC.ljust((1 << 20) + 1, b"\0")}, "colour profile"),
        ("TIFF", {"icc": ICC.ljust((1 << 20) + 1, b"\0")}, ""),
        ("JPEG", {"icc": ICC.ljust(1 << 24, b"\0")}, "colour profile"),
        ("AVIF", {"exif": ODD}, "EXIF data"),
        ("TIFF", {"exif": ODD}, "EXIF data"),
        ("WebP", {"exif": ODD, "xmp": XMP.ljust(70000), "icc": ICC + bytes(1 << 20)}, ""),
    ],
)
def test_metadata_that_does_not_fit_is_left_out_and_said(format: str, fields: dict[str, bytes], lost: str) -> None:
    picture = Picture(pixels=SMOOTH, **fields)
    back = read_picture(write_picture(picture, format), LIMIT)
    said = losses(picture, format)
    assert len(said) == bool(lost)
    assert not lost or (f"{format} cannot hold" in said[0] and f"{lost} of this size" in said[0])
    for field, value in fields.items():
        assert getattr(back, field) == (None if lost else value)
    others = {"exif": exif(), "xmp": XMP, "icc": ICC} | fields
    back = read_picture(write_picture(Picture(pixels=SMOOTH, **others), format), LIMIT)
    assert all((getattr(back, field) is None) == bool(lost and field in fields) for field in others)


def test_tiff_does_not_take_storage_tags_from_exif() -> None:
    tags = Image.Exif()
    tags[0x0111] = 5  # where the strips are
    tags[0x010F] = "maker"
    block = tags.tobytes().removeprefix(b"Exif\0\0")
    back = read_picture(write_picture(Picture(pixels=PIXELS, exif=block), "TIFF"), LIMIT)
    assert np.array_equal(back.pixels, PIXELS)
    assert b"maker" in back.exif


@pytest.mark.parametrize(
    ("group", "entries"),
    [(0x8769, {0x829A: 0.5, 0x9003: "2026:11:21 12:00:00"}), (0x8825, {1: "N", 2: (48.0, 8.0, 3.0)})],
    ids=["exif", "gps"],
)
def test_tiff_keeps_the_directories_that_cameras_write(
    capfd: pytest.CaptureFixture[str], group: int, entries: dict[int, object]
) -> None:
    tags = Image.Exif()
    tags[0x010F] = "maker"
    tags[group] = entries
    block = tags.tobytes().removeprefix(b"Exif\0\0")
    full = Picture(pixels=PIXELS, alpha=PIXELS[..., 0], icc=ICC, exif=block, xmp=XMP)
    back = read_picture(write_picture(full, "TIFF"), LIMIT, as_is=True)
    assert np.array_equal(back.samples, full.samples)
    assert (back.icc, back.xmp) == (ICC, XMP)
    kept = Image.Exif()
    kept.load(back.exif)
    assert kept[0x010F] == "maker"
    assert kept.get_ifd(group) == entries
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"pixels": PIXELS.astype(float)}, "uint8"),
        ({"pixels": PIXELS[..., 0]}, "uint8"),
        ({"pixels": np.zeros((2, 2, 4), np.uint8)}, "uint8"),
        ({"pixels": PIXELS, "alpha": PIXELS}, "alpha must be uint8"),
        ({"pixels": PIXELS, "alpha": PIXELS[:, 1:, 0]}, "alpha must be uint8"),
        ({"pixels": PIXELS, "grey": True}, "three equal channels"),
    ],
)
def test_pictures_that_cannot_be(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Picture(**fields)


def test_large_pictures_are_converted_in_bands() -> None:
    wide = np.random.default_rng(2).integers(0, 256, (300, 5000, 3), dtype=np.uint8)
    assert np.array_equal(read_picture(save(Image.fromarray(wide), "BMP"), 10**7).pixels, wide)

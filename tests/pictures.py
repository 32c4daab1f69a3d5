"""Pictures of all kinds, made here, and what is expected of each: `python -m tests.pictures` writes the table.

The table in docs/pictures.md is made of these, and tests/test_pictures.py takes each through a file and back.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

PAGE = Path(__file__).parent.parent / "docs" / "pictures.md"
HEADING = "| picture | becomes | |"


@dataclass(frozen=True)
class Sample:
    """A picture's file, the mode it comes back with (empty: it is refused) and words of the remark or the refusal."""

    name: str
    data: bytes
    mode: str = ""
    says: str = ""


def _icc(space: bytes = b"RGB ") -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = space
    profile[24:36] = bytes(12)  # the time at which it was made
    return bytes(profile)


ICC, GREY_ICC, CMYK_ICC = _icc(), _icc(b"GRAY"), _icc(b"CMYK")
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" note="kept"/>'
MAKER = 0x010F


def _exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[MAKER] = "a maker with a name"
    return tags.tobytes()


def _pixels(height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width]
    red, green = 255 * rows // max(1, height - 1), 255 * columns // max(1, width - 1)
    blue = np.where(np.hypot(rows - height / 3, columns - width / 3) < 12, 200, 60)
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


def _alpha(height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width]
    return np.clip(20 * (18 - np.hypot(rows - 20, columns - 30)), 0, 255).astype(np.uint8)


RGB = Image.fromarray(_pixels())
GREY = RGB.convert("L")
RGBA = Image.fromarray(np.dstack([_pixels(), _alpha()]))
LA = Image.fromarray(np.dstack([np.asarray(GREY), _alpha()]))
BILEVEL = GREY.point(lambda level: 255 * (level > 127), "1")
PALETTE = RGB.quantize(32)
DEEP = (np.asarray(GREY).astype(np.uint16) * 257).astype(np.uint16)


def _save(image: Image.Image, format: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def _png(samples: NDArray[np.uint16], colour: int) -> bytes:
    """A PNG of 16 bits per sample, which Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def _deep(image: Image.Image) -> NDArray[np.uint16]:
    return (np.asarray(image).astype(np.uint16) * 257).astype(np.uint16)


def samples() -> Iterator[Sample]:
    """Every picture of the table, in its order."""
    metadata = {"icc_profile": ICC, "exif": _exif(6), "xmp": XMP}
    second = [Image.new("RGB", RGB.size, (9, 9, 200))]
    first = {"save_all": True, "append_images": second}
    deep, frames = "16 bits per sample were reduced to 8", "only the first of several"
    profile = "colour profile is not for"
    everything = {"progressive": True, **metadata}
    yield Sample("PNG, RGB", _save(RGB, "PNG"), "RGB")
    yield Sample("PNG, RGB with profile, EXIF (turned) and XMP", _save(RGB, "PNG", **metadata | {"xmp": None}), "RGB")
    yield Sample("PNG, grey", _save(GREY, "PNG"), "L")
    yield Sample("PNG, grey with a profile for grey", _save(GREY, "PNG", icc_profile=GREY_ICC), "L")
    yield Sample("PNG, grey with a profile for RGB", _save(GREY, "PNG", icc_profile=ICC), "L")
    yield Sample("PNG, RGB with a profile for grey", _save(RGB, "PNG", icc_profile=GREY_ICC), "RGB", profile)
    yield Sample("PNG, 1 bit", _save(BILEVEL, "PNG"), "L")
    yield Sample("PNG, grey with alpha", _save(LA, "PNG"), "LA")
    yield Sample("PNG, grey with a transparent level", _save(GREY, "PNG", transparency=GREY.getpixel((3, 3))), "LA")
    yield Sample("PNG, RGBA", _save(RGBA, "PNG"), "RGBA")
    yield Sample("PNG, RGBA, turned", _save(RGBA, "PNG", exif=_exif(5)), "RGBA")
    yield Sample("PNG, RGBA, opaque everywhere", _save(RGB.convert("RGBA"), "PNG"), "RGB")
    yield Sample("PNG, RGBA, transparent everywhere", _save(Image.new("RGBA", (20, 9)), "PNG"), "RGBA")
    yield Sample("PNG, RGB with a transparent colour", _save(RGB, "PNG", transparency=RGB.getpixel((3, 3))), "RGBA")
    yield Sample("PNG, palette", _save(PALETTE, "PNG"), "RGB")
    yield Sample("PNG, palette with alpha", _save(PALETTE, "PNG", transparency=bytes(range(0, 256, 8))), "RGBA")
    yield Sample("PNG, 16 bits, RGB", _png(_deep(RGB), 2), "RGB", deep)
    yield Sample("PNG, 16 bits, RGBA", _png(_deep(RGBA), 6), "RGBA", deep)
    yield Sample("PNG, 16 bits, grey", _save(Image.fromarray(DEEP), "PNG"), "L", deep)
    yield Sample("PNG, 16 bits, grey with alpha", _png(_deep(LA), 4), "LA", deep)
    yield Sample("PNG, animated", _save(RGB, "PNG", **first), "RGB", frames)
    yield Sample("PNG, 1×1", _save(RGB.crop((5, 5, 6, 6)), "PNG"), "RGB")
    yield Sample("PNG, 1×300", _save(Image.fromarray(_pixels(300, 1)), "PNG"), "RGB")
    yield Sample("PNG, 300×1, grey", _save(Image.fromarray(_pixels(1, 300)).convert("L"), "PNG"), "L")
    yield Sample("JPEG", _save(RGB, "JPEG"), "RGB")
    yield Sample("JPEG, progressive, with profile, EXIF (turned), XMP", _save(RGB, "JPEG", **everything), "RGB")
    for orientation in (2, 3, 4, 5, 7, 8):
        yield Sample(f"JPEG, orientation {orientation}", _save(RGB, "JPEG", exif=_exif(orientation)), "RGB")
    yield Sample("JPEG, grey", _save(GREY, "JPEG"), "L")
    yield Sample("JPEG, CMYK", _save(RGB.convert("CMYK"), "JPEG", icc_profile=CMYK_ICC), "RGB", profile)
    yield Sample("WebP", _save(RGB, "WEBP", **metadata | {"exif": _exif(1)}), "RGB")
    yield Sample("WebP, lossless with alpha", _save(RGBA, "WEBP", lossless=True), "RGBA")
    yield Sample("WebP, animated", _save(RGB, "WEBP", **first), "RGB", frames)
    yield Sample("AVIF", _save(RGB, "AVIF", **metadata | {"exif": _exif(1)}), "RGB")
    yield Sample("AVIF with alpha", _save(RGBA, "AVIF"), "RGBA")
    yield Sample("TIFF, LZW, with profile", _save(RGB, "TIFF", compression="tiff_lzw", icc_profile=ICC), "RGB")
    yield Sample("TIFF, grey", _save(GREY, "TIFF"), "L")
    yield Sample("TIFF, 1 bit", _save(BILEVEL, "TIFF", compression="group4"), "L")
    yield Sample("TIFF, RGBA", _save(RGBA, "TIFF"), "RGBA")
    yield Sample("TIFF, CMYK", _save(RGB.convert("CMYK"), "TIFF"), "RGB")
    yield Sample("TIFF, several pages", _save(RGB, "TIFF", **first), "RGB", frames)
    yield Sample("TIFF, 16 bits, grey", _save(Image.fromarray(DEEP), "TIFF"), "L", deep)
    yield Sample("TIFF, 32-bit integers", _save(Image.new("I", (9, 9)), "TIFF"), "", "32 bits per sample")
    yield Sample("TIFF, floating point", _save(Image.new("F", (9, 9)), "TIFF"), "", "32 bits per sample")
    yield Sample("TIFF, LAB", _save(Image.new("LAB", (9, 9)), "TIFF"), "", "colours are LAB")
    yield Sample("BMP", _save(RGB, "BMP"), "RGB")
    yield Sample("BMP, palette", _save(PALETTE, "BMP"), "RGB")
    yield Sample("PPM", _save(RGB, "PPM"), "RGB")
    yield Sample("PGM", _save(GREY, "PPM"), "L")
    yield Sample("PBM", _save(BILEVEL, "PPM"), "L")
    yield Sample("PGM, 16 bits", b"P5 56 40 65535\n" + DEEP.astype(">u2").tobytes(), "L", deep)
    yield Sample("GIF", _save(PALETTE, "GIF"), "RGB")
    yield Sample("GIF, transparent", _save(PALETTE, "GIF", transparency=PALETTE.getpixel((3, 3))), "RGBA")
    yield Sample("GIF, animated", _save(PALETTE, "GIF", **first), "RGB", frames)
    yield Sample("an empty file", b"", "", "the file is empty; give a picture")
    yield Sample("a cut JPEG", _save(RGB, "JPEG")[:600], "", "damaged")
    yield Sample("SVG, HEIC, PDF, raw and other files", b"<svg/>", "", "no picture in a known")


def row(sample: Sample, said: str) -> str:
    """One row of the table: `said` is the remark or the refusal as it is."""
    becomes = {"L": "grey", "LA": "grey with alpha", "": "refused"}.get(sample.mode, sample.mode)
    return f"| {sample.name} | {becomes} | {said} |"


def table() -> list[str]:
    """All rows, with what reading each picture says."""
    from robustcodec.errors import ImageError
    from robustcodec.images import read_picture

    rows = [HEADING, "|---|---|---|"]
    for sample in samples():
        try:
            said = "; ".join(read_picture(sample.data, 1 << 20, as_is=True).notes)
        except ImageError as error:
            said = re.sub(r"damaged \(.*\)", "damaged", str(error))  # the rest is Pillow's and may change
        rows.append(row(sample, said))
    return rows


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(HEADING)
    after = rest[rest.index("\n\n") :]
    PAGE.write_text(before + "\n".join(table()) + after, encoding="utf-8")

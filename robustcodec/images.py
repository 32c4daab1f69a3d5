"""Pictures in and out of image files, turned upright on the way: the one module that imports Pillow.

Everything here works on bytes. Only the formats of `FORMATS` are opened, each by its own Pillow class, so
that no other of Pillow's parsers ever sees the data and its process-wide pixel limit is not in the way.
"""

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from robustcodec.errors import ImageError, LimitExceeded, OutputError, RobustcodecError
from robustcodec.pixels import Pixels

_OPENERS: dict[str, tuple[re.Pattern[bytes], type[ImageFile.ImageFile]]] = {
    "PNG": (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    "JPEG": (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    "WebP": (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    "AVIF": (re.compile(rb"....ftyp(avif|avis|mif1|msf1)", re.DOTALL), AvifImagePlugin.AvifImageFile),
    "TIFF": (re.compile(rb"II[*+]\x00|MM\x00[*+]"), TiffImagePlugin.TiffImageFile),
    "BMP": (re.compile(rb"BM"), BmpImagePlugin.BmpImageFile),
    "PPM": (re.compile(rb"P[1-6]\s"), PpmImagePlugin.PpmImageFile),
    "GIF": (re.compile(rb"GIF8[79]a"), GifImagePlugin.GifImageFile),
}
FORMATS = tuple(_OPENERS)

_ORIENTATION = 0x0112
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)([1-8])\b")
_EXIF_PREFIX = b"Exif\x00\x00"
# What a TIFF page says about the picture, as against how its own file stores the samples.
_DESCRIPTIVE_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)
_DESCRIPTIVE_GROUPS = (0x8769, 0x8825)  # the EXIF and GPS directories

_TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}

_GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_MODES = (*_GREY_MODES, "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "F")  # F: see _depth

_TILE_PIXELS = 1 << 22
"""A tile of TIFF may have so many even if its picture has fewer; 256x256 to 1024x1024 are usual."""

_SCANS = 500
"""Scans of a JPEG picture at most; ten or so are usual, and each costs a pass over all of it, however short it is."""
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # of those with a meaning outside a scan
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_JPEG_WITHOUT_LENGTH = (0x01, 0xD8)

_BAND_PIXELS = 1 << 20  # converting a band of rows at a time keeps the peak at Pillow's copy plus ours


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """An upright 8-bit picture and what travels with it.

    `pixels` is uint8 (height, width, 3), RGB; in a `grey` picture the three are equal, and files hold one. `alpha`
    is uint8 (height, width), 255 where the picture is opaque, or None where it is so everywhere. `icc` is a colour
    profile, `exif` a TIFF structure (without the `Exif` prefix) whose orientation is 1, `xmp` a packet. `notes` say
    what reading had to leave out, for the caller to show.
    """

    pixels: Pixels
    grey: bool = False
    alpha: Pixels | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pixels, alpha = self.pixels, self.alpha
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"pixels must be uint8 (H, W, 3), not {pixels.dtype} {pixels.shape}")
        if alpha is not None and (alpha.dtype != np.uint8 or alpha.shape != pixels.shape[:2]):
            raise ValueError(f"alpha must be uint8 {pixels.shape[:2]}, not {alpha.dtype} {alpha.shape}")
        if self.grey and pixels.strides[2] and not (pixels == pixels[..., :1]).all():
            raise ValueError("the pixels of a grey picture have three equal channels")

    @classmethod
    def of(cls, samples: Pixels, **rest: Any) -> "Picture":
        """Make a picture of samples uint8 (height, width, 1 to 4): grey or RGB, with or without alpha.

        An alpha plane that is opaque everywhere says nothing and is left out.
        """
        colours = samples.shape[2] - 1 | 1  # 1 or 3
        alpha = samples[..., colours] if samples.shape[2] > colours else None
        pixels = samples[..., :colours]
        return cls(
            pixels=pixels if colours == 3 else np.broadcast_to(pixels, (*samples.shape[:2], 3)),
            grey=colours == 1,
            alpha=None if alpha is None or alpha.min() == 255 else alpha,
            **rest,
        )

    @property
    def samples(self) -> Pixels:
        """What a file holds: uint8 (height, width) of grey, (height, width, 3) of RGB; alpha is one channel more."""
        colours = self.pixels[..., :1] if self.grey else self.pixels
        if self.alpha is not None:
            return np.concatenate([colours, self.alpha[..., None]], axis=2)
        return colours[..., 0] if self.grey else colours

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.pixels.shape[0])


def allow_pixels(max_pixels: int) -> None:
    """Raise Pillow's limit, which is global to the process, to `max_pixels`.

    For programs only: in a library that limit belongs to the host. Without it WebP, tiled TIFF and GIF
    pictures above Pillow's own limit are refused even where `read_picture` allows more.
    """
    Image.MAX_IMAGE_PIXELS = max_pixels


def recognise(data: bytes) -> tuple[str, type[ImageFile.ImageFile]]:
    """Tell by how a file begins which of `FORMATS` it has, and what opens it. Raises ImageError for all others."""
    for kind, (magic, opener) in _OPENERS.items():
        if magic.match(data):
            return kind, opener
    if not data:
        raise ImageError("the file is empty; give a picture")
    if data.startswith(b"\x8bRB\n"):
        raise ImageError("this is a robustcodec file already; decode reads it")
    raise ImageError(f"this is no picture in a known format ({', '.join(FORMATS)}); convert it to PNG")


def read_picture(
    data: bytes, max_pixels: int, *, as_is: bool = False, admit: Callable[[int, int], None] | None = None
) -> Picture:
    """Decode an image file (one of `FORMATS`) to an upright 8-bit picture.

    The picture is RGB, and transparency is refused; `as_is` keeps grey pictures grey, and transparency. Palette
    and CMYK pictures become RGB, 1-bit pictures grey, 16 bits per sample 8, with a note; of an animation the first
    frame is taken, with a note. Raises ImageError for data that is no such file, is damaged or has samples of
    another kind, and LimitExceeded before decoding more than `max_pixels`. `admit` is called with
    width and height before the pixels are decoded, and may raise.
    """
    kind, opener = recognise(data)
    with pillow_errors(f"the {kind} picture is damaged", advice="; get a whole copy"):
        image = opener(BytesIO(data))
        _check(kind, image, max_pixels)
        if admit is not None:
            admit(image.width, image.height)
        if kind == "TIFF" and _is_cut(data):
            raise ImageError(
                "the TIFF picture is damaged (its tags point beyond the end of the file); get a whole copy"
            )
        if kind == "JPEG" and _num_scans(data) > _SCANS:
            raise LimitExceeded(f"the JPEG picture has more than {_SCANS} scans, which would take long; save it anew")
        animated = getattr(image, "is_animated", False)
        image.seek(0)
        picture = _picture(kind, image, as_is)
    notes = ("only the first of several frames or pages was used",) if animated else ()
    return replace(picture, notes=(*notes, *picture.notes))


def to_picture(
    image: Image.Image | Pixels | bytes, max_pixels: int, admit: Callable[[int, int], None] | None = None
) -> Picture:
    """Take a picture as it is from a Pillow image, with its metadata, from an image file's bytes, or an array uint8.

    An array has the shape (height, width) of grey, (height, width, 3) of RGB, or one channel more of alpha. A Pillow
    image is treated as `read_picture` treats a file, `admit` included; of an animation the frame it stands at is taken.
    Raises ImageError for other arrays and for what `read_picture` refuses, and LimitExceeded.
    """
    if isinstance(image, bytes):
        return read_picture(image, max_pixels, as_is=True, admit=admit)
    if not isinstance(image, Image.Image):
        return _from_array(image)
    kind = image.format or "Pillow"
    with pillow_errors(f"the {kind} picture is damaged", advice="; get a whole copy"):
        _check(kind, image, max_pixels)
        if not (image.width and image.height):
            raise ImageError("the picture has no pixels")
        if admit is not None:
            admit(image.width, image.height)
        return _picture(kind, image, as_is=True)


def to_pillow(picture: Picture) -> Image.Image:
    """Give a Pillow image (L, LA, RGB or RGBA) whose `info` holds the metadata, so that `save` writes it if it can."""
    image = Image.fromarray(picture.samples)
    image.info |= pillow_info(picture.icc, picture.exif, picture.xmp)
    return image


def pillow_info(icc: bytes | None, exif: bytes | None, xmp: bytes | None) -> dict[str | tuple[int, int], Any]:
    """Give metadata, where there is any, as Pillow keeps it in `info`."""
    metadata = {"icc_profile": icc, "exif": exif and _EXIF_PREFIX + exif, "xmp": xmp}
    return {name: value for name, value in metadata.items() if value is not None}


def shrink(picture: Picture, max_side: int) -> Picture:
    """Make a picture smaller, in proportion, so that no side has more than `max_side` pixels; never larger."""
    longest = max(picture.width, picture.height)
    if longest <= max_side:
        return picture
    size = [max(1, (side * max_side + longest // 2) // longest) for side in (picture.width, picture.height)]
    # Pillow weighs colours by alpha where there is one.
    small = Image.fromarray(picture.samples).resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    samples = np.asarray(small)
    made = Picture.of(samples if samples.ndim == 3 else samples[..., None])
    return replace(picture, pixels=made.pixels, alpha=made.alpha)


def write_picture(picture: Picture, format: str, quality: int | None = None) -> bytes:
    """Encode `picture` as PNG, JPEG, WebP, AVIF, TIFF, BMP or PPM.

    PNG, WebP, TIFF, BMP and PPM keep every pixel; JPEG and AVIF are written at `quality` (1 to 100; 95) without
    chroma subsampling, and so is WebP if a quality is given. What a format cannot hold is left out; `losses` tells
    what. Raises OutputError when the format cannot hold the picture.
    """
    out = BytesIO()
    with pillow_errors(f"the picture cannot be written as {format}", OutputError):
        if picture.alpha is not None and format in _WITHOUT_ALPHA:
            picture = _on_white(picture)
        left_out: dict[str, Any] = dict.fromkeys(_unheld(picture, format))
        picture = replace(picture, **left_out)
        options = _WRITERS[format](picture)
        if format in _LOSSY or (format == "WebP" and quality is not None):
            options |= {"lossless": False, "quality": quality or 95} if format == "WebP" else {"quality": quality or 95}
        Image.fromarray(picture.samples).save(out, format.upper(), **options)
    return out.getvalue()


def compress(samples: Pixels, format: str, quality: int | None) -> bytes | None:
    """Encode uint8 (height, width) or (height, width, 3) as bare AVIF or WebP; None where this is not possible.

    `quality` goes from 0 to 100, without chroma subsampling in AVIF; None is without loss (WebP).
    """
    height, width = samples.shape[:2]
    if max(height, width) > (32768 if format == "AVIF" else 16383) or format.upper() not in Image.SAVE:
        return None
    options: dict[str, Any] = {"lossless": True, "quality": 50} if quality is None else {"quality": quality}
    if format == "AVIF":
        options |= {"subsampling": "4:0:0" if samples.ndim == 2 else "4:4:4", "speed": 8, "max_threads": 1}
    out = BytesIO()
    with pillow_errors(f"the picture cannot be compressed as {format}"):
        Image.fromarray(samples).save(out, format.upper(), **options)
    return out.getvalue()


def decompress(data: bytes, format: str) -> Pixels:
    """Decode AVIF or WebP whose headers are known to be in order: uint8 (height, width) or (height, width, 3).

    Raises ImageError if it is damaged, or if Pillow was built without the format.
    """
    with pillow_errors(f"its {format} data cannot be read"):
        image = _OPENERS[format][1](BytesIO(data))
        return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def losses(picture: Picture, format: str) -> tuple[str, ...]:
    """Sentences that say what of a picture a format cannot hold."""
    found = []
    if picture.alpha is not None and format in _WITHOUT_ALPHA:
        found.append(f"{format} cannot hold transparency, so the picture was laid on white; use PNG to keep it")
    if (picture.icc or picture.exif or picture.xmp) and format in _WITHOUT_METADATA:
        found.append(f"{format} cannot hold its metadata, which is lost; use PNG to keep it")
    other = "TIFF" if format == "PNG" else "PNG"
    for what in _unheld(picture, format).values():
        found.append(f"{format} cannot hold {what}, which is lost; use {other} to keep it")
    return tuple(found)


def _unheld(picture: Picture, format: str) -> dict[str, str]:
    """The metadata that a format cannot hold, though it holds some: the names of its fields, and what it is."""
    found = {}
    pixel = Picture(pixels=np.zeros((1, 1, 3), np.uint8))
    if picture.icc is not None and _is_for_grey(picture.icc) and format not in (*_GREY_PROFILES, *_WITHOUT_METADATA):
        found["icc"] = "a colour profile for grey"
    elif picture.icc is not None and not _can_hold(replace(pixel, icc=picture.icc), format):
        found["icc"] = "a colour profile of this size"
    if picture.exif is not None and not _can_hold(replace(pixel, exif=picture.exif), format):
        found["exif"] = "EXIF data of this size or kind"
    if picture.xmp is not None and not _can_hold(replace(pixel, xmp=picture.xmp), format):
        found["xmp"] = "XMP data of this size or kind"
    return found


def _can_hold(picture: Picture, format: str) -> bool:
    """Try it, since Pillow alone knows how much metadata fits, what data it can take apart, and what it reads again."""
    out = BytesIO()
    try:
        with pillow_errors("metadata", OutputError):
            Image.fromarray(picture.samples).save(out, format.upper(), **_WRITERS[format](picture))
            read = _OPENERS[format][1](BytesIO(out.getvalue()))
    except RobustcodecError:
        return False
    return read.info.get("icc_profile") == picture.icc


def _on_white(picture: Picture) -> Picture:
    assert picture.alpha is not None
    alpha = picture.alpha[..., None].astype(np.uint16)
    laid = (picture.pixels * alpha + 255 * (255 - alpha) + 127) // 255
    return replace(picture, pixels=laid.astype(np.uint8), alpha=None)


def _from_array(array: Pixels) -> Picture:
    if not isinstance(array, np.ndarray):
        raise ImageError(
            f"a picture cannot be a {type(array).__name__}; give a Pillow image, an array or a file's bytes"
        )
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (2,), (3,), (4,)):
        raise _no_picture(array)
    if not array.size:
        raise _no_picture(array)
    return Picture.of(np.ascontiguousarray(array if array.ndim == 3 else array[..., None]))


def _no_picture(array: Pixels) -> ImageError:
    return ImageError(
        f"a picture cannot be an array of {array.dtype} {array.shape}; give uint8 (height, width, 3) or "
        "(height, width), or one channel more of alpha, from 0 to 255"
    )


def _picture(kind: str, image: Image.Image, as_is: bool) -> Picture:
    """The pixels of an image's current frame, upright, and its metadata."""
    raw = _raw_mode(image)
    deep = _depth(kind, image) > 8
    grey = image.mode in _GREY_MODES or raw.startswith("LA")
    mode = ("L" if grey else "RGB") + ("A" if image.has_transparency_data else "")
    image.load()
    samples = np.empty((image.height, image.width, len(mode)), np.uint8)
    for rows, band in _bands(image):
        part = _reduced(band) if image.mode.startswith("I") else np.asarray(band.convert(mode))
        samples[rows] = part.reshape(*part.shape[:2], -1)

    notes = ["its 16 bits per sample were reduced to 8"] if deep else []
    from_tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
    exif, orientation, damaged = _upright_exif(_exif_of_tiff(image) if from_tiff else image.info.get("exif") or b"")
    xmp, repeated = _upright_xmp(image.info.get("xmp") or b"")
    if damaged:
        notes.append("its EXIF data is damaged and was left out")
    if not from_tiff:  # which Pillow has turned upright already
        samples = _turn(samples, orientation or repeated)
    picture = Picture.of(samples)
    if not as_is:
        if picture.alpha is not None:
            raise ImageError(
                "the picture has transparent parts, which cannot be used here; flatten it onto a background"
            )
        picture = replace(picture, pixels=np.ascontiguousarray(picture.pixels), grey=False)
    icc = image.info.get("icc_profile") or None
    if icc and not _fits(icc, picture.grey):
        icc = None
        notes.append(f"its colour profile is not for {'grey' if picture.grey else 'RGB'} and was left out")
    return replace(
        picture,
        icc=icc,
        exif=exif or None,
        xmp=xmp or None,
        notes=tuple(notes),
    )


@contextmanager
def pillow_errors(sentence: str, kind: type[RobustcodecError] = ImageError, advice: str = "") -> Iterator[None]:
    """Turn whatever Pillow raises on hostile data into one of our errors: what was found, why, and what to do.

    Its parsers raise OSError, SyntaxError, struct.error, IndexError and many more; none of them may get out.
    """
    try:
        yield
    except RobustcodecError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise LimitExceeded("the picture has more pixels than Pillow's MAX_IMAGE_PIXELS allows") from error
    except MemoryError as error:
        raise LimitExceeded("the picture needs more memory than this machine gives") from error
    except Exception as error:
        if "MAX_TEXT" in str(error):  # the picture may be sound, but its metadata could be a bomb
            raise LimitExceeded(
                "the PNG picture carries a colour profile or a text of more than 1 MiB, which is not unpacked; take it "
                "out of the picture"
            ) from error
        raise kind(f"{sentence} ({str(error).rstrip('.') or type(error).__name__}){advice}") from error


def _check(kind: str, image: Image.Image, max_pixels: int) -> None:
    """Refuse from the header alone, before the pixels are decoded."""
    if image.width * image.height > max_pixels:
        raise LimitExceeded(
            f"the picture has {image.width} x {image.height} pixels, more than the limit of {max_pixels}; "
            "raise the limit to read it"
        )
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiles(image, max_pixels)
    if image.mode not in _MODES:
        raise ImageError(f"the picture's colours are {image.mode}, which cannot be encoded; convert it to RGB")
    depth = _depth(kind, image)
    if depth > 8 and depth != 16:
        raise ImageError(
            f"the picture has {depth} bits per sample, whose range from black to white is not known; "
            "convert it to 8 or 16 bits"
        )
    if depth == 16 and image.mode == "RGB" and "transparency" in image.info:
        raise ImageError("the picture has 16 bits per sample and a transparent colour; convert it to 8 bits")


def _check_tiles(image: TiffImagePlugin.TiffImageFile, max_pixels: int) -> None:
    """Refuse TIFF tiles far larger than their picture: libtiff decodes them whole, however little is shown."""
    tags = image.tag_v2
    if TiffImagePlugin.TILEWIDTH not in tags or TiffImagePlugin.TILELENGTH not in tags:
        return
    width, height = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
    across, down = tags[TiffImagePlugin.TILEWIDTH], tags[TiffImagePlugin.TILELENGTH]
    decoded = -(-width // across) * -(-height // down) * across * down
    if across * down > max(width * height, _TILE_PIXELS) or decoded > max(max_pixels, _TILE_PIXELS):
        raise LimitExceeded(
            f"the TIFF picture of {width} x {height} pixels is cut into tiles of {across} x {down}, far more than it "
            "needs; write it with smaller ones"
        )


def _num_scans(jpeg: bytes) -> int:
    """Count the scans of a JPEG file; what its other segments hold is passed over."""
    count = at = 0
    while marker := _JPEG_MARKER.search(jpeg, at):
        at, kind = marker.end(), marker[1][0]
        if kind == _JPEG_END:
            break
        count += kind == _JPEG_SCAN
        if kind not in _JPEG_WITHOUT_LENGTH:
            at += int.from_bytes(jpeg[at : at + 2], "big")
    return count


def _is_cut(tiff: bytes) -> bool:
    """Whether a tag of the first page lies outside the file; Pillow only warns of that."""
    order = "<" if tiff.startswith(b"II") else ">"
    (version, directory) = struct.unpack_from(f"{order}HI", tiff, 2)
    if version != 42:
        return False  # the 64-bit variant is left to Pillow
    (count,) = struct.unpack_from(f"{order}H", tiff, directory)
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        _, kind, length, offset = struct.unpack_from(f"{order}HHII", tiff, entry)
        size = _TIFF_TYPE_BYTES.get(kind, 0) * length
        if size > 4 and offset + size > len(tiff):
            return True
    return False


def _depth(kind: str, image: Image.Image) -> int:
    """Bits per sample: 8 or fewer, 16, or what cannot be read; Pillow cuts most pictures to 8 without a word."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits: tuple[int, ...] = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        return 32 if image.mode in ("I", "F") else max(bits)
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):
        return 16
    if image.mode in ("I", "F"):
        return 32
    tile = image.tile if isinstance(image, ImageFile.ImageFile) else ()
    arguments = tile[0][3] if tile else ""
    deep_ppm = kind == "PPM" and isinstance(arguments, tuple) and isinstance(arguments[-1], int) and arguments[-1] > 255
    return 16 if deep_ppm or (kind == "PNG" and _raw_mode(image).endswith(";16B")) else 8


def _raw_mode(image: Image.Image) -> str:
    """How a file's samples are stored, in Pillow's words; empty once they are read."""
    tile = image.tile if isinstance(image, ImageFile.ImageFile) else ()
    arguments = tile[0][3] if tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    step = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _reduced(band: Image.Image) -> Pixels:
    """Samples of 16 bits as 8, of the levels nearest; a transparent level becomes alpha."""
    samples = np.asarray(band).astype(np.uint32)
    grey: Pixels = ((np.minimum(samples, 65535) * 255 + 32767) // 65535).astype(np.uint8)
    if not band.has_transparency_data:
        return grey
    alpha = np.where(samples == band.info["transparency"], np.uint8(0), np.uint8(255))
    return np.stack([grey, alpha], axis=2)


def _fits(icc: bytes, grey: bool) -> bool:
    """Whether a profile is sound at a glance and for these colours; profiles for RGB are for grey, too."""
    return len(icc) >= 128 and icc[36:40] == b"acsp" and (icc[16:20] == b"RGB " or (grey and _is_for_grey(icc)))


def _is_for_grey(icc: bytes) -> bool:
    return icc[16:20] == b"GRAY"


def _upright_exif(exif: bytes) -> tuple[bytes, int, bool]:
    """The TIFF structure with its orientation set to 1, the orientation it had (0: none), and whether it is damaged.

    Only that value is changed, so maker notes, which hold offsets, survive.
    """
    exif = exif.removeprefix(_EXIF_PREFIX)
    if not exif:
        return b"", 0, False
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(exif[:4])
    try:
        if order is None:
            return b"", 0, True
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, length, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == _ORIENTATION:
                if (kind, length) != (3, 1) or not 1 <= value <= 8:
                    return b"", 0, True
                upright = struct.pack(f"{order}H", 1)
                return exif[: entry + 8] + upright + exif[entry + 10 :], value, False
    except struct.error:
        return b"", 0, True
    return exif, 0, False


def _upright_xmp(xmp: bytes | str) -> tuple[bytes, int]:
    """The packet with any orientation in it set to 1, and the orientation it had (0: none).

    Most packets repeat what EXIF says; where EXIF says nothing theirs counts.
    """
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    found = _XMP_ORIENTATION.search(xmp)
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp), int(found[2]) if found else 0


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation: 2 to 4 mirror and turn, 5 to 8 also swap the sides."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _descriptive(source: Image.Exif) -> Image.Exif:
    kept = Image.Exif()
    for tag in _DESCRIPTIVE_TAGS:
        if tag in source:
            kept[tag] = source[tag]
    for group in _DESCRIPTIVE_GROUPS:
        if entries := source.get_ifd(group):
            kept.get_ifd(group).update(entries)
            kept[group] = entries
    return kept


def _exif_of_tiff(image: Image.Image) -> bytes:
    """What describes the picture among the tags of the page, which Pillow has turned upright already."""
    try:
        kept = _descriptive(image.getexif())
        return kept.tobytes() if kept else b""
    except Exception:  # as in pillow_errors: anything may come out of hostile tags
        return b"damaged"


def _png_options(picture: Picture) -> dict[str, Any]:
    texts = PngImagePlugin.PngInfo()
    if picture.xmp:
        texts.add_itxt("XML:com.adobe.xmp", picture.xmp.decode())
    # Level 1 is several times faster than the default and costs a few percent.
    return {"compress_level": 1, "icc_profile": picture.icc, "exif": picture.exif, "pnginfo": texts}


def _jpeg_options(picture: Picture) -> dict[str, Any]:
    return {
        "subsampling": "4:4:4",
        "icc_profile": picture.icc,
        "exif": _EXIF_PREFIX + picture.exif if picture.exif else b"",
        "xmp": picture.xmp,
    }


def _webp_options(picture: Picture) -> dict[str, Any]:
    return {
        "lossless": True,
        "quality": 0,
        "exact": True,  # colours under transparency, too
        "icc_profile": picture.icc,
        "exif": picture.exif or b"",
        "xmp": picture.xmp or b"",
    }


def _avif_options(picture: Picture) -> dict[str, Any]:
    return {
        "subsampling": "4:4:4",
        "icc_profile": picture.icc,
        "exif": picture.exif,
        "xmp": picture.xmp,
    }


def _tiff_options(picture: Picture) -> dict[str, Any]:
    tags = Image.Exif()
    if picture.exif:
        tags.load(_EXIF_PREFIX + picture.exif)
        tags = _descriptive(tags)
    # Pillow compresses by libtiff, which cannot write the EXIF and GPS directories, and complains of odd tags.
    compression = "raw" if tags else "tiff_adobe_deflate"
    if picture.xmp:
        tags[TiffImagePlugin.XMP] = picture.xmp
    return {"compression": compression, "icc_profile": picture.icc, "exif": tags}


def _no_options(picture: Picture) -> dict[str, Any]:
    return {}


_WRITERS: dict[str, Callable[[Picture], dict[str, Any]]] = {
    "PNG": _png_options,
    "JPEG": _jpeg_options,
    "WebP": _webp_options,
    "AVIF": _avif_options,
    "TIFF": _tiff_options,
    "BMP": _no_options,
    "PPM": _no_options,
}
WRITABLE_FORMATS = tuple(_WRITERS)
_LOSSY = ("JPEG", "AVIF")
_WITHOUT_ALPHA = ("JPEG", "BMP", "PPM")
_WITHOUT_METADATA = ("BMP", "PPM")
_GREY_PROFILES = ("PNG", "JPEG", "TIFF")

"""The pictures of an evaluation: read from a folder, cropped, and put into groups that are attacked together."""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from robustcodec.errors import ImageError, InputError, LimitExceeded
from robustcodec.files import PICTURE_FORMATS, clean_name
from robustcodec.images import read_picture
from robustcodec.lab.evaluation.records import Picture
from robustcodec.pixels import Pixels

_GROUP_PIXELS = 1 << 19
"""Pixels of a group: eight crops of 256, or one whole picture of Kodak; what an interruption costs at most."""

MAX_PIXELS = 1 << 28
"""Of any picture of an evaluation."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A clean picture: what it is, and its pixels uint8 (height, width, 3)."""

    picture: Picture
    pixels: Pixels


@dataclass(frozen=True)
class Group:
    """Files of pictures that have one size and are attacked together."""

    paths: tuple[Path, ...]
    crop: int | None

    @property
    def data(self) -> str:
        """Name of the set."""
        return data_name(self.paths[0])

    def load(self) -> list[Subject]:
        """Read the pictures. Raises ImageError."""
        return [read_subject(path, self.crop) for path in self.paths]


def read_subject(path: Path, crop: int | None) -> Subject:
    """Read a picture, or the square of `crop` pixels in its middle (all of a side that is shorter).

    Raises ImageError, also for a picture that is too large.
    """
    try:
        pixels = read_picture(path.read_bytes(), sys.maxsize, admit=_admit).pixels
    except OSError as error:
        raise ImageError(f"{clean_name(path)} cannot be read: {error.strerror}") from error
    except (ImageError, LimitExceeded) as error:
        raise ImageError(f"{clean_name(path)}: {error}") from error
    if crop is not None:
        pixels = _centre(pixels, crop)
    height, width = pixels.shape[:2]
    picture = Picture(
        data=data_name(path), name=picture_name(path), crop=crop, width=width, height=height, sha256=digest(pixels)
    )
    return Subject(picture, pixels)


def picture_name(path: Path) -> str:
    """What results call a picture: its file's name without the suffix, in visible characters."""
    return clean_name(path.stem)


def data_name(path: Path) -> str:
    """What results call the set of a picture: its folder's name, in visible characters."""
    # not where a link to the picture leads
    return clean_name(path.parent.resolve().name)


def groups_of(folder: Path, crop: int | None) -> list[Group]:
    """Put the pictures of a folder (not of folders in it) into groups; they depend on the folder's content alone.

    Raises InputError for a folder without pictures, and for two pictures whose names differ in the suffix only.
    """
    if not folder.is_dir():
        raise InputError(f"{clean_name(folder)} is no folder; name one with pictures")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_FORMATS and path.is_file())
    if not paths:
        raise InputError(f"{clean_name(folder)} has no pictures; name a folder with PNG files or others")
    names = [picture_name(path) for path in paths]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise InputError(f"{clean_name(folder)} has two pictures named {clean_name(doubles[0])}; rename one of them")
    sizes: dict[tuple[int, int], list[Path]] = {}
    for path in paths:
        picture = read_subject(path, crop).picture
        sizes.setdefault((picture.height, picture.width), []).append(path)
    return [
        Group(tuple(part), crop)
        for (height, width), same in sizes.items()
        for part in _parts(same, max(1, _GROUP_PIXELS // (height * width)))
    ]


def digest(pixels: Pixels) -> str:
    """sha256 of a picture's size and samples."""
    return hashlib.sha256(f"{pixels.shape[1]}x{pixels.shape[0]}\n".encode() + pixels.tobytes()).hexdigest()


def _admit(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        # no option raises this limit, as what LimitExceeded advises
        raise ImageError(f"the picture has {width} x {height} pixels, more than {MAX_PIXELS}; shrink it")


def _parts(paths: list[Path], count: int) -> Iterator[list[Path]]:
    return (paths[start : start + count] for start in range(0, len(paths), count))


def _centre(pixels: Pixels, crop: int) -> Pixels:
    height, width = (min(side, crop) for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width].copy()

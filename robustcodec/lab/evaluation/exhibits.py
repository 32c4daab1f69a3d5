"""Pictures worth looking at: where an attack did most, cut to a window around its worst place."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustcodec.images import Picture, write_picture
from robustcodec.lab.evaluation.contenders import Contender
from robustcodec.lab.evaluation.crafting import read_pixels
from robustcodec.lab.evaluation.grid import clean_image
from robustcodec.lab.evaluation.records import Row
from robustcodec.lab.evaluation.summary import Cell, Line, sections
from robustcodec.metrics import bits_per_pixel, psnr
from robustcodec.pixels import Pixels
from robustcodec.rate import DEFAULT_TARGET

AMPLIFIED = 8
"""Factor by which noise and damage are shown."""

_MOST = 8
"""Exhibits at most, of six pictures each, so that the page has a few megabytes."""

_WINDOW = 384
_BLOCK = 64
_QUALITY = 92
_DIFFERENCE_QUALITY = 60
"""JPEG qualities of pictures and of differences, which are noise and take much space."""


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One attacked picture: its row and its cell, and JPEG files of a window of it by what they show.

    `bpp` and `psnr` are those of the clean picture at the same setting.
    """

    row: Row
    cell: Cell
    bpp: float
    psnr: float
    width: int
    height: int
    images: Mapping[str, bytes]


def exhibits(folder: Path, rows: Sequence[Row], contenders: Sequence[Contender]) -> tuple[list[Exhibit], int]:
    """Code the worst picture of each attack on each model anew, at the quality nearest the default.

    Models that are not among `contenders`, and pictures that are not in the folder, are passed over. Models take
    turns where there are more than fit onto a page; gives how many were left out, too.
    """
    at_hand = {(contender.name, contender.fingerprint): contender for contender in contenders}
    chosen: dict[Line, dict[tuple[object, ...], Cell]] = {}
    for section in sorted(sections(rows), key=lambda section: abs(section.quality - DEFAULT_TARGET.value)):
        for cell in section.cells:
            if cell.attack is None or (cell.line.model, cell.line.fingerprint) not in at_hand:
                continue
            if all((folder / image).is_file() for image in (cell.worst.image, clean_image(cell.worst.picture))):
                chosen.setdefault(cell.line, {}).setdefault((section.data, section.crop, cell.attack), cell)
    turns = itertools.zip_longest(*(cells.values() for cells in chosen.values()))
    dealt = [cell for turn in turns for cell in turn if cell is not None]
    shown = [_exhibit(folder, cell, at_hand[cell.line.model, cell.line.fingerprint]) for cell in dealt[:_MOST]]
    return shown, len(dealt) - len(shown)


def _exhibit(folder: Path, cell: Cell, contender: Contender) -> Exhibit:
    row = cell.worst
    clean, attacked = read_pixels(folder / clean_image(row.picture)), read_pixels(folder / row.image)
    code = contender.code(clean, row.quality)
    coded = code(clean)
    before, after = coded.pixels, code(attacked).pixels
    part = window(clean, after)
    shown = {
        "before": before,
        "after": after,
        "clean": clean,
        "attacked": attacked,
        "noise": amplified(attacked, clean),
        "damage": amplified(after, clean),
    }
    height, width = clean[part].shape[:2]
    images = {
        name: write_picture(
            Picture(pixels=pixels[part].copy()),
            "JPEG",
            _DIFFERENCE_QUALITY if name in ("noise", "damage") else _QUALITY,
        )
        for name, pixels in shown.items()
    }
    bpp = bits_per_pixel(len(coded.data), row.picture.width, row.picture.height)
    return Exhibit(row, cell, bpp, psnr(clean, before), width, height, images)


def amplified(a: Pixels, b: Pixels) -> Pixels:
    """Show the difference of two pictures, times `AMPLIFIED`, around grey."""
    difference = (a.astype(np.int32) - b) * AMPLIFIED + 128
    return np.clip(difference, 0, 255).astype(np.uint8)


def window(clean: Pixels, after: Pixels) -> tuple[slice, slice]:
    """The part of a picture around the block that came off worst."""
    error = np.square(after.astype(np.int32) - clean).sum(axis=2)
    height, width = error.shape
    rows, columns = range(0, height, _BLOCK), range(0, width, _BLOCK)
    worst = max(
        ((top, left) for top in rows for left in columns),
        key=lambda at: int(error[at[0] : at[0] + _BLOCK, at[1] : at[1] + _BLOCK].sum()),
    )
    top, left = (
        min(max(0, start + _BLOCK // 2 - _WINDOW // 2), max(0, side - _WINDOW))
        for start, side in zip(worst, (height, width), strict=True)
    )
    return slice(top, top + _WINDOW), slice(left, left + _WINDOW)

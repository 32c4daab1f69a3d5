"""A sheet of pictures to compare with the eye: two in a row, each under a short label."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robustcodec.pixels import Pixels

_COLUMNS = 2
_NARROWEST = 384
"""Panels are enlarged, by whole factors so that pixels stay square, until they are this wide."""
_GAP = 12
_PAPER, _INK = (255, 255, 255), (24, 24, 24)
_SMALLEST_LETTERS = 10


def sheet(panels: Sequence[tuple[str, Pixels]]) -> Pixels:
    """Lay out labelled pictures uint8 (H, W, 3) of one size, row by row, on one picture."""
    height, width = panels[0][1].shape[:2]
    factor = -(-_NARROWEST // width)
    height, width = height * factor, width * factor
    font = _font([label for label, _ in panels], width)
    strip = round(1.8 * font.size)
    rows = -(-len(panels) // _COLUMNS)
    size = (_COLUMNS * width + (_COLUMNS + 1) * _GAP, rows * (height + strip + _GAP))
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (label, pixels) in enumerate(panels):
        row, column = divmod(index, _COLUMNS)
        left, top = _GAP + column * (width + _GAP), row * (height + strip + _GAP)
        draw.text((left, top + strip / 2), label, _INK, font, anchor="lm")
        enlarged = np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)
        canvas.paste(Image.fromarray(enlarged), (left, top + strip))
    return np.asarray(canvas)


def _font(labels: Sequence[str], width: int) -> ImageFont.FreeTypeFont:
    """The largest letters, up to a 30th of a panel's width, in which every label fits above its panel."""
    size = width / 30
    font = _letters(size)
    longest = max(font.getlength(label) for label in labels)
    return font if longest <= width else _letters(max(_SMALLEST_LETTERS, size * width / longest))


def _letters(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font

"""Curves for other tools: CompressAI's JSON, and Bjøntegaard rates between curves."""

import hashlib
import itertools
import json
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from robustcodec.lab.evaluation.records import Assault, finite
from robustcodec.lab.evaluation.summary import Cell, Line, Section
from robustcodec.lab.evaluation.tables import Table, budget

_MINIMUM_POINTS = 4


@dataclass(frozen=True)
class Curve:
    """Cells of one line under one attack (None: clean), by rising quality."""

    data: str
    crop: int | None
    line: Line
    attack: Assault | None
    cells: tuple[Cell, ...]

    def means(self, figure: str) -> list[float]:
        """The mean of a figure at each quality."""
        return [cell.statistic(figure).mean for cell in self.cells]

    @property
    def title(self) -> str:
        """How legends call it."""
        return f"{self.line.title}, {self.attack.label if self.attack else 'clean'}"


def curves_of(parts: Sequence[Section]) -> list[Curve]:
    """Join the cells of all qualities to curves."""
    found: dict[tuple[str, int | None, Line, Assault | None], list[Cell]] = {}
    for section in sorted(parts, key=lambda section: section.quality):
        for cell in section.cells:
            found.setdefault((section.data, section.crop, cell.line, cell.attack), []).append(cell)
    return [Curve(*place, tuple(cells)) for place, cells in found.items()]


def compressai_json(curve: Curve) -> tuple[str, str]:
    """Name and content of a file that `python -m compressai.utils.plot` reads."""
    psnr, ms_ssim = curve.means("psnr"), curve.means("ms_ssim")
    document = {
        "name": curve.title,
        "description": f"{_conditions(curve)}; real files; PSNR(x, x_hat*), means over the pictures",
        "results": {
            "bpp": curve.means("bpp"),
            "psnr": psnr,
            "ms-ssim": ms_ssim,
            # its plots ask for these names
            "psnr-rgb": psnr,
            "ms-ssim-rgb": ms_ssim,
            "quality": [cell.rows[0].quality for cell in curve.cells],
        },
    }
    what = f"{curve.attack.label.replace(':', '-')}-{curve.attack.options}" if curve.attack else "clean"
    parts = [curve.data, str(curve.crop or "whole"), curve.line.title, what]
    return f"{file_name('-'.join(parts))}.json", json.dumps(finite(document), indent=1, allow_nan=False) + "\n"


def file_name(text: str) -> str:
    """What a file is called by a text that may have any characters: other texts give other names."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-")
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def rate_table(curves: Sequence[Curve]) -> Table | None:
    """Bjøntegaard rates of each model against the first, clean and under each attack; None if there is nothing to say.

    Curves need four qualities, and a PSNR that rises with the rate.
    """
    places: dict[tuple[str, int | None, Assault | None], list[Curve]] = {}
    for curve in curves:
        places.setdefault((curve.data, curve.crop, curve.attack), []).append(curve)
    rows = []
    for first, *others in places.values():
        for curve in others:
            rate = bd_rate(first, curve)
            if rate is not None:
                rows.append((_conditions(curve), curve.line.title, first.line.title, f"{rate:+.1f} %"))
    header = ("set and attack", "model", "against", "rate at equal PSNR(x, x̂*)")
    return Table("Bjøntegaard rates (Akima, bjontegaard package)", header, tuple(rows)) if rows else None


def bd_rate(anchor: Curve, curve: Curve) -> float | None:
    """Rate of a curve over that of the anchor at equal PSNR(x, x_hat*), in percent; None where it is not defined."""
    for one in (anchor, curve):
        psnr, bpp = one.means("psnr"), one.means("bpp")
        if len(psnr) < _MINIMUM_POINTS or not (_rises(psnr) and _rises(bpp)):
            return None
    if max(anchor.means("psnr")[0], curve.means("psnr")[0]) >= min(anchor.means("psnr")[-1], curve.means("psnr")[-1]):
        return None
    if find_spec("bjontegaard") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of small overlaps, which the curves show
        import bjontegaard

        rate = bjontegaard.bd_rate(
            anchor.means("bpp"),
            anchor.means("psnr"),
            curve.means("bpp"),
            curve.means("psnr"),
            method="akima",
            require_matching_points=False,
        )
    return float(rate)


def _conditions(curve: Curve) -> str:
    """Say what a curve was measured on, and under which attack."""
    crop = f", centre crops of {curve.crop}" if curve.crop else ""
    attack = f"{curve.attack.label}, {budget(curve.attack)}" if curve.attack else "clean"
    return f"{curve.data}{crop}, {attack}"


def _rises(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) for value in values) and all(a < b for a, b in itertools.pairwise(values))

"""Do some rows of a folder of results again: code the stored picture anew and compare."""

import random
from dataclasses import dataclass, fields
from pathlib import Path

from robustcodec.errors import InputError
from robustcodec.files import clean_name
from robustcodec.lab.evaluation.contenders import Contender
from robustcodec.lab.evaluation.crafting import read_pixels
from robustcodec.lab.evaluation.grid import clean_image
from robustcodec.lab.evaluation.records import Row, read_rows
from robustcodec.lab.evaluation.subjects import digest
from robustcodec.measure import Figures, measure

TOLERANCE = 1e-3
"""Of bits per pixel, decibels and all other figures."""

_EXACT = ("size", "sha256", "setting")
"""Figures of the file itself, which is another one where another processor rounds the analysis differently."""
_COMPARED = tuple(field.name for field in fields(Figures) if field.name not in _EXACT)


@dataclass(frozen=True)
class Rechecked:
    """A row and the figures it has now; `same_file` tells whether every byte of the file is the same."""

    row: Row
    now: Figures
    differences: tuple[str, ...]

    @property
    def same_file(self) -> bool:
        """Whether the file came out as it was; on another processor it may not, while figures agree."""
        return self.now.sha256 == self.row.figures.sha256

    def __str__(self) -> str:
        row = self.row
        files = "the same file" if self.same_file else "another file"
        result = "differs: " + "; ".join(self.differences) if self.differences else f"agrees to {TOLERANCE:g}"
        return f"{row.picture.name}, {row.model}, quality {row.quality:g}, {row.label}: {files}, {result}"


def rows_to_recheck(folder: Path, count: int, seed: int) -> tuple[list[Row], int]:
    """Draw rows whose pictures are in the folder; tell how many have none there. Raises InputError if all have none."""
    every = read_rows(folder)
    rows = [row for row in every if (folder / row.image).is_file() and _clean_path(folder, row).is_file()]
    if not rows:
        raise InputError(
            f"{clean_name(folder)} holds no results with their pictures; name a folder that evaluate wrote"
        )
    return random.Random(seed).sample(rows, min(count, len(rows))), len(every) - len(rows)


def recheck(folder: Path, row: Row, contender: Contender) -> Rechecked:
    """Measure a row again, with the contender of its name. Raises what reading and coding raise."""
    differences = []
    if contender.fingerprint != row.fingerprint:
        differences.append(f"the model is now {contender.fingerprint}, it was {row.fingerprint}")
    clean, pixels = read_pixels(_clean_path(folder, row)), read_pixels(folder / row.image)
    if digest(clean) != row.picture.sha256:
        differences.append("the clean picture is another one")
    epsilon = row.attack.epsilon if row.attack else None
    now = measure(contender.code(clean, row.quality), clean, pixels, quality=row.quality, epsilon=epsilon)
    for name in _COMPARED:
        before, after = getattr(row.figures, name), getattr(now, name)
        if before != after and not _near(before, after):
            differences.append(f"{name} was {before} and is {after}")
    return Rechecked(row, now, tuple(differences))


def _near(before: float | None, after: float | None) -> bool:
    """Whether two figures agree; nan and what is missing agree with nothing."""
    return before is not None and after is not None and abs(before - after) <= TOLERANCE


def _clean_path(folder: Path, row: Row) -> Path:
    return folder / clean_image(row.picture)

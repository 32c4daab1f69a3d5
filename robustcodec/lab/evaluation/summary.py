"""What rows come to: means with standard errors, worst cases, and differences between models, picture by picture."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from robustcodec.lab.evaluation.records import Assault, Row
from robustcodec.rate import score

Figure = Callable[[Row], float | None]

FIGURES: dict[str, Figure] = {
    "bpp": lambda row: row.figures.bpp,
    "bpp_y": lambda row: row.figures.bpp_y,
    "bpp_z": lambda row: row.figures.bpp_z,
    "psnr": lambda row: row.figures.psnr,
    "psnr_own": lambda row: row.figures.psnr_own,
    "psnr_input": lambda row: row.figures.psnr_input,
    "ms_ssim": lambda row: row.figures.ms_ssim,
    "worst_block": lambda row: row.figures.worst_block,
    "gain": lambda row: row.figures.gain,
    "score_change": lambda row: row.figures.score_change,
    "gradient_zero": lambda row: row.crafting.zero if row.crafting else None,
    "gradient_not_finite": lambda row: row.crafting.not_finite if row.crafting else None,
}
"""What is averaged, by its name in summary.csv."""


@dataclass(frozen=True)
class Statistic:
    """Mean and standard error (nan for fewer than two values) of `count` numbers; `left_out` more were not finite."""

    mean: float
    error: float
    count: int
    left_out: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Statistic":
        """Summarise numbers; None is passed over, what is not finite is left out and counted."""
        given = [value for value in values if value is not None]
        kept = [value for value in given if math.isfinite(value)]
        if not kept:
            return cls(math.nan, math.nan, 0, len(given))
        mean = math.fsum(kept) / len(kept)
        error = math.nan
        if len(kept) > 1:
            error = math.sqrt(math.fsum((value - mean) ** 2 for value in kept) / (len(kept) - 1) / len(kept))
        return cls(mean, error, len(kept), len(given) - len(kept))


@dataclass(frozen=True)
class Line:
    """A line of a table: a model, and the model its pictures were crafted on if that is another.

    `title` is how tables call it: with fingerprints where two have one name.
    """

    model: str
    fingerprint: str
    surrogate: str | None
    surrogate_fingerprint: str | None
    title: str


@dataclass(frozen=True)
class Cell:
    """The rows of one line under one attack (None: clean), at one quality, on one set."""

    line: Line
    attack: Assault | None
    rows: tuple[Row, ...]

    def statistic(self, figure: str) -> Statistic:
        """Summarise one of `FIGURES`."""
        return Statistic.of(FIGURES[figure](row) for row in self.rows)

    @cached_property
    def score(self) -> float:
        """J of the mean rate and the mean PSNR, as models are compared by it."""
        return score(self.statistic("bpp").mean, self.statistic("psnr_own").mean, self.rows[0].quality)

    @property
    def worst(self) -> Row:
        """The picture that comes off worst: the largest file under an attack on the rate, else the lowest PSNR."""
        if self.attack is not None and self.attack.target == "bpp":
            return max(self.rows, key=lambda row: row.figures.bpp)
        return min(self.rows, key=lambda row: row.figures.psnr)

    @property
    def worst_block(self) -> Row:
        """The picture with the worst block."""
        return min(self.rows, key=lambda row: row.figures.worst_block)

    def of_pictures(self, names: Collection[str]) -> "Cell":
        """The same of some pictures, by their names."""
        return Cell(self.line, self.attack, tuple(row for row in self.rows if row.picture.name in names))

    @property
    def held(self) -> int:
        """Pictures that kept the threat's bound."""
        return sum(row.holds is not False for row in self.rows)


@dataclass(frozen=True)
class Section:
    """All cells of one set, crop and quality: clean ones first, then attack by attack."""

    data: str
    crop: int | None
    quality: float
    cells: tuple[Cell, ...]

    @property
    def attacks(self) -> list[Assault]:
        """The attacks, each once, whatever pictures were crafted on."""
        return list(dict.fromkeys(cell.attack for cell in self.cells if cell.attack is not None))

    @property
    def count(self) -> int:
        """Number of pictures."""
        return len({row.picture.sha256 + row.picture.name for cell in self.cells for row in cell.rows})

    def of(self, attack: Assault | None) -> list[Cell]:
        """The cells under an attack."""
        return [cell for cell in self.cells if cell.attack == attack]

    def clean(self, line: Line) -> Cell | None:
        """The clean cell of a line's model."""
        same = (cell for cell in self.of(None) if cell.line.fingerprint == line.fingerprint)
        return next((cell for cell in same if cell.line.model == line.model), None)


def without_surrogate(attack: Assault) -> Assault:
    """The attack, whatever it was crafted on."""
    return dataclasses.replace(attack, surrogate=None, surrogate_fingerprint=None)


def sections(rows: Sequence[Row]) -> list[Section]:
    """Sort rows into sections, in the order in which models and attacks first appear."""
    places: dict[tuple[str, int | None, float], dict[tuple[Line, Assault | None], list[Row]]] = {}
    line_of = _lines(rows)
    for row in rows:
        attack = row.attack and without_surrogate(row.attack)
        line = line_of(row)
        place = places.setdefault((row.picture.data, row.picture.crop, row.quality), {})
        place.setdefault((line, attack), []).append(row)
    return [
        Section(
            *place,
            tuple(
                Cell(line, attack, tuple(sorted(same, key=lambda row: row.picture.name)))
                for (line, attack), same in sorted(cells.items(), key=lambda item: item[0][1] is not None)
            ),
        )
        for place, cells in sorted(places.items(), key=lambda item: (item[0][0], item[0][1] or 0, item[0][2]))
    ]


def _lines(rows: Sequence[Row]) -> Callable[[Row], Line]:
    """Give what tells each row's line of a table, among all the rows."""

    def parts(row: Row) -> list[tuple[str, str]]:
        attack = row.attack
        own = [(row.model, row.fingerprint)]
        if attack is None or attack.surrogate is None:
            return own
        return [*own, (attack.surrogate, attack.surrogate_fingerprint or "")]

    fingerprints: dict[str, set[str]] = {}
    for row in rows:
        for name, fingerprint in parts(row):
            fingerprints.setdefault(name, set()).add(fingerprint)

    def title(name: str, fingerprint: str) -> str:
        if len(fingerprints[name]) == 1:
            return name
        # what stands for the fingerprint of a classical codec is a sentence
        return f"{name} [{fingerprint if ' ' in fingerprint else fingerprint[:8]}]"

    def line(row: Row) -> Line:
        (name, fingerprint), *crafted_on = parts(row)
        if not crafted_on:
            return Line(name, fingerprint, None, None, title(name, fingerprint))
        ((surrogate, other),) = crafted_on
        shown = f"{title(name, fingerprint)} (crafted on {title(surrogate, other)})"
        return Line(name, fingerprint, surrogate, other, shown)

    return line


def inflation(cell: Cell, clean: Cell) -> tuple[Statistic, Statistic]:
    """The rate attacked over the same pictures' clean: the ratio of both means, and the mean of their ratios.

    They differ where small files grow by more than large ones.
    """
    rates = {row.picture.sha256: row.figures.bpp for row in clean.rows}
    pairs = [(row.figures.bpp, rates[row.picture.sha256]) for row in cell.rows if row.picture.sha256 in rates]
    if not pairs:
        return Statistic.of([]), Statistic.of([])
    before = math.fsum(clean for _, clean in pairs)
    ratio = math.fsum(attacked for attacked, _ in pairs) / before
    # the error of a ratio of means, to first order, is that of the mean of what the ratio leaves over
    rest = Statistic.of((attacked - ratio * clean) * len(pairs) / before for attacked, clean in pairs)
    return Statistic(ratio, rest.error, len(pairs), 0), Statistic.of(attacked / clean for attacked, clean in pairs)


def paired(cell: Cell, other: Cell, figure: str) -> Statistic:
    """Differences cell - other, picture by picture, over the pictures that both have."""
    theirs = {row.picture.sha256: FIGURES[figure](row) for row in other.rows}
    differences = []
    for row in cell.rows:
        a, b = FIGURES[figure](row), theirs.get(row.picture.sha256)
        if a is not None and b is not None:
            # the difference of two infinite PSNRs says nothing, and nan is left out like infinity
            differences.append(a - b if math.isfinite(a) and math.isfinite(b) else math.nan)
    return Statistic.of(differences)

"""The grid of an evaluation: every model, quality, attack and picture, each measured once and written at once."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustcodec import __version__
from robustcodec.errors import ImageError, UsageError
from robustcodec.files import WHOLE, Shard, clean_name
from robustcodec.lab.evaluation.contenders import Contender, Source
from robustcodec.lab.evaluation.crafting import attacked_pictures, read_pixels, set_name, write_pixels
from robustcodec.lab.evaluation.records import RESULTS, Assault, Crafting, Picture, Row, append_row, read_rows, writing
from robustcodec.lab.evaluation.subjects import Group, Subject, digest, picture_name
from robustcodec.measure import Code, Coded, Figures, measure
from robustcodec.metrics import bits_per_pixel, psnr
from robustcodec.pixels import Pixels

TARGETS = ("psnr", "bpp")
DEFAULT_METHOD = "paper"
NONE = "none"
"""Stands for no attacks."""
_RESTARTING = "strong"
"""The one method that can start more than once."""
_FREE = "-free"

Known = Mapping[tuple[object, ...], Figures]
"""Figures of the rows that a folder has, by their keys."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What to evaluate, a shard of the groups; `surrogate` is crafted on instead of each model itself."""

    groups: Sequence[Group]
    contenders: Sequence[Contender]
    attacks: Sequence[Assault]
    qualities: Sequence[float]
    surrogate: Source | None = None
    shard: Shard = WHOLE

    @property
    def share(self) -> Sequence[Group]:
        """The groups of the shard."""
        return self.groups[self.shard.index - 1 :: self.shard.count]

    @property
    def results(self) -> str:
        """Name of the file of results, of its own for each shard so that folders can be put together."""
        index, count = self.shard.index, self.shard.count
        return RESULTS if count == 1 else f"results-{index}-of-{count}.jsonl"


@dataclass(frozen=True, kw_only=True)
class Event:
    """What `evaluate` is doing: `done` of `total` rows, and of the attack in hand the step, steps and mean score.

    `share` is how much of its work is done, about, where rows that were known at the start are none.
    """

    done: int
    total: int
    what: str
    share: float = 0.0
    step: int = 0
    steps: int = 0
    score: float = 0.0


def parse_attacks(
    text: str,
    *,
    epsilon: float,
    steps: int,
    seed: int,
    restarts: int = 1,
    precision: str = "float32",
) -> tuple[Assault, ...]:
    """Read a list such as `psnr,bpp,strong:psnr-free`; `none` is an empty one and needs no torch. Raises UsageError."""
    if text == NONE:
        return ()
    from robustcodec.lab.attacks import METHODS

    if not (math.isfinite(epsilon) and 0 < epsilon <= 1):
        raise UsageError(f"the budget is a mean square above 0 and at most 1, such as 5e-4, not {epsilon:g}")
    attacks = []
    for item in text.split(","):
        method, separator, wanted = item.strip().rpartition(":")
        target = wanted.removesuffix(_FREE)
        if item.strip() == NONE:
            raise UsageError(f"--attacks has {NONE} beside others; it stands alone, for no attacks at all")
        if target not in TARGETS:
            raise UsageError(
                f"there is no target {target!r} in {item!r}; --attacks takes psnr, bpp, METHOD:psnr, METHOD:bpp, each "
                "with -free behind it for no bound on the other figure, or none"
            )
        name = method if separator else DEFAULT_METHOD
        if name not in METHODS:
            raise UsageError(f"there is no attack {name!r}; there are {', '.join(METHODS)}")
        attacks.append(
            Assault(
                method=name,
                target=target,
                bounded=not wanted.endswith(_FREE),
                epsilon=epsilon,
                steps=_steps_taken(name, steps),
                seed=seed,
                restarts=restarts if name == _RESTARTING else 1,
                precision=precision,
            )
        )
    if restarts > 1 and all(attack.method != _RESTARTING for attack in attacks):
        raise UsageError(f"--restarts is for {_RESTARTING}, which is not among --attacks; the others start once")
    if len(set(attacks)) < len(attacks):
        raise UsageError("--attacks names one attack twice; name each once")
    return tuple(attacks)


def _steps_taken(method: str, steps: int) -> int:
    """Say how many of the steps that are asked for a method takes."""
    from robustcodec.lab.attacks import Attack, Target, Threat, steps_taken

    return steps_taken(Attack(threat=Threat(Target.PSNR), method=method, steps=steps))


def evaluate(grid: Grid, folder: Path, report: Callable[[Event], None]) -> list[Row]:
    """Do what is missing of the grid in a folder of results, and give all rows of the folder.

    A row is written as soon as it is measured, so that an interrupted evaluation goes on where it was. Raises
    OutputError if another process does the same shard there.
    """
    if grid.share:
        with writing(folder / grid.results):
            _fill(grid, folder, report)
    return read_rows(folder)


def _fill(grid: Grid, folder: Path, report: Callable[[Event], None]) -> None:
    rows = read_rows(folder)
    known = {row.key: row.figures for row in rows}
    named = {_by_name(row) for row in rows}
    efforts = [effort for group in grid.share for effort in _efforts(grid, group, named)]
    total, whole = len(efforts), sum(efforts) or 1
    done = spent = 0

    def counted(event: Event) -> None:
        now = spent + efforts[done] * min(1.0, event.step / event.steps)
        report(dataclasses.replace(event, done=done, total=total, share=now / whole))

    for group in grid.share:
        for row in _rows_of_group(grid, folder, group, known, counted):
            if row is not None:
                append_row(folder / grid.results, row)
            spent += efforts[done]
            done += 1
            report(Event(done=done, total=total, what="", share=spent / whole))


def _by_name(row: Row) -> tuple[object, ...]:
    """What identifies a result before its picture has been read."""
    picture = row.picture
    return row.model, row.fingerprint, row.quality, row.attack, picture.data, picture.crop, picture.name


def _efforts(grid: Grid, group: Group, known: set[tuple[object, ...]]) -> Iterator[int]:
    """Estimate what each row of a group takes, in their order, in steps: coding a picture is taken for one.

    A search comes before the first row of its pictures, and once for all contenders that these are measured with.
    """
    names = [picture_name(path) for path in group.paths]
    for quality in grid.qualities:
        searched = set[tuple[Source | None, Assault]]()
        for contender in grid.contenders:
            source = _source(grid, contender)
            for attack in (None, *grid.attacks):
                efforts = [1] * len(names)
                if attack is not None and (source, attack) not in searched:
                    searched.add((source, attack))
                    efforts[0] += len(names) * attack.steps * attack.restarts
                asked = attack and _crafted_on(attack, contender, grid)
                column = contender.name, contender.fingerprint, quality, asked, group.data, group.crop
                yield from [0] * len(names) if known.issuperset((*column, name) for name in names) else efforts


def check_sets(groups: Sequence[Group], rows: Sequence[Row]) -> None:
    """Refuse a folder of pictures that has the name of another one in the results. Raises UsageError.

    A part of the pictures that there are results of is the same set, and so is one that has more.
    """
    given: dict[tuple[str, int | None], set[str]] = {}
    for group in groups:
        given.setdefault((group.data, group.crop), set()).update(map(picture_name, group.paths))
    for (data, crop), names in given.items():
        known = {row.picture.name for row in rows if (row.picture.data, row.picture.crop) == (data, crop)}
        if not (known <= names or names <= known):
            raise UsageError(
                f"the results have {clean_name(min(known - names))} of a set {clean_name(data)} that lies elsewhere; "
                "use another folder of results"
            )


def holds(attack: Assault, before: tuple[float, float], after: Figures) -> bool:
    """Whether attacked figures respect the bound of the threat; `before` is bpp and PSNR of the clean picture."""
    from robustcodec.lab.attacks.threat import Target, Threat

    return Threat(Target(attack.target), attack.bounded).holds(*before, after.bpp, after.psnr)


def _rows_of_group(
    grid: Grid, folder: Path, group: Group, known: Known, report: Callable[[Event], None]
) -> Iterator[Row | None]:
    """Yield the rows of a group, None for each that is known as it is.

    A group with another picture is another batch, whose attacked pictures are others.
    """
    subjects = group.load()
    for subject in subjects:
        _keep_clean(folder / clean_image(subject.picture), subject)
    for quality in grid.qualities:
        for contender in grid.contenders:
            bench = _Bench(contender, quality, {})
            for attack in (None, *(_crafted_on(attack, contender, grid) for attack in grid.attacks)):
                keys = {(contender.name, contender.fingerprint, quality, item.picture, attack) for item in subjects}
                if keys <= known.keys():
                    yield from [None] * len(subjects)
                else:
                    yield from _rows(bench, folder, subjects, attack, known, _source(grid, contender), report)


def _source(grid: Grid, contender: Contender) -> Source | None:
    """What pictures for a contender are crafted on: the surrogate, itself, or the first model."""
    if grid.surrogate is not None:
        return grid.surrogate
    return contender.source or next((other.source for other in grid.contenders if other.source), None)


def _crafted_on(attack: Assault, contender: Contender, grid: Grid) -> Assault:
    source = _source(grid, contender)
    if source is None or (source.name, source.fingerprint) == (contender.name, contender.fingerprint):
        return attack
    return dataclasses.replace(attack, surrogate=source.name, surrogate_fingerprint=source.fingerprint)


@dataclass(frozen=True, eq=False)
class _Bench:
    """A contender at a quality, with the clean pictures it has coded."""

    contender: Contender
    quality: float
    coded: dict[str, tuple[Code, Coded]]

    def clean(self, subject: Subject) -> tuple[Code, Coded]:
        """What codes a picture, and the clean picture coded."""
        name = subject.picture.name
        if name not in self.coded:
            try:
                code = self.contender.code(subject.pixels, self.quality)
                self.coded[name] = code, code(subject.pixels)
            except ImageError as error:
                raise ImageError(f"{name}: {error}") from error
        return self.coded[name]


def _rows(
    bench: _Bench,
    folder: Path,
    subjects: Sequence[Subject],
    attack: Assault | None,
    known: Known,
    source: Source | None,
    report: Callable[[Event], None],
) -> Iterator[Row | None]:
    images: list[tuple[Pixels, Crafting | None, str, str]]
    if attack is None:
        images = [(subject.pixels, None, __version__, clean_image(subject.picture)) for subject in subjects]
    else:
        assert source is not None  # contenders without gradients stand beside a model

        def progress(step: int, steps: int, scores: list[float]) -> None:
            score = math.fsum(scores) / max(1, len(scores))
            what = f"{attack.label} on {source.name} at quality {bench.quality:g}"
            report(Event(done=0, total=0, what=what, step=step, steps=steps, score=score))

        found = attacked_pictures(folder, source, subjects, attack, bench.quality, progress)
        images = [(item.pixels, item.crafting, item.version, item.image) for item in found]
    for subject, image in zip(subjects, images, strict=True):
        row = _row(bench, subject, attack, *image)
        yield None if known.get(row.key) == row.figures else row


def _row(
    bench: _Bench,
    subject: Subject,
    attack: Assault | None,
    pixels: Pixels,
    crafting: Crafting | None,
    version: str,
    image: str,
) -> Row:
    code, reference = bench.clean(subject)
    figures = measure(
        code if attack else lambda _: reference,
        subject.pixels,
        pixels,
        quality=bench.quality,
        epsilon=attack.epsilon if attack else None,
        reference=reference,
    )
    picture = subject.picture
    before = bits_per_pixel(len(reference.data), picture.width, picture.height), psnr(subject.pixels, reference.pixels)
    return Row(
        model=bench.contender.name,
        fingerprint=bench.contender.fingerprint,
        quality=bench.quality,
        picture=picture,
        attack=attack,
        figures=figures,
        holds=holds(attack, before, figures) if attack else None,
        crafting=crafting,
        image=image,
        version=version,
    )


def _keep_clean(path: Path, subject: Subject) -> None:
    if not path.exists():
        write_pixels(path, subject.pixels)
    elif digest(read_pixels(path)) != subject.picture.sha256:
        raise UsageError(f"{clean_name(path)} is another picture of that name; use another folder of results")


def clean_image(picture: Picture) -> str:
    """Where a clean picture lies in a folder of results."""
    return f"pictures/{set_name(picture)}/{picture.name}.png"

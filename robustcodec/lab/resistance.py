"""Numbers before and after hardening: clean and attacked figures of two models on a few held-out crops."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustcodec.bundle import Bundle
from robustcodec.errors import ImageError, TrainingError
from robustcodec.lab.evaluation.contenders import Learned
from robustcodec.lab.evaluation.grid import Event, Grid, evaluate
from robustcodec.lab.evaluation.records import Assault, Row
from robustcodec.lab.evaluation.subjects import Group, Subject, read_subject
from robustcodec.lab.evaluation.summary import Cell, Line
from robustcodec.lab.precision import Precision
from robustcodec.rate import score
from robustcodec.words import counted

_CROP = 256
_UNIT = 64
_STEPS = 50
"""Of each attack: enough to tell two models apart, in minutes; `robustcodec evaluate` takes more."""

_TOGETHER = 8
"""Crops that are attacked together: more take more memory."""

_LONGEST = 200
"""Bytes of a name: file systems take 255, with what is put behind it."""

_ATTACKS = (("paper", "psnr"), ("paper", "bpp"), ("strong", "psnr"), ("strong", "bpp"))


@dataclass(frozen=True, kw_only=True)
class Means:
    """Means over the crops, from real files; PSNRs in dB.

    `psnr` is PSNR(x, x_hat*), `psnr_own` PSNR(x*, x_hat*), `score` the J of the mean rate and the mean of `psnr_own`.
    `gain` is A, `growth` the ratio of attacked to clean bpp; both None without an attack.
    """

    bpp: float
    psnr: float
    psnr_own: float
    score: float
    gain: float | None
    growth: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The start and the result of a hardening under one attack (None: clean), at one quality, on the same crops."""

    attack: Assault | None
    quality: float
    pictures: int
    crop: int
    before: Means
    after: Means


class HeldOut(Group):
    """Pictures whose results are kept under names that any file system takes."""

    def load(self) -> list[Subject]:
        """Read the pictures. Raises ImageError."""
        return [
            dataclasses.replace(
                subject,
                picture=dataclasses.replace(
                    subject.picture, name=_shortened(subject.picture.name), data=_shortened(subject.picture.data)
                ),
            )
            for subject in super().load()
        ]


def _shortened(name: str) -> str:
    """Give a name, or the beginning of one that is too long and a digest of it, so that it is no other's."""
    data = name.encode()
    if len(data) <= _LONGEST:
        return name
    return f"{data[:_LONGEST].decode(errors='ignore')}-{hashlib.sha256(data).hexdigest()[:16]}"


def held_out(files: Sequence[Path], count: int) -> tuple[HeldOut, ...]:
    """Choose pictures, spread over the files, whose centre crops are attacked, some at a time.

    What cannot be read is passed over. Raises TrainingError if there is none of at least 64 pixels a side.
    """
    stride = max(1, len(files) // count)
    # those in between come last: they stand in for what cannot be read
    order = [file for offset in range(stride) for file in files[offset::stride]]
    chosen: list[Path] = []
    smallest = _CROP
    for path in order:
        try:
            picture = read_subject(path, _CROP).picture
        except ImageError:
            continue
        side = min(picture.width, picture.height)
        # attacked pictures are kept by their names
        if side >= _UNIT and path.stem not in {other.stem for other in chosen}:
            chosen.append(path)
            smallest = min(smallest, side // _UNIT * _UNIT)
        if len(chosen) == count:
            break
    if not chosen:
        raise TrainingError(f"no held-out picture is {_UNIT} pixels wide and high; give larger ones with --validation")
    groups = (chosen[start : start + _TOGETHER] for start in range(0, len(chosen), _TOGETHER))
    return tuple(HeldOut(tuple(group), smallest) for group in groups)


def compare(
    before: Bundle,
    after: Bundle,
    groups: Sequence[Group],
    quality: float,
    epsilon: float,
    precision: Precision,
    folder: Path,
    report: Callable[[Event], None],
) -> tuple[Comparison, ...]:
    """Attack both models with `paper` and `strong`, each on its own, and measure the shipped codecs.

    What is measured is kept in `folder`, in the form of `robustcodec evaluate`, and not measured again.
    """
    attacks = tuple(
        Assault(
            method=method,
            target=target,
            bounded=True,
            epsilon=epsilon,
            steps=_STEPS,
            seed=0,
            restarts=1,
            precision=precision,
        )
        for method, target in _ATTACKS
    )
    contenders = [Learned(before)]
    if after.fingerprint != before.fingerprint:
        contenders.append(Learned(after))
    rows = evaluate(Grid(groups=groups, contenders=contenders, attacks=attacks, qualities=[quality]), folder, report)
    wanted = {subject.picture for group in groups for subject in group.load()}
    rows = [row for row in rows if row.picture in wanted and row.quality == quality]
    return tuple(_comparisons(rows, before, after, attacks))


def _comparisons(
    rows: Sequence[Row], before: Bundle, after: Bundle, attacks: Sequence[Assault]
) -> Iterator[Comparison]:
    for attack in (None, *attacks):
        means = []
        for model in (before, after):
            clean, attacked = (_cell(rows, model, each) for each in (None, attack))
            means.append(_means(clean, attacked))
        first = attacked.rows[0]
        assert first.picture.crop is not None
        yield Comparison(
            attack=attack,
            quality=first.quality,
            pictures=len(attacked.rows),
            crop=first.picture.crop,
            before=means[0],
            after=means[1],
        )


def _cell(rows: Sequence[Row], model: Bundle, attack: Assault | None) -> Cell:
    fingerprint = model.fingerprint.hex()
    # by fingerprint: the name of a model may have changed since
    found = {row.picture: row for row in rows if row.fingerprint == fingerprint and row.attack == attack}
    return Cell(Line(model.id, fingerprint, None, None, model.id), attack, tuple(found.values()))


def _means(clean: Cell, attacked: Cell) -> Means:
    bpp, psnr, own = (attacked.statistic(name).mean for name in ("bpp", "psnr", "psnr_own"))
    is_attack = attacked.attack is not None
    return Means(
        bpp=bpp,
        psnr=psnr,
        psnr_own=own,
        score=score(bpp, own, attacked.rows[0].quality),
        gain=attacked.statistic("gain").mean if is_attack else None,
        growth=bpp / clean.statistic("bpp").mean if is_attack else None,
    )


def manifest_entries(comparisons: Sequence[Comparison], start: Bundle) -> list[dict[str, Any]]:
    """What a bundle's manifest keeps as `attacks`: one object for clean crops and for each attack."""
    origin = {"id": start.id, "fingerprint": start.fingerprint.hex()}
    return [
        {
            "attack": None if each.attack is None else each.attack.label,
            "epsilon": None if each.attack is None else each.attack.epsilon,
            "steps": None if each.attack is None else each.attack.steps,
            "quality": each.quality,
            "pictures": each.pictures,
            "crop": each.crop,
            "figures": _figures(each.after),
            "start": {**origin, "figures": _figures(each.before)},
        }
        for each in comparisons
    ]


def table(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Lay out the numbers before and after, a line each."""
    first = comparisons[0]
    yield f"{counted(first.pictures, 'held-out crop')} of {first.crop}x{first.crop}, quality {first.quality:g}"
    yield f"{'':46}{'before':>10}{'after':>10}"
    for each in comparisons:
        title = "clean" if each.attack is None else each.attack.label
        for label, name, form in _ROWS:
            values = [getattr(means, name) for means in (each.before, each.after)]
            # what compares with clean figures says nothing of themselves
            if None not in values and not (name == "psnr_own" and each.attack is None):
                yield f"{title:14}{label:32}" + "".join(f"{value:>10{form}}" for value in values)
                title = ""


_ROWS = (
    ("bits per pixel", "bpp", ".3f"),
    ("ratio to clean bits per pixel", "growth", ".3f"),
    ("PSNR to the clean picture, dB", "psnr", ".2f"),
    ("PSNR to what was encoded, dB", "psnr_own", ".2f"),
    ("J, rate and distortion", "score", ".3f"),
    ("adversarial gain A", "gain", ".2f"),
)


def _figures(means: Means) -> dict[str, float | None]:
    """As JSON, which has no infinity."""
    return {
        name: value if value is not None and math.isfinite(value) else None
        for name, value in dataclasses.asdict(means).items()
    }

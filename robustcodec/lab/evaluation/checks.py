"""An evaluation that doubts itself: signs that an attack has failed rather than that a model is robust.

Each warning has a code, which docs/evaluation.md explains.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from robustcodec.lab.evaluation.records import Assault, Row, mean

CONTROLS = ("noise", "noise-uniform", "offset")
ONE_STEP = ("fgsm",)
BLIND = ("simba",)
"""Searches without gradients, which whatever climbs on gradients should beat."""

_ZERO_SHARE = 0.5
"""Of a gradient; sparse ones occur where pictures are clipped."""
_EARLY = 0.1
"""Share of the steps after which a search should still find something better."""
_BPP_TOLERANCE = 0.05
"""Share of a file."""
_PSNR_TOLERANCE = 0.1
_BUDGET_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Warned:
    """A sign of failure: its code and one sentence."""

    code: str
    text: str

    def __str__(self) -> str:
        return f"{self.code}: {self.text} (docs/evaluation.md#{self.code.lower()})"


def check(rows: Sequence[Row]) -> list[Warned]:
    """Look for every sign of failure in the rows of an evaluation."""
    batches = list(_batches(rows))
    return [Warned(code, text) for code, find in _CHECKS.items() for text in dict.fromkeys(find(batches))]


@dataclass(frozen=True)
class _Batch:
    """All pictures of a set under one attack on one model at one quality."""

    model: str
    quality: float
    attack: Assault
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        crafted = f" (crafted on {self.attack.surrogate})" if self.attack.surrogate else ""
        return f"{self.attack.label} on {self.model}{crafted} at quality {self.quality:g}, N = {self.attack.steps}"

    @property
    def climbs(self) -> bool:
        """Whether the attack takes many steps along gradients."""
        return self.attack.method not in (*CONTROLS, *ONE_STEP, *BLIND)


def _batches(rows: Sequence[Row]) -> Iterator[_Batch]:
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row.attack is not None:
            place = (row.model, row.fingerprint, row.quality, row.picture.data, row.picture.crop, row.attack)
            found.setdefault(place, []).append(row)
    for same in found.values():
        attack = same[0].attack
        assert attack is not None
        yield _Batch(same[0].model, same[0].quality, attack, tuple(same))


def _strengths(first: _Batch, second: _Batch) -> tuple[float, float] | None:
    """Mean strengths of two attacks over the pictures for which both kept the threat's bound; None without any."""
    theirs = {row.picture.sha256: row for row in second.rows if row.holds}
    pairs = [(row, theirs[row.picture.sha256]) for row in first.rows if row.holds and row.picture.sha256 in theirs]
    if not pairs:
        return None
    return mean(_strength(row) for row, _ in pairs), mean(_strength(row) for _, row in pairs)


def _strength(row: Row) -> float:
    assert row.attack is not None
    if row.attack.target == "bpp":
        return row.figures.bpp
    return math.nan if row.figures.gain is None else row.figures.gain


def _pairs(batches: Sequence[_Batch], ignoring: Sequence[str]) -> Iterator[tuple[_Batch, _Batch]]:
    """Pairs of batches that are alike but for some options of the attack."""

    def place(batch: _Batch) -> tuple[object, ...]:
        attack = dataclasses.replace(batch.attack, **{name: _NOTHING[name] for name in ignoring})
        picture = batch.rows[0].picture
        return batch.rows[0].fingerprint, batch.model, batch.quality, picture.data, picture.crop, attack

    for index, first in enumerate(batches):
        for second in batches[index + 1 :]:
            if place(first) == place(second):
                yield first, second
                yield second, first


_OF_SEARCHES = ("method", "steps", "seed", "restarts", "precision")
"""What sets an attack apart from a control, to which steps and restarts mean nothing, and any seed is as good."""

_NOTHING: dict[str, Any] = {
    "method": "",
    "steps": 0,
    "seed": 0,
    "restarts": 0,
    "precision": "",
    "surrogate": None,
    "surrogate_fingerprint": None,
}


def _zero_gradients(batches: Sequence[_Batch]) -> Iterator[str]:
    for batch in batches:
        if batch.attack.method in (*CONTROLS, *BLIND):
            continue
        crafted = [row.crafting for row in batch.rows if row.crafting]
        zero, bad = mean(item.zero for item in crafted), mean(item.not_finite for item in crafted)
        if zero > _ZERO_SHARE:
            yield f"{zero:.0%} of the gradient of {batch.title} is exactly zero"
        if bad > 0:
            yield f"{bad:.2%} of the gradient of {batch.title} is not finite"


def _steps_did_not_help(batches: Sequence[_Batch]) -> Iterator[str]:
    for few, many in _pairs(batches, ["steps"]):
        if few.attack.steps < many.attack.steps and few.climbs:
            found = _strengths(few, many)
            if found and found[1] <= found[0]:
                fewer = few.attack.steps
                yield f"{many.title}, is no stronger than with {fewer} steps ({found[1]:.4g}, {found[0]:.4g})"
    for batch in batches:
        # where a bound is to be kept, a search passes by scores that break it, and its best is not its highest
        if not batch.climbs or batch.attack.bounded:
            continue
        early = [_best_step(row) <= _EARLY * batch.attack.steps for row in batch.rows if _has_trace(row)]
        if sum(early) > len(batch.rows) / 2:
            yield (
                f"{batch.title}, found its best in the first {_EARLY:.0%} of its steps for {sum(early)} of "
                f"{len(batch.rows)} pictures"
            )


def _has_trace(row: Row) -> bool:
    return row.crafting is not None and len(row.crafting.trace) > 2


def _best_step(row: Row) -> int:
    assert row.crafting is not None
    return max(row.crafting.trace, key=lambda point: (point[1], -point[0]))[0]


def _control_beat_attack(batches: Sequence[_Batch]) -> Iterator[str]:
    for attack, control in _pairs(batches, _OF_SEARCHES):
        white_box = attack.attack.method not in (*CONTROLS, *BLIND) and attack.attack.surrogate is None
        if control.attack.method in CONTROLS and white_box:
            found = _strengths(attack, control)
            if found and found[1] >= found[0]:
                yield f"{attack.title}, is no stronger than {control.attack.label} ({found[0]:.4g}, {found[1]:.4g})"


def _no_stronger(batches: Sequence[_Batch], than: Sequence[str]) -> Iterator[str]:
    """Searches along gradients that do no more than methods which cannot do much."""
    for climbing, other in _pairs(batches, _OF_SEARCHES):
        if other.attack.method in than and climbing.climbs and climbing.attack.surrogate is None:
            found = _strengths(climbing, other)
            if found and found[1] >= found[0]:
                yield f"{climbing.title}, is no stronger than {other.attack.label} ({found[0]:.4g}, {found[1]:.4g})"


def _transfer_beat_white_box(batches: Sequence[_Batch]) -> Iterator[str]:
    for white, transfer in _pairs(batches, ["surrogate", "surrogate_fingerprint"]):
        if white.attack.surrogate is None and transfer.attack.surrogate and white.attack.method not in CONTROLS:
            found = _strengths(white, transfer)
            if found and found[1] >= found[0]:
                other = transfer.attack.surrogate
                yield f"{white.title}, is no stronger than pictures from {other} ({found[0]:.4g}, {found[1]:.4g})"


def _torch_disagrees(batches: Sequence[_Batch]) -> Iterator[str]:
    for batch in batches:
        if batch.attack.surrogate is not None:
            continue
        rates, errors = [], []
        for row in batch.rows:
            expected, figures, picture = row.crafting, row.figures, row.picture
            if expected is None or expected.torch_bpp is None or expected.torch_psnr is None:
                continue
            container = 8 * _CONTAINER_BYTES / (picture.width * picture.height)
            rate = abs(expected.torch_bpp - figures.bpp)
            if rate > _BPP_TOLERANCE * figures.bpp + container:
                shown = f"{expected.torch_bpp:.3f} bpp and the file has {figures.bpp:.3f} ({picture.name})"
                rates.append((rate / figures.bpp, shown))
            error = abs(expected.torch_psnr - figures.psnr) if math.isfinite(figures.psnr) else 0.0
            if error > _PSNR_TOLERANCE:
                shown = f"{expected.torch_psnr:.2f} dB and the file gives {figures.psnr:.2f} dB ({picture.name})"
                errors.append((error, shown))
        for found in (rates, errors):
            if found:
                which = f"{len(found)} of {len(batch.rows)} pictures of {batch.title}"
                yield f"for {which}, torch expects something else, at worst {max(found)[1]}"


_CONTAINER_BYTES = 64
"""About what header and range coder add to the ideal code length."""


def _budget_broken(batches: Sequence[_Batch]) -> Iterator[str]:
    for batch in batches:
        for row in batch.rows:
            energy = 10 ** (-row.figures.psnr_input / 10)
            if energy > batch.attack.epsilon * (1 + _BUDGET_TOLERANCE):
                yield f"{row.picture.name}: noise of {energy:.3g} exceeds ε = {batch.attack.epsilon:g} ({batch.title})"


def _bound_broken(batches: Sequence[_Batch]) -> Iterator[str]:
    for batch in batches:
        broken = sum(row.holds is False for row in batch.rows)
        # a bound is promised for the model that pictures were crafted on
        if broken and batch.attack.surrogate is None:
            yield f"{broken} of {len(batch.rows)} pictures break the bound of the threat model ({batch.title})"


def _releases_mixed(batches: Sequence[_Batch]) -> Iterator[str]:
    releases = sorted({row.version for batch in batches for row in batch.rows})
    if len(releases) > 1:
        yield f"attacks of releases {' and '.join(releases)} stand side by side, whose searches may differ"


def _nothing_to_beat(batches: Sequence[_Batch]) -> Iterator[str]:
    beside = [
        first for first, second in _pairs(batches, _OF_SEARCHES) if second.attack.method in (*CONTROLS, *ONE_STEP)
    ]
    alone = [batch for batch in batches if batch.climbs and not batch.attack.surrogate and batch not in beside]
    if alone:
        attacks = [batch.attack for batch in alone]
        models = dict.fromkeys(batch.model for batch in alone)
        labels = dict.fromkeys(attack.label for attack in attacks)
        controls = dict.fromkeys(dataclasses.replace(each, method=_CONTROL[each.target]).label for each in attacks)
        yield (
            f"on {', '.join(models)}, no control stands beside {', '.join(labels)}; name {', '.join(controls)} in "
            "--attacks, too"
        )


_CONTROL = {"psnr": "offset", "bpp": "noise"}
"""What is worth beating first, by the target."""

_CHECKS: dict[str, Callable[[Sequence[_Batch]], Iterator[str]]] = {
    "E01": _zero_gradients,
    "E02": _steps_did_not_help,
    "E03": _control_beat_attack,
    "E04": partial(_no_stronger, than=ONE_STEP),
    "E05": _transfer_beat_white_box,
    "E06": _torch_disagrees,
    "E07": _budget_broken,
    "E08": _bound_broken,
    "E09": partial(_no_stronger, than=BLIND),
    "E10": _releases_mixed,
    "E11": _nothing_to_beat,
}
CODES = tuple(_CHECKS)

"""The guard: measures what a file will decode to before it is written, and does better where that breaks a contract.

The contract bounds PSNR between the picture that was handed in and the one that readers get, of the whole and of the
worst block, and the size; by what the caller asks for, by what the model's own contract expects of such a picture, or
by both. docs/guard.md says what is promised, and what is not.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from robustcodec import memory
from robustcodec.bundle import Bundle, damage_named
from robustcodec.codec import Codec, Encoded, encode_plain
from robustcodec.container import DEFAULT_LIMITS, Limits, unpack
from robustcodec.contract import Contract, Expectation, density, read_contract
from robustcodec.details import added, block_errors, describe
from robustcodec.errors import ContractViolation, CorruptFile, ImageError
from robustcodec.images import Picture
from robustcodec.metrics import bits_per_pixel, psnr, worst_block
from robustcodec.policy import DEFAULT_GUARD, Guard, OnViolation, Rung
from robustcodec.rate import DEFAULT_TARGET, STEP_MAX, STEP_MIN, BitsPerPixel, FileSize, Step, Target
from robustcodec.targets import most_bytes

MARGIN = 0.02
"""Decibels that measured PSNRs must lie above their floors: on other machines pixels may differ by a level."""

LOCAL = 10.0
"""Decibels that the worst block of 64 x 64 may lie below a floor that the caller asked for."""

_CHUNK = 9
"""Bytes of the container around metadata."""

_EXTREME = 4.0
"""Latents this many times beyond those of ordinary pictures may decode differently elsewhere."""

_SIGNS = ("expected_rate",)
"""What makes a result suspicious without breaking a floor or a cap, which is all that the ladder is for."""

_EFFORT = 2
"""Of the rung that refines."""

_DONE = {
    Rung.TRANSFORM: "coding it flipped or turned",
    Rung.STEP: "coding it at another quantisation step",
    Rung.REFINE: f"refining it, as --effort {_EFFORT} does",
    Rung.CLASSICAL: "coding it without the model, as AV1 or WebP",
    Rung.LOSSLESS: "storing it without the model, losslessly",
}
"""What a rung does, to someone who knows no rungs."""

_FINER = (0.7, 0.5, 0.35)
_COARSER = (1.4, 2.0)
"""Steps that are tried, in multiples of the first."""


class Status(StrEnum):
    """How a result stands."""

    OK = "ok"
    SUSPICIOUS = "suspicious"
    """It keeps what the caller asked for, but not what the model's own contract expects."""
    FALLBACK = "fallback"
    """A lower rung of the ladder keeps the contract."""
    VIOLATION = "violation"
    """What the caller asked for is not kept; on the ladder, not by any rung."""


def contract_of(bundle: Bundle) -> Contract | None:
    """Give a model's own contract, None if it has none. Raises ModelDamaged."""
    with damage_named(bundle.path):
        return read_contract(bundle.manifest.contract)


def measures(codec: Codec, guard: Guard) -> bool:
    """Whether results are decoded: they are not where nothing could come of it."""
    if guard.on_violation is OnViolation.WARN:
        return bounded(codec, guard)
    return guard.on_violation is not OnViolation.OFF


def bounded(codec: Codec, guard: Guard) -> bool:
    """Whether results are held to more than being finite: to a floor, a cap or the model's own contract."""
    contract = contract_of(codec.bundle)
    return contract is not None or guard.min_psnr is not None or guard.max_bpp is not None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was measured of a result, what was expected, and how it stands.

    `psnr` and `worst_block` are in dB, infinite for equal pictures; `bpp` is of the whole file. `expected` and
    `suspicion` (by how many margins the result is worse than expected, in what it is worst in; above 1 is suspicious)
    are None without a contract of the model. `broken` names what is not kept: psnr, block, bpp as the caller asked
    (or a target did), size (on the ladder: more than the samples take by themselves), and expected_psnr,
    expected_block, expected_added, expected_bpp, expected_latents, and, of the plain result alone, expected_rate: more
    bits than so many decibels should take and the latents' own probability tables expect. `first` is what the plain
    encoding broke, if `rung` (None: it was good enough, or there is no better) has replaced it. `tries` counts
    encodings.
    """

    status: Status
    psnr: float
    worst_block: float
    bpp: float
    expected: Expectation | None
    suspicion: float | None
    broken: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    rung: Rung | None = None
    tries: int = 1

    def document(self) -> dict[str, Any]:
        """Give it as values for JSON."""
        expected = self.expected and {
            "psnr": self.expected.psnr,
            "bpp": self.expected.bpp,
            "psnr_floor": self.expected.psnr_floor,
            "bpp_cap": self.expected.bpp_cap,
        }
        return {
            "status": self.status.value,
            "rung": self.rung and self.rung.value,
            "psnr": self.psnr,
            "worst_block": self.worst_block,
            "bpp": self.bpp,
            "expected": expected,
            "suspicion": self.suspicion,
            "broken": list(self.broken),
            "first": list(self.first),
            "tries": self.tries,
        }

    def sentence(self) -> str:
        """Say what is wrong, or what was done about it."""
        if self.status is Status.FALLBACK:
            return f"its plain encoding broke the contract ({_said(self.first)}); kept by {self._done}"
        what = {"suspicious": "unlike ordinary pictures", "violation": "contract violated"}.get(self.status, "ok")
        by = "" if self.rung is None else f", by {self._done}"
        fidelity = f"{self.psnr:.2f} dB, worst block {self.worst_block:.2f} dB"
        if math.isinf(self.psnr):
            fidelity = "every pixel kept"
        return f"{what} ({_said(self.broken)}): {fidelity}, {self.bpp:.3f} bpp{by}"

    @property
    def _done(self) -> str:
        assert self.rung is not None
        return _DONE[self.rung]


@dataclass(frozen=True)
class Guarded:
    """A file and the guard's verdict on it."""

    encoded: Encoded
    verdict: Verdict


def encode(
    codec: Codec,
    picture: Picture,
    target: Target = DEFAULT_TARGET,
    guard: Guard = DEFAULT_GUARD,
    *,
    limits: Limits = DEFAULT_LIMITS,
    effort: int = 0,
) -> Guarded:
    """Encode a picture, measure what readers will get, and act on it as the guard says.

    The result always has a reconstruction. Raises what `Codec.encode` raises, ContractViolation where the guard says
    so, and ImageError for a picture of which the model makes nothing finite, where no other rung may be taken.
    """
    alpha = picture.alpha is not None
    memory.check(
        memory_to_encode(codec, picture.width, picture.height, target, guard, effort, alpha), limits.max_memory
    )
    judge = _Judge(codec, picture, target, guard, effort)
    try:
        first = judge.look(codec.encode(picture, target, limits=limits, measure=True, effort=effort), None, effort)
    except (CorruptFile, ImageError) as error:
        if guard.on_violation is not OnViolation.FALLBACK:
            raise ImageError(
                "the model makes nothing finite of this picture, which may be meant to do harm; "
                "--on-violation fallback encodes it without the model"
            ) from error
        first = None
    if first is not None and not first.broken:
        return first.guarded(Status.OK, ())
    if guard.on_violation is not OnViolation.FALLBACK or (first is not None and first.broken == _SIGNS):
        assert first is not None
        found = first.guarded(first.blame(), ())
        if guard.on_violation is OnViolation.FAIL:
            raise ContractViolation(
                f"nothing was written: {found.verdict.sentence()}; ask for another quality, or let --on-violation "
                "fallback do better"
            )
        return found
    best = first
    for seen in _ladder(judge, first, guard, limits):
        best = seen if best is None or seen.rank < best.rank else best
        if not seen.broken:
            break
    if best is None:
        raise ImageError(
            "the model makes nothing finite of this picture; allow a rung without it: classical or lossless"
        )
    if best is first:
        return best.guarded(best.blame(), (), judge.tries)
    broken = first.broken if first is not None else ("finite",)
    return best.guarded(best.blame() if best.broken else Status.FALLBACK, broken, judge.tries)


def memory_to_encode(
    codec: Codec, width: int, height: int, target: Target, guard: Guard, effort: int = 0, alpha: bool = False
) -> int:
    """Give the bytes that reading a picture of this size and encoding it here may take: see `robustcodec.memory`."""
    falls_back = guard.on_violation is OnViolation.FALLBACK
    turns = falls_back and Rung.TRANSFORM in guard.rungs
    return max(
        codec.memory_to_encode(
            *sides,
            target,
            measures(codec, guard),
            alpha,
            refines=effort > 0 or (falls_back and Rung.REFINE in guard.rungs),
            falls_back=falls_back and bool({Rung.CLASSICAL, Rung.LOSSLESS} & set(guard.rungs)),
        )
        # lying on its side a tall picture may have strips of many more pixels
        for sides in ([(width, height), (height, width)] if turns else [(width, height)])
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    """An encoding that was measured."""

    encoded: Encoded
    rung: Rung | None
    psnr: float
    worst_block: float
    bpp: float
    expected: Expectation | None
    suspicion: float | None
    broken: tuple[str, ...]
    lacking: float
    """Decibels below a floor that was asked for."""

    @property
    def floors_kept(self) -> bool:
        return not set(self.broken) - {"size", "bpp", "expected_bpp", *_SIGNS}

    @property
    def rank(self) -> tuple[float, bool, bool, float, int]:
        """Less is better: what was asked for wins over what was expected, a floor over a cap.

        Of those below a floor that was asked for the nearest is best, and of those that fall short of an expected one
        the least suspicious, not the smallest: it falls shortest.
        """
        short = 1.0 if self.floors_kept or self.suspicion is None else max(self.suspicion, 1.0)
        return self.lacking, "size" in self.broken, "bpp" in self.broken, short, len(self.encoded.data)

    def blame(self) -> Status:
        """How it stands if nothing is done."""
        return Status.VIOLATION if {"psnr", "block", "size", "bpp"} & set(self.broken) else Status.SUSPICIOUS

    def guarded(self, status: Status, first: tuple[str, ...], tries: int = 1) -> Guarded:
        verdict = Verdict(
            status=status,
            psnr=self.psnr,
            worst_block=self.worst_block,
            bpp=self.bpp,
            expected=self.expected,
            suspicion=self.suspicion,
            broken=self.broken,
            first=first,
            rung=self.rung,
            tries=tries,
        )
        return Guarded(self.encoded, verdict)


class _Judge:
    """Measures encodings of one picture; what is expected follows from the step of the first."""

    def __init__(self, codec: Codec, picture: Picture, target: Target, guard: Guard, effort: int) -> None:
        self.codec = codec
        self.effort = effort
        self.picture = picture
        self.tries = 0
        self._guard = guard
        self._target_bytes = most_bytes(target, picture) if isinstance(target, BitsPerPixel | FileSize) else math.inf
        """The plain result keeps to a target by itself, but other rungs know none."""
        self._contract = contract_of(codec.bundle)
        self._expected: Expectation | None = None
        self._short = math.inf
        """PSNR of a plain result that is as expected, but short of a floor that was asked for."""

    def look(self, encoded: Encoded, rung: Rung | None, effort: int = 0) -> _Seen:
        """Measure an encoding that has its reconstruction, and whose latents an effort went into."""
        assert encoded.reconstruction is not None
        self.tries += 1
        picture, shown = self.picture, encoded.reconstruction
        if self._expected is None and self._contract is not None and encoded.step:
            self._expected = self._contract.expect(describe(picture.pixels), encoded.step)
        found = psnr(picture.pixels, shown)
        local = worst_block(picture.pixels, shown)
        bpp = bits_per_pixel(len(encoded.data), picture.width, picture.height)
        broken: list[str] = []
        lacking = 0.0
        suspicion = None
        if self._guard.min_psnr is not None:
            short = self._guard.min_psnr + MARGIN - found, self._guard.min_psnr + MARGIN - LOCAL - local
            broken += [name for name, decibels in zip(("psnr", "block"), short, strict=True) if decibels > 0]
            lacking = max(*short, 0.0)
        over = self._guard.max_bpp is not None and bpp > self._guard.max_bpp
        broken += ["bpp"] * (over or len(encoded.data) > self._target_bytes)
        if self._guard.on_violation is OnViolation.FALLBACK:
            broken += ["size"] * (len(encoded.data) > _most(picture))
        if self._expected is not None:
            bits = 8.0 * sum(map(len, unpack(encoded.data, _ANY).payload))
            if encoded.step:
                above = min(self._expected.psnr if effort else math.inf, self._short)
                bits -= self._well_spent(above, found, encoded.step) * picture.width * picture.height
            coded, foreseen = (density(each, picture.width, picture.height) for each in (bits, encoded.expected))
            errors, more = block_errors(picture.pixels, shown), added(picture.pixels, shown)
            worse = self._expected.shortfalls(found - MARGIN, coded, errors, more)
            if self._contract is not None:
                worse["latents"] = encoded.largest / (_EXTREME * self._contract.latent)
            if rung is None:
                worse["rate"] = self._expected.wastefulness(found, coded, foreseen)
            if self._short < math.inf and not encoded.step:
                del worse["bpp"]  # what the model takes at the first step says nothing of others at a higher floor
            if rung is None and {"psnr", "block"} & set(broken) and max(worse.values()) <= 1:
                self._short = found
            broken += [f"expected_{name}" for name, margins in worse.items() if margins > 1]
            suspicion = max(worse.values())
        return _Seen(encoded, rung, found, local, bpp, self._expected, suspicion, tuple(broken), lacking)

    def _well_spent(self, above: float, found: float, step: int) -> float:
        """Give the bits per pixel that refinement or a finer step may have spent on a PSNR above that of plain latents.

        They are traded by the Lagrangian, so never for less.
        """
        gained = 10 ** (-above / 10) - 10 ** (-found / 10)
        return max(gained, 0.0) * self.codec.bundle.manifest.lagrangian(step) * 255**2

    @property
    def has_floor(self) -> bool:
        """Whether anything bounds fidelity."""
        return self._guard.min_psnr is not None or self._expected is not None


_ANY = Limits(max_pixels=1 << 56, max_metadata=1 << 62)


def _ladder(judge: _Judge, first: _Seen | None, guard: Guard, limits: Limits) -> Iterator[_Seen]:
    """Give what each allowed rung comes to."""
    rungs: dict[Rung, Callable[[_Judge, _Seen, Limits], Iterator[_Seen]]] = {
        Rung.TRANSFORM: _transforms,
        Rung.STEP: _steps,
        Rung.REFINE: _refinements,
    }
    for rung in (rung for rung in Rung if rung in guard.rungs):
        if rung is Rung.CLASSICAL:
            yield from _classical(judge, limits)
        elif rung is Rung.LOSSLESS:
            yield from _plain(judge, None, limits)
        elif first is not None:  # what is not finite under one transform or step is not worth asking the network again
            yield from rungs[rung](judge, first, limits)


def _transforms(judge: _Judge, first: _Seen, limits: Limits) -> Iterator[_Seen]:
    for transform in range(1, 8):
        yield from _network(judge, Rung.TRANSFORM, first.encoded.step, limits, transform)


def _steps(judge: _Judge, first: _Seen, limits: Limits) -> Iterator[_Seen]:
    for factor in _COARSER if first.floors_kept else _FINER:
        step = min(max(round(first.encoded.step * factor), STEP_MIN), STEP_MAX)
        yield from _network(judge, Rung.STEP, step, limits)


def _refinements(judge: _Judge, first: _Seen, limits: Limits) -> Iterator[_Seen]:
    for factor in (1.0, _COARSER[0] if first.floors_kept else _FINER[0]):
        step = min(max(round(first.encoded.step * factor), STEP_MIN), STEP_MAX)
        yield from _network(judge, Rung.REFINE, step, limits, effort=_EFFORT)


def _network(
    judge: _Judge, rung: Rung, step: int, limits: Limits, transform: int = 0, effort: int | None = None
) -> Iterator[_Seen]:
    effort = judge.effort if effort is None else max(effort, judge.effort)
    try:
        encoded = judge.codec.encode(
            judge.picture, Step(step), limits=limits, measure=True, transform=transform, effort=effort
        )
    except (CorruptFile, ImageError):
        return
    yield judge.look(encoded, rung, effort)


def _classical(judge: _Judge, limits: Limits) -> Iterator[_Seen]:
    """Look for the lowest quality that keeps the floors, or, where there are none, the highest that keeps the cap."""
    low, high = 0, 100
    best: _Seen | None = None
    while low <= high:
        quality = (low + high) // 2
        seen = next(_plain(judge, quality, limits), None)
        if seen is None:
            return
        if seen.floors_kept if judge.has_floor else bool(seen.broken):
            high = quality - 1
        else:
            low = quality + 1
        if best is None or seen.rank < best.rank or not (judge.has_floor or seen.broken):
            best = seen
    if best is not None:
        yield best


def _plain(judge: _Judge, quality: int | None, limits: Limits) -> Iterator[_Seen]:
    encoded = encode_plain(judge.picture, quality, limits)
    if encoded is not None:
        yield judge.look(encoded, Rung.LOSSLESS if quality is None else Rung.CLASSICAL)


def _most(picture: Picture) -> int:
    """Bytes that a lossless file of a picture never exceeds, so that no other one needs to."""
    metadata = sum(len(part) + _CHUNK for part in (picture.icc, picture.exif, picture.xmp) if part is not None)
    samples = picture.width * picture.height * ((1 if picture.grey else 3) + (picture.alpha is not None))
    return samples + samples // 1000 + 64 + metadata


def _said(broken: tuple[str, ...]) -> str:
    return ", ".join(name.replace("_", " ") for name in broken)

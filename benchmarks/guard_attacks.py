"""Attacks that know the guard: on its margins, on its ladder, and through refinement of latents.

    python benchmarks/guard_attacks.py -m weights/hyper-robust $DATA/kodak --count 8 -o attacks.jsonl

All climb along the gradient within mean n^2 <= epsilon, on centre crops, on the codec without its rounding. By how much
that errs about the guard is seen at every fifth step, in the real file. What they come to is measured on real files,
once as the network alone codes the attacked picture, and once by the guard with fallback. What is aimed at:

free        MSE(x, x_hat*), whatever the guard says
distortion  MSE(x, x_hat*), as long as the guard says ok
bits        bytes, as long as the guard says ok
block       MSE(x*, x_hat*) of the worst block of 64 x 64, as long as the guard says ok
force       whatever takes the ladder most surely, with ever less noise: what the least noise is that takes it
refined     MSE(x, x_hat*) of latents that are refined (effort 1), through all steps of the refinement;
blind       the same without it: through the analysis alone, and the attacked picture is refined afterwards

One line of JSON a picture and attack, and Markdown tables at the end; lines that are in -o already are not made again.
Needs robustcodec[lab].
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcodec import guard as guards
from robustcodec import refine
from robustcodec.bundle import find
from robustcodec.codec import Codec, Encoded
from robustcodec.contract import _PEDESTAL, _UNFORESEEN, Contract, Expectation, read_contract
from robustcodec.details import _COLOURS, _LEVELS, BLOCK, describe
from robustcodec.files import PICTURE_FORMATS
from robustcodec.images import Picture, read_picture
from robustcodec.lab.attacks.budget import LEVELS, fit_l2, to_levels
from robustcodec.lab.attacks.pictures import batch_of
from robustcodec.lab.attacks.projected import Norm, direction
from robustcodec.lab.attacks.shipped import victim_of
from robustcodec.lab.attacks.threat import DEFAULT_EPSILON
from robustcodec.lab.attacks.victim import Victim, code, unrounded
from robustcodec.metrics import psnr, worst_block
from robustcodec.pixels import Pixels
from robustcodec.policy import DEFAULT_GUARD, Guard, OnViolation
from robustcodec.rate import STEP_UNIT, Quality
from robustcodec.strips import prepare_strip
from robustcodec.transforms import analyse

QUALITY = Quality(4.0)
EFFORT = 1
LOOK = 5
"""Steps between two looks at the real file."""
NEAR = 0.97
"""Share of a margin that a search uses."""
LEAST = tuple(DEFAULT_EPSILON / 4**k for k in range(4))
"""Budgets of `force`."""
SHARES = tuple(np.linspace(1, 0, 21))
FIRST, LAST = 3.0, 0.05
"""Length of the first and the last step in radii of the budget; long ones turn the noise, as power iteration does."""


@dataclass(frozen=True)
class Subject:
    """A model, as an attacker has it."""

    codec: Codec
    victim: Victim
    contract: Contract
    step: int

    def look(self, pixels: Pixels, guard: Guard = DEFAULT_GUARD, effort: int = 0) -> guards.Guarded:
        """Encode a picture as the guard has it; without one that acts it is what the network alone makes of it."""
        return guards.encode(self.codec, Picture(pixels=pixels), QUALITY, guard, effort=effort)


def shown(encoded: Encoded) -> Pixels:
    assert encoded.reconstruction is not None
    return encoded.reconstruction


def tensor(pixels: Pixels) -> Tensor:
    return batch_of([np.ascontiguousarray(pixels)])


def levels(noise: Tensor, x: Tensor, epsilon: float) -> Pixels:
    return np.ascontiguousarray(to_levels(noise, x, epsilon)[0].permute(1, 2, 0).numpy())


# --- what is climbed on --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What an attacker believes about a picture: all can be differentiated. Margins as `Expectation` has them."""

    mse: Tensor
    bpp: Tensor
    errors: Tensor
    margins: Tensor
    """By how many margins the result is worse than expected, in each respect and block; one is allowed."""


def believed(subject: Subject, x: Tensor, noise: Tensor, foreseen: float) -> Seen:
    """Code one picture; the expectation is that of the picture as it stands, and taken for constant.

    So are the bits per pixel that its tables foresee.
    """
    figures = code(subject.victim, x + noise, x, unrounded)
    expected = subject.contract.expect(describe(levels(noise.detach(), x, 1.0)), subject.step)
    own = (figures.x_hat - (x + noise)).square().mean(1, keepdim=True)
    errors = torch.nn.functional.avg_pool2d(own, BLOCK)[0, 0]
    more = added(x + noise, figures.x_hat)
    found = margins(expected, own.mean(), figures.bpp[0], errors, more, foreseen)
    return Seen(figures.mse[0], figures.bpp[0], errors, found)


def added(a: Tensor, b: Tensor) -> Tensor:
    """Give what `robustcodec.details.added` gives, on a scale where white is 1, for sides of whole blocks."""
    smooth, other = (torch.einsum("kc,nchw->nkhw", torch.from_numpy(_COLOURS), each) for each in (a, b))
    total = torch.zeros(1, 1, a.shape[2] // BLOCK, a.shape[3] // BLOCK)
    size = BLOCK
    while size > BLOCK >> _LEVELS:
        (details, smooth), (others, other) = haar(smooth), haar(other)
        beyond = torch.maximum(others - details.clamp(min=0), details.clamp(max=0) - others).clamp(min=0)
        size //= 2
        total = total + size**2 * torch.nn.functional.avg_pool2d(beyond.square().sum(1, keepdim=True), size)
    total = total + size**2 * torch.nn.functional.avg_pool2d((smooth - other).square().sum(1, keepdim=True), size)
    return total[0, 0] / (3 * BLOCK**2)


def haar(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Give the orthonormal details of one level and what remains."""
    corners = [plane[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    smooth, *details = torch.einsum("kc,cnphw->knphw", signs, torch.stack(corners))
    return torch.cat(details, 1), smooth


def margins(expected: Expectation, own: Tensor, bpp: Tensor, errors: Tensor, more: Tensor, foreseen: float) -> Tensor:
    harmless = _PEDESTAL * (expected.step / STEP_UNIT / LEVELS) ** 2
    found, each, new = (-10 * value.clamp(min=1e-9).log10() for value in (own, errors, more + harmless))
    likeliest, margin = expected.rate_of(float(found.detach()))
    blocks = (torch.tensor(expected.blocks) - each) / torch.tensor(expected.block_margins)
    news = (torch.tensor(expected.added) - new) / torch.tensor(expected.added_margins)
    return torch.cat(
        [
            blocks.flatten(),
            news.flatten(),
            ((expected.psnr + guards.MARGIN - found) / expected.psnr_margin)[None],
            ((bpp.log() - math.log(expected.bpp)) / expected.bpp_margin)[None],
            ((bpp.log() + _UNFORESEEN * (bpp / foreseen).log() - likeliest) / margin)[None],
        ]
    ).float()


Aim = Callable[[Seen], Tensor]
AIMS: dict[str, Aim] = {
    "free": lambda seen: seen.mse,
    "distortion": lambda seen: seen.mse,
    "bits": lambda seen: seen.bpp,
    "block": lambda seen: seen.errors.max(),
    "force": lambda seen: seen.margins[:-1].max(),  # waste is a mere sign
}


Worth = Callable[[Pixels, guards.Guarded], float]


def climb(subject: Subject, clean: Pixels, aim: str, epsilon: float, steps: int, worth: Worth) -> Pixels:
    """Give the attacked picture that is worth most of those that were looked at."""
    x, radius = tensor(clean), math.sqrt(epsilon)
    generator = torch.Generator().manual_seed(0)
    noise = fit_l2(0.5 * radius * torch.randn(x.shape, generator=generator), x, epsilon)
    looked = subject.look(clean)
    best, most, more = clean, worth(clean, looked), 0.0
    for count in range(steps):
        noise = noise.detach().requires_grad_()
        seen = believed(subject, x, noise, looked.encoded.expected / (clean.shape[0] * clean.shape[1]))
        if count % LOOK == 0:
            found = levels(noise.detach(), x, epsilon)
            looked = subject.look(found)
            more = (looked.verdict.suspicion or 0.0) - float(seen.margins.detach().max())
            best, most = max((best, most), (found, worth(found, looked)), key=lambda each: each[1])
        beyond = (seen.margins + more - NEAR).clamp(min=0).sum()
        score = AIMS[aim](seen) if aim in ("free", "force") or beyond == 0 else -beyond
        (gradient,) = torch.autograd.grad(score, noise)
        stride = radius * FIRST * (LAST / FIRST) ** (count / steps)
        noise = fit_l2(noise.detach() + stride * direction(gradient, Norm.L2), x, epsilon)
    # of the last noise as much as is worth most: all of it, or, where that breaks what is to hold, less
    for share in SHARES:
        found = levels(float(share) * noise, x, epsilon)
        value = worth(found, subject.look(found))
        if value > most:
            return found
        if best is not clean:
            break
    return best


# --- through refinement --------------------------------------------------------------------------------------


def refined(subject: Subject, x: Tensor, u: Tensor) -> Tensor:
    """Refine latents u (in units of their step) of x as the encoder does, so that it can be differentiated."""
    architecture = subject.codec._architecture
    pixels = np.ascontiguousarray((x.detach()[0].permute(1, 2, 0) * LEVELS).round().clamp(0, LEVELS).byte().numpy())
    # nobody knows the offsets of a dither before the picture is made; on average there are none
    strip = prepare_strip(architecture, analyse(architecture, pixels, 0, pixels.shape[0]))
    index, _ = refine._given(strip, subject.step)
    slopes = torch.from_numpy(refine._slopes(architecture.y_tables))
    tables = torch.from_numpy(index.astype(np.int64))
    steps = refine.STEPS[EFFORT].soft
    weight = 2 * subject.codec.bundle.manifest.lagrangian(subject.step) * LEVELS**2 / 3
    average, square = torch.zeros_like(u), torch.zeros_like(u)
    for count in range(steps):
        progress = count / max(1, steps - 1)
        steepness = refine._SOFT * (refine._HARD / refine._SOFT) ** progress
        soft = softly_rounded(u, steepness)
        x_hat = subject.victim.synthesise(soft, *x.shape[2:]).clamp(0, 1)
        error = weight * (x_hat - x).square().sum() / 2
        (of_error,) = torch.autograd.grad(error, u, create_graph=True)
        place = (u.detach().floor().clamp(-refine._REACH, refine._REACH - 1).long() + refine._REACH)[0]
        gradient = of_error + slopes[tables, place] * slope(u, steepness)
        average = average + (1 - refine._MEAN) * (gradient - average)
        square = square + (1 - refine._SQUARE) * (gradient.square() - square)
        corrected = math.sqrt(1 - refine._SQUARE ** (count + 1)) / (1 - refine._MEAN ** (count + 1))
        rate = refine._RATE + (refine._LAST_RATE - refine._RATE) * progress
        u = u - rate * corrected * average / ((square + 1e-12).sqrt() + 1e-6)
    return u


def softly_rounded(u: Tensor, steepness: float) -> Tensor:
    floor = u.detach().floor()
    return floor + 0.5 + 0.5 / math.tanh(steepness / 2) * torch.tanh(steepness * (u - floor - 0.5))


def slope(u: Tensor, steepness: float) -> Tensor:
    bend = torch.tanh(steepness * (u - u.detach().floor() - 0.5))
    return steepness * 0.5 / math.tanh(steepness / 2) * (1 - bend.square())


def through_refinement(subject: Subject, clean: Pixels, steps: int, through: bool) -> Pixels:
    """Maximise MSE(x, x_hat*) of refined latents, through the refinement or blind to it; keep the best real file."""
    x, radius = tensor(clean), math.sqrt(DEFAULT_EPSILON)
    noise = fit_l2(0.5 * radius * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), x, DEFAULT_EPSILON)
    best, most = clean, -math.inf
    for count in range(steps):
        noise = noise.detach().requires_grad_()
        u = subject.victim.analyse(x + noise)
        if through:
            u = refined(subject, x + noise, u)
        x_hat = subject.victim.synthesise(u, *x.shape[2:]).clamp(0, 1)
        (gradient,) = torch.autograd.grad((x_hat - x).square().mean(), noise)
        stride = radius * FIRST * (LAST / FIRST) ** (count / steps)
        noise = fit_l2(noise.detach() + stride * direction(gradient, Norm.L2), x, DEFAULT_EPSILON)
        if count % LOOK == LOOK - 1 or count == steps - 1:
            pixels = levels(noise, x, DEFAULT_EPSILON)
            value = -psnr(clean, shown(subject.look(pixels, effort=EFFORT).encoded))
            best, most = (pixels, value) if value > most else (best, most)
    return best


# --- what is reported ----------------------------------------------------------------------------------------


def crafted(subject: Subject, clean: Pixels, attack: str, steps: int) -> tuple[Pixels, dict[str, Any]]:
    def ok(value: Worth) -> Worth:
        return lambda pixels, looked: value(pixels, looked) if looked.verdict.status is guards.Status.OK else -math.inf

    if attack == "force":
        return forced(subject, clean, steps)
    if attack in ("refined", "blind"):
        return through_refinement(subject, clean, steps, attack == "refined"), {}
    worths: dict[str, Worth] = {
        "free": lambda pixels, looked: -psnr(clean, shown(looked.encoded)),
        "distortion": ok(lambda pixels, looked: -psnr(clean, shown(looked.encoded))),
        "bits": ok(lambda pixels, looked: float(len(looked.encoded.data))),
        "block": ok(lambda pixels, looked: -looked.verdict.worst_block),
    }
    return climb(subject, clean, attack, DEFAULT_EPSILON, steps, worths[attack]), {}


def forced(subject: Subject, clean: Pixels, steps: int) -> tuple[Pixels, dict[str, Any]]:
    """Give the picture with the least noise that takes the ladder, of all budgets and shares of them."""

    def sure(_: Pixels, looked: guards.Guarded) -> float:
        takes = set(looked.verdict.broken) - set(guards._SIGNS)
        return looked.verdict.suspicion or 0.0 if takes else 0.0

    least, forces = clean, False
    for epsilon in LEAST:
        found = climb(subject, clean, "force", epsilon, steps, sure)
        if not sure(found, subject.look(found)):
            break
        least, forces = found, True
        noise = tensor(found) - tensor(clean)
        for share in SHARES:
            less = levels(float(share) * noise, tensor(clean), epsilon)
            if not sure(less, subject.look(less)):
                break
            least = less
    return least, {"forces": forces}


def row(subject: Subject, name: str, clean: Pixels, attack: str, steps: int) -> dict[str, Any]:
    start = time.perf_counter()
    pixels, more = crafted(subject, clean, attack, steps)
    effort = EFFORT if attack in ("refined", "blind") else 0
    alone = subject.look(pixels, effort=effort)
    began = time.perf_counter()
    guarded = subject.look(pixels, Guard(on_violation=OnViolation.FALLBACK), effort)
    took = time.perf_counter() - began
    before = subject.look(clean, effort=effort)
    return {
        "model": subject.codec.bundle.fingerprint.hex(),
        "picture": name,
        "size": clean.shape[0],
        "attack": attack,
        "steps": steps,
        "noise": finite(psnr(clean, pixels)),
        "clean": figures(clean, clean, before),
        "alone": figures(clean, pixels, alone),
        "guarded": {**figures(clean, pixels, guarded), "seconds": took},
        "crafting": began - start,
        **more,
    }


def figures(clean: Pixels, pixels: Pixels, found: guards.Guarded) -> dict[str, Any]:
    verdict, picture = found.verdict, shown(found.encoded)
    return {
        "psnr": finite(psnr(clean, picture)),
        "own": finite(psnr(pixels, picture)),
        "own_worst": finite(worst_block(pixels, picture)),
        "bpp": verdict.bpp,
        "status": verdict.status.value,
        "rung": verdict.rung and verdict.rung.value,
        "suspicion": verdict.suspicion,
        "broken": list(verdict.broken),
        "tries": verdict.tries,
    }


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The network alone first, whatever the guard says of it; then what the guard writes. Means over pictures."""
    yield "| attack | N | noise, dB | clean: PSNR(x, x̂) | alone: PSNR(x, x̂*) | PSNR(x*, x̂*) | worst block | bpp / clean | ok | guarded: PSNR(x, x̂*) | PSNR(x*, x̂*) | worst block | bpp / clean | ladder | tries |"  # noqa: E501
    yield "|" + "---|" * 15
    for attack in dict.fromkeys(each["attack"] for each in rows):
        own = [each for each in rows if each["attack"] == attack]

        def mean(*path: str, own: list[dict[str, Any]] = own) -> str:
            values = [each[path[0]] if len(path) == 1 else each[path[0]][path[1]] for each in own]
            known = [value for value in values if value is not None]
            return f"{statistics.mean(known):.2f}" if known else "–"

        def ratio(which: str, own: list[dict[str, Any]] = own) -> str:
            return f"{statistics.mean(each[which]['bpp'] / each['clean']['bpp'] for each in own):.2f}"

        passed = sum(each["alone"]["status"] == "ok" for each in own)
        ladder = sum(each["guarded"]["rung"] is not None for each in own)
        yield (
            f"| {attack} | {own[0]['steps']} | {mean('noise')} | {mean('clean', 'psnr')} | {mean('alone', 'psnr')} | "
            f"{mean('alone', 'own')} | {mean('alone', 'own_worst')} | {ratio('alone')} | {passed} of {len(own)} | "
            f"{mean('guarded', 'psnr')} | {mean('guarded', 'own')} | {mean('guarded', 'own_worst')} | "
            f"{ratio('guarded')} | {ladder} of {len(own)} | {mean('guarded', 'tries')} |"
        )


def crops(arguments: argparse.Namespace) -> Iterator[tuple[str, Pixels]]:
    files = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in PICTURE_FORMATS)
    side = arguments.crop
    for path in files[:: max(1, len(files) // arguments.count)][: arguments.count]:
        pixels = read_picture(path.read_bytes(), 1 << 28).pixels
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        yield path.stem, np.ascontiguousarray(pixels[top : top + side, left : left + side])


def main() -> None:
    names = ("free", "distortion", "bits", "block", "force", "blind", "refined")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-m", "--model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--attacks", nargs="+", choices=names, default=names)
    parser.add_argument("--crop", type=int, default=256, help="pixels a side, a multiple of 64")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    bundle = find(arguments.model)
    codec = Codec(bundle, arguments.threads)
    torch.set_num_threads(codec.threads)
    contract = read_contract(bundle.manifest.contract)
    if contract is None:
        raise SystemExit(f"{bundle.id} has no contract, so that there is no guard to attack")
    step = bundle.manifest.step(QUALITY.value)
    victim = victim_of(bundle, QUALITY.value, torch.device("cpu"))
    subject = Subject(codec, victim, contract, step)
    done = [json.loads(line) for line in arguments.output.read_text().splitlines()] if arguments.output.exists() else []
    key = bundle.fingerprint.hex(), arguments.crop, arguments.steps
    rows = []
    for attack in arguments.attacks:
        for name, clean in crops(arguments):
            same = [
                each
                for each in done
                if (each["attack"], each["picture"], each["model"], each["size"], each["steps"]) == (attack, name, *key)
            ]
            found = same[0] if same else row(subject, name, clean, attack, arguments.steps)
            if not same:
                with arguments.output.open("a") as file:
                    file.write(json.dumps(found) + "\n")
                print(json.dumps(found), flush=True)
            rows.append(found)
    for line in table(rows):
        print(line)


if __name__ == "__main__":
    main()

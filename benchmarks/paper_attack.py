"""What the paper's attacks leave open, settled on a model: one row for each choice, the others as they are by default.

    python benchmarks/paper_attack.py --data $DATA/cid22-val --model weights/hyper-base

Figures are those of a bundle's network with everything rounded and by the prices of its tables, on pictures of whole
levels within the budget, their noise shortened where it breaks the bound, as the referee does.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from robustcodec.bundle import find
from robustcodec.lab.attacks.budget import LEVELS, to_levels
from robustcodec.lab.attacks.craft import SHRINKINGS
from robustcodec.lab.attacks.problem import Problem
from robustcodec.lab.attacks.shipped import victim_of
from robustcodec.lab.attacks.switching import Choices, Length, Optimiser, Paper
from robustcodec.lab.attacks.threat import DEFAULT_EPSILON, Target, Threat
from robustcodec.lab.attacks.victim import Rough, code, decibels, unrounded
from robustcodec.lab.data import centre_crops, picture_files, read_pictures
from robustcodec.lab.networks import round_straight_through, softly_rounded, uniform_noise

SEED = 0
QUALITY = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True, help="a bundle")
    parser.add_argument("--pictures", type=int, default=6, help="how many, evenly spread over the folder")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument(
        "--bfloat16", action="store_true", help="gradients in bfloat16: the same strength, half the time"
    )
    parser.add_argument("--targets", type=Target, choices=Target, nargs="+", default=list(Target))
    arguments = parser.parse_args()
    files = picture_files(arguments.data)
    files = [files[index * len(files) // arguments.pictures] for index in range(arguments.pictures)]
    x = centre_crops(read_pictures(files, print), arguments.crop)
    x = x.float() / LEVELS if x.dtype == torch.uint8 else x
    bundle = find(arguments.model)
    victim = victim_of(bundle, QUALITY, torch.device("cpu"))
    title = f"{len(files)} centre crops of {arguments.crop}, N = {arguments.steps}, epsilon = {DEFAULT_EPSILON:g}"
    print(f"{arguments.data.name}, {title}, {bundle.id}, quality {QUALITY:g}\n")
    for target in arguments.targets:
        with torch.no_grad():
            clean = code(victim, x, x)
        problem = Problem(
            victim,
            Rough(victim) if arguments.bfloat16 else victim,
            x,
            Threat(target),
            DEFAULT_EPSILON,
            clean,
            torch.Generator(),
        )
        print(f"| {target} attack: choice | A | bpp / clean | mean ratio | PSNR(x, x̂*) change in dB | not shortened |")
        print("|---|---|---|---|---|---|")
        for name, method in choices(target, arguments.steps, problem).items():
            problem.generator.manual_seed(SEED)
            noise = method.search(problem, lambda step, scores: None)
            print(f"| {name} | {measured(problem, noise)} |", flush=True)
        print()


def choices(target: Target, steps: int, problem: Problem) -> Mapping[str, Paper]:
    """The default, and what changes one thing of it."""
    default = Paper(steps=steps)
    own: Choices = default.psnr if target is Target.PSNR else default.bpp

    def with_own(**changes: object) -> Paper:
        return replace(default, **{str(target): replace(own, **changes)})

    smooth = {"unrounded": unrounded, "softly rounded": softly_rounded}
    (rounding,) = (name for name, each in smooth.items() if each is own.quantise)
    adam = replace(default, optimiser=Optimiser.ADAM)
    return {
        f"default: normalised, rate {own.rate:g}, weight {own.weight:g}, {rounding}, from zero, best": default,
        "Adam, rate / 4": replace(adam, **{str(target): replace(own, rate=own.rate / 4)}),
        "Adam, norm as mse, weight 0.003": replace(
            adam, **{str(target): replace(own, length=Length.MSE, weight=0.003)}
        ),
        "norm as mse": with_own(length=Length.MSE),
        "weight / 10": with_own(weight=own.weight / 10),
        "weight x 10": with_own(weight=own.weight * 10),
        "rate / 4": with_own(rate=own.rate / 4),
        "rate x 2": with_own(rate=own.rate * 2),
        "rounded, straight-through": with_own(quantise=round_straight_through),
        "uniform noise for rounding": with_own(quantise=uniform_noise(problem.generator)),
        **{name: with_own(quantise=each) for name, each in smooth.items() if each is not own.quantise},
        "from noise of half the budget": replace(default, start=0.5),
        "last iterate instead of the best": replace(default, keep_best=False),
    }


@torch.no_grad()
def measured(problem: Problem, noise: Tensor) -> str:
    before = decibels(problem.clean.mse)
    bpp, mse, share = (torch.zeros_like(before) for _ in range(3))
    for shorter in reversed(SHRINKINGS):
        figures = code(problem.victim, to_levels(shorter * noise, problem.x, problem.epsilon) / LEVELS, problem.x)
        after = decibels(figures.mse)
        values = zip(problem.clean.bpp, before, figures.bpp, after, strict=True)
        holds = torch.tensor([problem.threat.holds(*map(float, each)) for each in values])
        bpp, mse = torch.where(holds, figures.bpp, bpp), torch.where(holds, figures.mse, mse)
        share = torch.where(holds, shorter, share)
    gain, rate, change = (mse - problem.clean.mse) / problem.epsilon, bpp / problem.clean.bpp, decibels(mse) - before
    whole = f"{int((share == 1).sum())} of {len(share)}"
    of_means = float(bpp.mean() / problem.clean.bpp.mean())
    return f"{spread(gain, 2)} | {of_means:.3f} | {spread(rate, 3)} | {change.mean():+.2f} | {whole}"


def spread(values: Tensor, digits: int) -> str:
    return f"{values.mean():.{digits}f} ± {values.std() / len(values) ** 0.5:.{digits}f}"


if __name__ == "__main__":
    main()

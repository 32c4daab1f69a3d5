"""What ideas for hardening give for the same compute: clean J, and strong and cheap attacks before and after.

    python benchmarks/hardening.py --data $DATA/train --validation $DATA/cid22-val --init weights/hyper-base -o ideas
    python benchmarks/hardening.py ... --only "rate;crossing" --seeds 0 1 --passes 20000
    python benchmarks/hardening.py ... --only "fast;paper" --seeds 0 1 2 --passes 15600 --teacher teacher

Each idea trains for as many steps as `--passes` passes allow, where a pass is a crop once forward and backward through
the whole network, for the gradient of the weights or for a step of an attack; what differentiates a gradient, or passes
forward alone, counts by its share (`passes_per_step`). The paper's stage II to the letter, `paper`, has ten times as
many. Stage II learns from `--teacher`, such as the run of the idea `stage I`, by default from the start itself. Then 12
fixed crops are attacked on the averaged weights, as the rounded torch network has them. What is done is kept under -o
and not done again, unless other weights, crops or steps of attacks are asked for. Prints a Markdown table; A - 1
removed is that of `strong` on PSNR, in per cent of the start's. Needs robustcodec[lab].
"""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from robustcodec.errors import TrainingError
from robustcodec.lab.attacks import Attack, Precision, Target, Threat, craft
from robustcodec.lab.attacks.budget import LEVELS
from robustcodec.lab.attacks.crossing import STEPS_PER_ROUND
from robustcodec.lab.attacks.pictures import batch_of
from robustcodec.lab.attacks.shipped import victim_of
from robustcodec.lab.attacks.threat import DEFAULT_EPSILON
from robustcodec.lab.attacks.victim import code
from robustcodec.lab.checkpoints import load_weights, network_in, qualities_of
from robustcodec.lab.data import centre_crops, picture_files, read_pictures
from robustcodec.lab.hardening import needs_teacher
from robustcodec.lab.hardening_recipes import FAST, FAST_MA2023, SMOOTH, TEACHER_SMOOTH, Plan, fast, fitted, paper
from robustcodec.lab.recipe import Attacker, Hardening, Method, Recipe
from robustcodec.lab.runs import Run, digest
from robustcodec.lab.train import Order, train
from robustcodec.lab.training import validate
from robustcodec.pixels import Pixels

QUALITY = 4.0
CROPS, CROP = 12, 128
ATTACKS = (("strong", Target.PSNR), ("paper", Target.PSNR), ("strong", Target.BPP), ("paper", Target.BPP))

PLAIN = Hardening(method=Method.FAST, bpp_share=0.625)
WHOLE = dataclasses.replace(PLAIN, least=1.0)
STAGE_I = "stage I"
STAGE_II = Hardening(
    method=Method.DISTILLED, least=0.5, psnr_share=1 / 3, psnr_steps=2, bpp_share=1 / 3, bpp_steps=2, smooth=SMOOTH
)
"""The paper's, with attacks as cheap as those of `fast`, and the start itself as the teacher."""
SMOOTH_TERM, STABILITY, TEACHER = 1.4, 2.1, 0.2
"""Passes that a term of smooth_loss, `stability` or a teacher adds for each crop, by processor time of a network of 128
and 192 channels: the first takes a gradient of a gradient, the second decodes two crops, the last codes forward."""
IDEAS: Mapping[str, Hardening] = {
    "fast": FAST,
    "fast without limits": dataclasses.replace(FAST, gain_quantile=None),
    "fast without cuts": dataclasses.replace(FAST, local_share=0.0),
    "fast without either": dataclasses.replace(FAST, gain_quantile=None, local_share=0.0),
    "fast without dead zones": dataclasses.replace(FAST, dead_zones=False),
    "fast without dither": dataclasses.replace(FAST, dither=False),
    "rate": PLAIN,
    "rate, one step": dataclasses.replace(PLAIN, bpp_steps=1),
    "rate, two steps": dataclasses.replace(PLAIN, bpp_steps=2),
    "rate, whole budget": WHOLE,
    "distortion": dataclasses.replace(PLAIN, bpp_share=0.0, psnr_share=0.625),
    "both": dataclasses.replace(PLAIN, bpp_share=0.25, psnr_share=0.375),
    "both, weight 2": dataclasses.replace(PLAIN, bpp_share=0.25, psnr_share=0.375, attacked=2.0),
    "rate and stability": dataclasses.replace(PLAIN, stability=0.1),
    "rate and smooth_loss": dataclasses.replace(PLAIN, smooth=2e-3),
    "crossing": dataclasses.replace(WHOLE, attacker=Attacker.CROSSING, bpp_steps=1),
    STAGE_I: Hardening(method=Method.TEACHER, teacher_smooth=TEACHER_SMOOTH),
    "stage II": STAGE_II,
    "stage II without smooth_loss": dataclasses.replace(STAGE_II, smooth=0.0),
    "stage II without smooth_latents": dataclasses.replace(STAGE_II, smooth_latents=0.0),
    "stage II without smooth_bpp": dataclasses.replace(STAGE_II, smooth_bpp=0.0),
    "stage II without the teacher": dataclasses.replace(STAGE_II, distil=False),
    "stage II, clean target": dataclasses.replace(STAGE_II, clean_target=True),
    "ma2023": FAST_MA2023,
}
PAPER = "paper"
"""An idea that is a recipe of its own, with its batches of three crops, its attacks and its rates."""
TIMES = 10
"""How many times the passes of the others `paper` has."""


def main() -> None:
    options = _options()
    unknown = set(options.only or ()) - {*IDEAS, PAPER}
    if unknown:
        raise SystemExit(f"there is no idea {sorted(unknown)[0]!r}; there are {', '.join((*IDEAS, PAPER))}")
    crops = _crops(options.validation)
    print(
        f"{options.init.name}, {options.passes} passes an idea; {CROPS} crops of {CROP} of {options.validation.name}, "
        f"quality {QUALITY:g}, N = {options.steps}, epsilon = {DEFAULT_EPSILON:g}\n"
    )
    print("| idea | seed | steps | J | strong psnr A | paper psnr A | strong bpp | paper bpp | A - 1 removed |")
    print("|---|---|---|---|---|---|---|---|---|")
    arch, channels = network_in(load_weights(options.init), options.init)
    qualities = qualities_of(options.init)
    before = measured(options.init, None, crops, options.output / "start.json", options.steps)
    print(_row("start", "", 0, before, before), flush=True)
    for name in options.only or IDEAS:
        for seed in options.seeds:
            stage = "teacher" if name == STAGE_I else "student"
            plan = Plan(**{stage: recipe_of(name, options.passes, seed, arch)})
            ((_, recipe),) = fitted(plan, arch, channels, qualities).stages()
            run = Run(options.output / f"{name.replace(' ', '-').replace(',', '')}-{seed}")
            order = Order(
                recipe=recipe,
                data=options.data,
                validation=options.validation,
                init=options.init,
                teacher=(options.teacher or options.init) if needs_teacher(recipe.hardening) else None,
            )
            train(run, order, lambda _: None, lambda _: None)
            after = measured(run.folder, recipe.hardening, crops, run.folder / "measured.json", options.steps)
            print(_row(name, str(seed), recipe.steps, after, before), flush=True)


def passes_per_step(hardening: Hardening, batch: int) -> float:
    """Crops that go forward and backward in a step of training: for the weights, for attacks and for other terms."""
    psnr, bpp = hardening.attacks(batch)
    each = STEPS_PER_ROUND if hardening.attacker is Attacker.CROSSING else 1
    attacking = each * (psnr * hardening.psnr_steps + bpp * hardening.bpp_steps)
    # a cut has a quarter of a crop's area
    cuts = hardening.cuts(batch) * (hardening.local_steps + 1) / 4
    smooth = hardening.smooth > 0 or hardening.teacher_smooth > 0
    terms = smooth * ((hardening.smooth_bpp > 0) + (hardening.smooth_latents > 0))
    others = SMOOTH_TERM * terms + STABILITY * (hardening.stability > 0) + TEACHER * needs_teacher(hardening)
    return batch * (1 + others) + attacking + cuts


def recipe_of(name: str, passes: int, seed: int, arch: str) -> Recipe:
    """The recipe `fast` with an idea in its place, or the paper's own, as long as the passes last."""
    plan = paper(1) if name == PAPER else fast(arch)
    recipe = plan.student
    assert recipe is not None
    if name == PAPER:
        passes *= TIMES
        phases = tuple(dataclasses.replace(phase, crop=CROP) for phase in recipe.phases)
        recipe = dataclasses.replace(recipe, phases=phases, precision=Precision.AUTO)
    else:
        recipe = dataclasses.replace(recipe, hardening=IDEAS[name])
    assert recipe.hardening is not None
    steps = round(passes / passes_per_step(recipe.hardening, recipe.phases[0].batch))
    if steps < 1:
        raise TrainingError(f"{passes} passes are not enough for a step")
    return dataclasses.replace(recipe, steps=steps, seed=seed, validations=1)


def measured(
    source: Path, hardening: Hardening | None, crops: Sequence[Pixels], kept: Path, steps: int
) -> dict[str, float]:
    """Clean J, and for each attack A or the ratio of attacked to clean bpp; kept in a file, with what they are of."""
    of = _asked(source, crops, steps)
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text())
        if found.pop("of", None) == of:
            return found
    victim = victim_of(source, QUALITY, torch.device("cpu"))
    clean = batch_of(crops)
    recipe = fast().student
    assert recipe is not None
    own = dataclasses.replace(recipe, hardening=hardening)
    figures = {"J": validate(victim.network, clean, own)["validation_J"]}
    with torch.no_grad():
        before = code(victim, clean, clean)
    for method, target in ATTACKS:
        attack = Attack(threat=Threat(target), method=method, steps=steps, precision=Precision.AUTO)
        attacked = batch_of([each.pixels for each in craft(source, crops, attack, QUALITY)])
        with torch.no_grad():
            after = code(victim, attacked, clean)
        gains = (after.mse - before.mse) / DEFAULT_EPSILON if target is Target.PSNR else after.bpp / before.bpp
        figures[f"{method} {target}"] = float(gains.mean())
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"of": of, **figures}))
    return figures


def _asked(source: Path, crops: Sequence[Pixels], steps: int) -> str:
    """Sum up what figures are of: weights, crops and the steps of attacks."""
    sums = hashlib.sha256(f"{digest(load_weights(source))} {steps}".encode())
    for crop in crops:
        sums.update(crop.tobytes())
    return sums.hexdigest()


def _row(name: str, seed: str, steps: int, figures: Mapping[str, float], start: Mapping[str, float]) -> str:
    removed = 1 - (figures["strong psnr"] - 1) / (start["strong psnr"] - 1)
    values = (
        f"{figures['J']:.4f}",
        *(f"{figures[key]:.2f}" for key in ("strong psnr", "paper psnr", "strong bpp", "paper bpp")),
        f"{removed:.0%}",
    )
    return f"| {name} | {seed} | {steps} | " + " | ".join(values) + " |"


def _crops(folder: Path) -> list[Pixels]:
    files = picture_files(folder)
    chosen = [files[index * len(files) // CROPS] for index in range(CROPS)]
    crops = centre_crops(read_pictures(chosen, print), CROP)
    return [crop.permute(1, 2, 0).contiguous().numpy() for crop in _levels(crops)]


def _levels(crops: torch.Tensor) -> torch.Tensor:
    return crops if crops.dtype == torch.uint8 else (crops * LEVELS).round().to(torch.uint8)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--init", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, help="weights of stage I for what learns from a teacher")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--passes", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=100, help="steps of each attack that measures")
    parser.add_argument("--only", type=lambda text: [item.strip() for item in text.split(";")], help="ideas, by ;")
    return parser.parse_args()


if __name__ == "__main__":
    main()

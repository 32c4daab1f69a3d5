"""The command `harden`: a robust model out of an ordinary one and a folder of pictures (needs robustcodec[lab])."""

import shlex
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustcodec.cli import options
from robustcodec.cli.console import Console
from robustcodec.cli.lab import require_lab
from robustcodec.cli.stopper import Stopper, how_to_go_on, resumable
from robustcodec.errors import UsageError
from robustcodec.lab.hardening_request import CROPS, J_LIMIT, MOST_CROPS, Request
from robustcodec.words import duration

if TYPE_CHECKING:
    from robustcodec.lab.hardening_recipes import Plan

_NAMED = _FAST, _PAPER = "fast", "paper"


class HardeningMethod(StrEnum):
    """What `--method` takes."""

    OURS = "ours"
    MA2023 = "ma2023"


class Stage(StrEnum):
    """What `--stage` takes."""

    FIRST = "1"
    SECOND = "2"
    BOTH = "both"


def harden(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of training pictures; without it RUN goes on as it was begun."),
    ] = None,
    run: Annotated[
        Path, typer.Option("-o", "--output", metavar="RUN", help="Folder of the runs and the model.")
    ] = Path("hardened"),
    validation: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of validation pictures [default: some of --data].")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Id, run, bundle or checkpoint to harden [default: base, of --arch]."),
    ] = None,
    arch: options.Arch = None,
    variant: options.Variant = None,
    recipe: Annotated[
        str, typer.Option(metavar="RECIPE", help="fast, paper, or a file that --dry-run has printed.")
    ] = "fast",
    method: Annotated[HardeningMethod, typer.Option(help="Ours, or plain adversarial training.")] = (
        HardeningMethod.OURS
    ),
    stage: Annotated[Stage, typer.Option(help="Stage of the recipe to run.")] = Stage.BOTH,
    epsilon: Annotated[float | None, typer.Option(help="Budget of attacks: mean square of the noise.")] = None,
    teacher_smooth: Annotated[float | None, typer.Option(help="Weight of smooth_loss in stage I.")] = None,
    rate: Annotated[float | None, typer.Option(help="Weight of the teacher's rate in stage II.")] = None,
    smooth: Annotated[float | None, typer.Option(help="Weight of smooth_loss in stage II.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.0, help="Train for so long (measured as steps).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Train each stage for so many steps.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of each stage's crops, noise and qualities.")] = None,
    j_limit: Annotated[
        float, typer.Option("--j-limit", min=0.0, help="Clean J that the result may have, in terms of the start's.")
    ] = J_LIMIT,
    measure: Annotated[
        str, typer.Option(metavar="N", help="Held-out crops to attack before and after, or none.")
    ] = str(CROPS),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the recipes, and what they would take, and stop.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Harden a model against attacks on a folder of your own pictures (needs robustcodec[lab]).

    The same command again, or -o RUN alone, goes on where it was interrupted. The model is RUN/model, of the checkpoint
    that keeps --j-limit and resists a strong attack best; its manifest keeps the numbers before and after.

    \b
      robustcodec harden --data photos
      robustcodec harden --data photos --init my-checkpoint.pth.tar --hours 3 -o runs/mine
      robustcodec harden -o runs/mine
      robustcodec harden --data photos --recipe paper --dry-run > paper.json
      robustcodec encode photo.png -m runs/mine/model
    """
    require_lab()
    if steps is not None and hours is not None:
        raise UsageError("--steps and --hours exclude each other; give one of them")

    if data is None:
        return _go_on(context, run, Console(quiet=quiet, json=False))

    from robustcodec.lab.checkpoints import find_weights, load_weights, network_in, qualities_of
    from robustcodec.lab.harden import check_folders
    from robustcodec.lab.hardening_estimate import estimate
    from robustcodec.lab.hardening_recipes import fitted, with_options

    console = Console(quiet=quiet, json=False)
    source = find_weights(init, arch, variant)
    arch, channels = network_in(load_weights(source), source)
    plan = _only(_plan(recipe, method, arch, data, validation), stage)
    if recipe in _NAMED:
        plan = fitted(plan, arch, channels, qualities_of(source))
    plan = with_options(
        plan,
        epsilon=epsilon,
        teacher_smooth=teacher_smooth,
        rate=rate,
        smooth=smooth,
        steps=steps,
        seed=seed,
    )
    request = Request(
        run=run,
        data=data,
        validation=validation,
        init=source,
        plan=plan,
        hours=hours,
        j_limit=j_limit,
        crops=_crops(measure),
    )
    if dry_run:
        check_folders(request)
        typer.echo(plan.to_json(), nl=False)
        expected = estimate(request, console.note)
        beside = "export, choice and attacks" if request.crops else "export"
        for name, needed in expected.hours.items():
            console.note(f"{name}: {duration(needed * 3600)} of training, without {beside}")
        console.note(f"disk {expected.disk / 1e9:.1f} GB, memory {expected.memory / 1e9:.1f} GB")
        return
    _run(request, console)


def _go_on(context: typer.Context, run: Path, console: Console) -> None:
    """Do what a folder was begun with."""
    if set(options.asked(context, context.params)) - {"run", "quiet"}:
        raise UsageError(
            "a hardening goes on as it was begun: give -o RUN alone, or all options of a new one with --data"
        )
    _run(Request.load(run), console)


def _run(request: Request, console: Console) -> None:
    from robustcodec.lab.harden import harden as run_stages
    from robustcodec.lab.resistance import table
    from robustcodec.lab.team import joined

    resumes = shlex.join(["robustcodec", "harden", "-o", str(request.run)])
    begun = partial(Request.exists, request.run)
    with resumable(begun, console.note, resumes), joined() as team, Stopper() as stopper:
        if not team.first:
            console = Console(quiet=True)
        done = run_stages(request, console.note, stopper.asked, team)
        if done is None and not team.first and stopper.number is None:
            return
    if done is None:
        console.note(how_to_go_on(resumes))
        raise typer.Exit(128 + (stopper.number or 0))
    for point in done.points:
        console.note(f"quality {point.quality:g}: {point.bpp:.3f} bpp, {point.psnr:.2f} dB, J {point.score:.3f}")
    for line in table(done.comparisons) if done.comparisons else ():
        console.note(line)
    model = str(done.bundle.path)
    console.note(f"wrote {model}: model {done.bundle.id}; encode with: -m {shlex.quote(model)}")


def _crops(measure: str) -> int:
    """How many crops to attack."""
    if measure == "none":
        return 0
    # no number of more digits, which Python may refuse to read
    if not (measure.isdecimal() and len(measure) <= len(str(MOST_CROPS)) and 1 <= int(measure) <= MOST_CROPS):
        raise UsageError(f"--measure takes a number of crops from 1 to {MOST_CROPS}, or none, not {measure!r}")
    return int(measure)


def _plan(recipe: str, method: HardeningMethod, arch: str, data: Path, validation: Path | None) -> "Plan":
    """The plan that a name or a file stands for."""
    from robustcodec.lab import hardening_recipes as recipes
    from robustcodec.lab.train import split_files

    if recipe == _FAST:
        return recipes.fast(arch) if method is HardeningMethod.OURS else recipes.fast_ma2023(arch)
    if recipe == _PAPER:
        if method is HardeningMethod.MA2023:
            return recipes.paper_ma2023()
        return recipes.paper(len(split_files(data, validation)[0]))
    if method is not HardeningMethod.OURS:
        raise UsageError("a recipe from a file has its own method; leave --method out")
    return recipes.Plan.load(Path(recipe))


def _only(plan: "Plan", stage: Stage) -> "Plan":
    """The part of a plan that is to run."""
    from robustcodec.lab.hardening_recipes import Plan

    if stage is Stage.BOTH:
        return plan
    kept = plan.teacher if stage is Stage.FIRST else plan.student
    if kept is None:
        raise UsageError(f"the recipe has no stage {stage}; leave --stage out or choose another recipe")
    return Plan(teacher=kept) if stage is Stage.FIRST else Plan(student=kept)

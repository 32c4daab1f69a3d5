"""The commands of the lab, which need robustcodec[lab]: training and export.

Without it each command still exists and says what to install. Their bodies live in `robustcodec.lab`.
"""

import dataclasses
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustcodec.cli import options
from robustcodec.cli.console import Console
from robustcodec.cli.stopper import Stopper, how_to_go_on, resumable
from robustcodec.errors import MissingExtra, TrainingError, UsageError

if TYPE_CHECKING:
    from robustcodec.lab.recipe import Recipe

_STEPS = 20000


def add_commands(app: typer.Typer) -> None:
    """Add every command of the lab to the command line."""
    app.command("train")(train)
    app.command("export")(export)


def train(
    run: Annotated[Path | None, typer.Option("-o", "--output", metavar="RUN", help="Folder of the run.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of training pictures.")] = None,
    validation: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of validation pictures [default: some of --data].")
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Architecture: hyper or cheng [default: hyper, or that of --init]."),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            metavar="N,M",
            help="Channels inside and of the latents [default: 128,192; cheng: 128,128; or those of --init].",
        ),
    ] = None,
    quality: Annotated[float | None, typer.Option("-q", "--quality", help="Train for this quality alone.")] = None,
    qualities: Annotated[
        str | None, typer.Option(metavar="LOW-HIGH", help="Train for a range of qualities, such as 1-6.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(metavar="START", help="Begin anew: orthonormal [default] or conventional (random).")
    ] = None,
    init: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Begin with the weights of an id, run, bundle or checkpoint.")
    ] = None,
    hours: Annotated[float | None, typer.Option(min=0.0, help="Train for so long (measured as steps).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help=f"Train for so many steps [default: {_STEPS}].")] = None,
    recipe: Annotated[Path | None, typer.Option(metavar="FILE", help="Recipe as JSON; see --print-recipe.")] = None,
    print_recipe: Annotated[
        bool, typer.Option("--print-recipe", help="Print the recipe that would be used, and stop.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model on a folder of pictures (needs robustcodec[lab]).

    A run that was interrupted goes on when the same command, or -o RUN alone, is given again, and ends with the
    same weights as if it had not been. Ctrl-C saves the state after the step in hand; a second one does not wait.

    \b
      robustcodec train --data photos -o runs/base --qualities 1-6 --hours 3
      robustcodec train -o runs/base
      robustcodec export runs/base -o my-model
    """
    require_lab()
    if start is not None and init is not None:
        raise UsageError("--start and --init exclude each other; give one of them")

    from robustcodec.lab.checkpoints import find_weights

    source = None if init is None else find_weights(init)
    chosen = _choose_recipe(recipe, arch, channels, start, quality, qualities, steps, hours, source)
    if print_recipe:
        typer.echo(chosen.to_json(), nl=False)
        return
    if run is None:
        raise UsageError("a run needs a folder; name it with -o")

    from robustcodec.lab.progress import Reporter
    from robustcodec.lab.runs import Run
    from robustcodec.lab.team import joined
    from robustcodec.lab.train import Order
    from robustcodec.lab.train import train as run_training

    console = Console(quiet=quiet, json=False)
    order = None
    if data is not None:
        order = Order(recipe=chosen, data=data, validation=validation, init=source, hours=hours)
    elif not Run(run).exists:
        raise TrainingError(f"{run} holds no run to resume; name a folder of training pictures with --data")
    elif any(
        option is not None
        for option in (validation, arch, channels, start, quality, qualities, init, hours, steps, recipe)
    ):
        raise UsageError("a run is resumed as it was begun: give -o RUN alone, or all options of a new run with --data")
    resumes = shlex.join(["robustcodec", "train", "-o", str(run)])
    with (
        resumable(lambda: Run(run).exists, console.note, resumes),
        joined() as team,
        Reporter(run, console.note) as reporter,
        Stopper() as stopper,
    ):
        if team.first:
            report = reporter.report
        else:
            console, report = Console(quiet=True), lambda progress: None
        finished = run_training(Run(run), order, report, console.note, stopper.asked, team)
    if not finished and stopper.number is not None:
        console.note(how_to_go_on(resumes))
        raise typer.Exit(128 + stopper.number)
    console.note(f"done; make a model of it with: robustcodec export {shlex.quote(str(run))} -o MODEL")


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, bundle or CompressAI checkpoint.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Bundle folder, or file with --to.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Pictures to calibrate and measure on [default: those of the run]."),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pictures to measure on instead of those of --data.")
    ] = None,
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Id of the model [default: the folder's name].")
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Variant: base, teacher, robust, ma2023 or your own [default: base]."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="compressai", help="Write a state dict that CompressAI loads instead.")
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option("-q", "--quality", help="Quality whose step --to compressai folds into the weights [default: 4]."),
    ] = None,
    restrain: Annotated[
        bool | None,
        typer.Option(
            "--restrain/--no-restrain",
            help="Give the quantiser dither and dead zones, and the tables a share of attacked latents, so that "
            "attacks gain less [default: as the run's recipe says].",
        ),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Make a model for encode and decode out of a training run or checkpoint (needs robustcodec[lab]).

    \b
      robustcodec export runs/base -o models/my-model
      robustcodec encode photo.png -m models/my-model
      robustcodec export runs/base --to compressai -q 4 -o base-q4.pth.tar
    """
    require_lab()
    if to not in (None, "compressai"):
        raise UsageError(f"--to can be compressai, not {to}")
    if to is not None and any(option is not None for option in (data, validation, id, variant, restrain)):
        raise UsageError(
            "a state dict for CompressAI takes no --data, --validation, --id, --variant or --restrain; leave them out"
        )
    if validation is not None and data is None:
        raise UsageError("--validation goes with --data: a run has its own")
    if to is None and quality is not None:
        raise UsageError("a model serves all qualities: --quality is for --to compressai alone")
    id, variant = id or output.name, variant or "base"
    if to is None:
        _check_name("id", id)
        _check_name("variant", variant)

    from robustcodec.lab.checkpoints import load_weights
    from robustcodec.lab.export import export_run
    from robustcodec.lab.interop import write_for_compressai
    from robustcodec.lab.restraint import FULL, NONE
    from robustcodec.rate import high_rate_step

    console = Console(quiet=quiet)
    if to is not None:
        step = high_rate_step(4.0 if quality is None else quality)
        write_for_compressai(load_weights(source), step, output, console.note)
        console.note(f"wrote {output}")
        return
    restraint = None if restrain is None else FULL if restrain else NONE
    exported = export_run(
        source,
        output,
        id,
        variant,
        data,
        console.note,
        validation=validation,
        restraint=restraint,
    )
    lengths = exported.code_length
    console.note(
        f"code length at quality 4, in bits per pixel: {lengths.real:.4f} by the network in real numbers, "
        f"{lengths.rounded_scale:.4f} with 64 scales, {lengths.exact:.4f} in exact integers, "
        f"{lengths.fitted:.4f} with fitted tables"
    )
    for point in exported.points:
        console.note(f"quality {point.quality:g}: {point.bpp:.3f} bpp, {point.psnr:.2f} dB, J {point.score:.3f}")
    console.note(f"wrote {output}: model {exported.bundle.id}, fingerprint {exported.bundle.fingerprint.hex()}")


def require_lab(otherwise: str = "") -> None:
    """Raise MissingExtra unless torch can be imported; `otherwise` says how to do without."""
    if find_spec("torch") is None:
        raise MissingExtra(f"this command needs PyTorch; install it with: pip install 'robustcodec[lab]'{otherwise}")


def _check_name(option: str, name: str) -> None:
    """Raise UsageError for what no model can be called, before the work that such a model would be of."""
    from robustcodec.bundle import NAMING, is_name

    if not is_name(name):
        raise UsageError(f"{name!r} is no {option} of a model; give --{option} {NAMING}")


def _choose_recipe(
    file: Path | None,
    arch: str | None,
    channels: str | None,
    start: str | None,
    quality: float | None,
    qualities: str | None,
    steps: int | None,
    hours: float | None,
    init: Path | None,
) -> "Recipe":
    """The recipe that the options ask for: a file or the default, with what else was said put into it."""
    from robustcodec.graphs import SIZES
    from robustcodec.lab import recipe as recipes
    from robustcodec.lab.architectures import adapted

    if quality is not None and qualities is not None:
        raise UsageError("--quality and --qualities exclude each other; give one of them")
    if steps is not None and hours is not None:
        raise UsageError("--steps and --hours exclude each other; give one of them")
    if hours is not None and not 0 < hours < 10000:
        raise UsageError(f"--hours takes a time in hours, not {hours:g}")
    if start is not None and start not in list(recipes.Start):
        raise UsageError(f"--start can be {' or '.join(recipes.Start)}, not {start}")
    if arch is not None and arch not in SIZES:
        raise UsageError(f"there is no architecture {arch!r} to train; this release has {' and '.join(SIZES)}")
    if file is not None:
        chosen = recipes.Recipe.load(file)
    else:
        chosen = (recipes.from_start if init is None else recipes.continued)(_STEPS)
        chosen = adapted(chosen, *_network_for(arch, init))
    if file is not None and arch not in (None, chosen.arch):
        raise UsageError(
            f"the recipe is for {chosen.arch}, not for {arch}; leave out --arch, or write it into the recipe"
        )
    if steps is not None:
        chosen = dataclasses.replace(chosen, steps=steps)
    if channels is not None:
        n, m = _numbers(channels, ",", "--channels takes two counts, such as 128,192")
        if not (n.is_integer() and m.is_integer()):
            raise UsageError(f"--channels takes two counts, such as 128,192, not {channels!r}")
        chosen = dataclasses.replace(chosen, channels=(int(n), int(m)))
    if start is not None:
        chosen = dataclasses.replace(chosen, start=recipes.Start(start))
    if quality is not None:
        chosen = dataclasses.replace(chosen, quality_low=quality, quality_high=quality)
    if qualities is not None:
        low, high = _numbers(qualities, "-", "--qualities takes a range, such as 1-6")
        chosen = dataclasses.replace(chosen, quality_low=low, quality_high=high)
    return chosen


def _network_for(arch: str | None, init: Path | None) -> tuple[str, tuple[int, int]]:
    """Architecture and channels: as asked for, else those of the weights to begin with, else the usual ones."""
    from robustcodec.graphs import SIZES
    from robustcodec.lab.architectures import untrained
    from robustcodec.lab.checkpoints import load_weights

    if init is None:
        arch = arch or next(iter(SIZES))
        return arch, SIZES[arch][0]
    trained = untrained(load_weights(init), str(init))
    if arch in (None, trained.arch):
        return trained.arch, (trained.n, trained.m)
    assert arch is not None
    return arch, next((sizes for sizes in SIZES[arch] if sizes[0] == trained.n), SIZES[arch][0])


def _numbers(text: str, separator: str, usage: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in text.split(separator))
    except ValueError:
        raise UsageError(f"{usage}, not {text!r}") from None
    return first, second

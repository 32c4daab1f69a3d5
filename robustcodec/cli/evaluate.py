"""The command `evaluate`: clean and attacked results of models on a folder of pictures.

Without attacks it needs no torch.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from robustcodec.cli import options
from robustcodec.cli.console import FAILED, Console
from robustcodec.cli.lab import require_lab
from robustcodec.cli.stopper import GOES_ON, when_stopped
from robustcodec.errors import InputError, UsageError
from robustcodec.files import clean_name
from robustcodec.rate import check_quality
from robustcodec.words import counted, duration

if TYPE_CHECKING:
    from robustcodec.lab.evaluation.grid import Event

_SECONDS_BETWEEN_LINES = 10.0
_RECHECKED = 3
_OF_MEASURING = (
    "attacks",
    "steps",
    "epsilon",
    "restarts",
    "seed",
    "precision",
    "surrogate",
    "crop",
    "quality",
    "match",
    "shard",
)
"""Options that say nothing without pictures."""
_OF_MODELS = ("models", "arch", "variant")
"""Options that without pictures are for a report alone, which shows what models make of the stored ones."""


def evaluate(
    context: typer.Context,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder of results; what is there is kept.")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of pictures.")] = None,
    models: Annotated[
        str, typer.Option(metavar="A,B,...", help="Models, and jpeg, jpeg2000, webp, avif, heic or jxl beside one.")
    ] = "",
    arch: options.Arch = None,
    variant: options.Variant = None,
    attacks: Annotated[
        str, typer.Option(metavar="LIST", help="psnr, bpp, METHOD:psnr, METHOD:bpp, -free behind it; or none.")
    ] = "psnr,bpp,offset:psnr,noise:bpp",
    steps: Annotated[int, typer.Option(min=1, help="Steps of each attack.")] = 200,
    epsilon: Annotated[float, typer.Option(help="Budget: mean square of the noise on [0, 1].")] = 5e-4,
    restarts: Annotated[int, typer.Option(min=1, help="Starts of the method strong; the best result counts.")] = 1,
    seed: Annotated[
        int, typer.Option(min=0, max=(1 << 63) - 1, help="Seed of the attacks, and of --recheck's choice.")
    ] = 0,
    precision: options.Precision = options.Arithmetic.FLOAT32,
    surrogate: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Craft all pictures on this model or checkpoint.")
    ] = None,
    crop: Annotated[int | None, typer.Option(min=1, help="Take the square of so many pixels in the middle.")] = None,
    quality: Annotated[str, typer.Option("-q", "--quality", metavar="Q[,Q...]", help="Qualities, 1 to 6.")] = "4",
    match: Annotated[
        str, typer.Option(metavar="psnr|bpp", help="What classical codecs match of the first model: psnr or bpp.")
    ] = "psnr",
    shard: options.Part = "1/1",
    reference: Annotated[str | None, typer.Option(metavar="paper", help="Put the paper's rows beside ours.")] = None,
    report: Annotated[bool, typer.Option("--report", help="Write report.html, too.")] = False,
    recheck: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Do three random rows of a folder again and compare.")
    ] = None,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
) -> None:
    """Measure models, clean and attacked, on a folder of pictures (attacks need robustcodec[lab]).

    Every number is from a real file, really decoded. The same command goes on where it was interrupted.

    \b
      robustcodec evaluate --data kodak --models hyper-base --attacks none -q 1,2,3,4,5,6 -o clean
      robustcodec evaluate --data kodak --models hyper-base,jpeg --crop 256 -o results --report
      robustcodec evaluate -o results --report
      robustcodec evaluate --recheck results --models path/to/my-model
    """
    console = Console(quiet=quiet)
    names = _names(models, arch, variant)
    if recheck is not None:
        if output is not None or data is not None:
            raise UsageError("--recheck looks at a folder of results and takes no -o and no --data")
        unused = [name for name in (*_OF_MEASURING, "reference", "report") if name != "seed"]
        _check_asked(context, unused, "--{} is not for --recheck, which repeats what was measured; leave it out")
        _recheck(recheck, names, threads, seed, console)
        return
    if output is None:
        raise UsageError("name a folder of results with -o, or one to check again with --recheck")
    if reference not in (None, "paper"):
        raise UsageError(f"--reference can be paper, not {reference}")
    if data is None:
        unused = list(_OF_MEASURING if report else (*_OF_MEASURING, *_OF_MODELS))
        _check_asked(context, unused, "--{} measures nothing without pictures; name a folder of them with --data")

    from robustcodec.lab.evaluation.checks import check
    from robustcodec.lab.evaluation.classical import MATCHES
    from robustcodec.lab.evaluation.grid import NONE, Grid, check_sets, parse_attacks
    from robustcodec.lab.evaluation.grid import evaluate as run
    from robustcodec.lab.evaluation.outputs import write_summary
    from robustcodec.lab.evaluation.records import read_rows

    if match not in MATCHES:
        raise UsageError(f"--match can be psnr or bpp, not {match}")
    if data is not None:
        from robustcodec.lab.evaluation.contenders import open_contenders, open_source
        from robustcodec.lab.evaluation.subjects import groups_of

        if attacks != NONE:
            require_lab("; or take --attacks none, which does without")
        wanted = parse_attacks(
            attacks,
            epsilon=epsilon,
            steps=steps,
            seed=seed,
            restarts=restarts,
            precision=precision,
        )
        if not wanted:
            _check_asked(context, ["surrogate"], "--{} is to craft attacked pictures on, and there are no attacks")
        grid = Grid(
            groups=groups_of(data, crop),
            contenders=open_contenders(names, match, threads),
            attacks=wanted,
            qualities=_qualities(quality),
            surrogate=open_source(surrogate) if surrogate is not None else None,
            shard=options.parse_shard(shard),
        )
        check_sets(grid.groups, read_rows(output))
        if not grid.share:
            console.note(
                f"nothing to do: other shards have all there is ({counted(len(grid.groups), 'group')} of pictures)"
            )
            if not read_rows(output):
                return
        if wanted:
            from robustcodec.lab.runs import threads_for, use_threads

            use_threads(threads_for(threads))
        with when_stopped(lambda: console.note(GOES_ON)):
            rows = run(grid, output, _progress(console))
    else:
        rows = read_rows(output)
        if not rows:
            raise InputError(f"{output} holds no results; name pictures with --data and models with --models")
    warned = check(rows)
    written = write_summary(output, rows, warned, paper=reference == "paper")
    console.note(f"wrote {output}: {', '.join(_named(output, written))}")
    if report:
        from robustcodec.lab.evaluation.contenders import contenders_of
        from robustcodec.lab.evaluation.outputs import write_report

        at_hand = contenders_of(rows, names, threads)
        console.note(f"wrote {write_report(output, rows, warned, at_hand, paper=reference == 'paper')}")
    for warning in warned:
        console.note(f"warning {warning}")


def _named(folder: Path, written: Sequence[Path]) -> Iterator[str]:
    """Name the tables and folders, and count the plots, of which there is one for each attack."""
    yield from (path.name for path in written if path.suffix in (".md", ".csv"))
    if plots := sum(path.suffix == ".svg" for path in written):
        yield f"{counted(plots, 'plot')} (.svg, .png)"
    yield from sorted({f"{path.parent.name}/" for path in written if path.parent != folder})


def _check_asked(context: typer.Context, unused: Sequence[str], refusal: str) -> None:
    """Refuse options that would be ignored, by a sentence with a place for the first one's name."""
    if asked := options.asked(context, unused):
        raise UsageError(refusal.format(asked[0]))


def _recheck(folder: Path, names: list[str], threads: int | None, seed: int, console: Console) -> None:
    from robustcodec.lab.evaluation.contenders import contenders_of
    from robustcodec.lab.evaluation.recheck import recheck, rows_to_recheck
    from robustcodec.lab.evaluation.records import read_rows

    chosen, left_out = rows_to_recheck(folder, _RECHECKED, seed)
    if left_out:
        console.note(f"rows that cannot be checked, since {clean_name(folder)} has no picture of them: {left_out}")
    at_hand = contenders_of(read_rows(folder), names, threads)
    exact = {(item.name, item.fingerprint): item for item in at_hand}
    # another model of the name tells by its figures how far results have moved
    named = {item.name: item for item in at_hand}
    results = []
    for row in chosen:
        contender = exact.get((row.model, row.fingerprint), named.get(row.model))
        if contender is None:
            raise UsageError(f"{folder} has results of {row.model}; name it in --models, by its path if need be")
        results.append(recheck(folder, row, contender))
    for result in results:
        console.note(str(result))
    if any(result.differences for result in results):
        raise typer.Exit(FAILED)


def _names(models: str, arch: str | None, variant: str | None) -> list[str]:
    """Names of what is measured: first the model of an architecture and a variant, if one is asked for by these."""
    from robustcodec.bundle import find

    found = [str(find(architecture=arch, variant=variant).path)] if arch or variant else []
    return [*found, *(name.strip() for name in models.split(",") if name.strip())]


def _qualities(text: str) -> list[float]:
    try:
        values = sorted({check_quality(float(part)) for part in text.split(",")})
    except ValueError:
        raise UsageError(f"-q takes qualities from 1 to 6, such as 4 or 1,2,3, not {text!r}") from None
    return values


def _progress(console: Console) -> "Callable[[Event], None]":
    """Say now and then how far the evaluation is."""
    started = last = monotonic()

    def report(event: "Event") -> None:
        nonlocal last
        now = monotonic()
        if event.done < event.total and now - last < _SECONDS_BETWEEN_LINES:
            return
        last = now
        line = f"{event.done} of {event.total} rows"
        if event.what:
            line += f"; {event.what}: step {event.step} of {event.steps}, mean score {event.score:.4g}"
        if event.done < event.total and event.share > 0:
            left = (now - started) * (1 / event.share - 1)
            line += f"; {duration(left)} left"
        console.note(line)

    return report

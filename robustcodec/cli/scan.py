"""The command `scan`: how suspicious pictures are, writing nothing."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustcodec.cli import options
from robustcodec.cli.batch import Outcome, Result, Work, name_unread, run, threads_each
from robustcodec.cli.console import CONTRACT, FAILED, Console, attributed, emit, named
from robustcodec.errors import ImageError, ModelError
from robustcodec.files import PICTURE_FORMATS, Job, Plan, clean_name, plan_inputs, read_input
from robustcodec.rate import Quality, check_quality

if TYPE_CHECKING:
    from robustcodec.codec import Codec


@dataclass(frozen=True, kw_only=True)
class ScanTask:
    """What scanning any of the files takes."""

    bundle: Path
    quality: float
    threads: int | None
    max_pixels: int
    max_memory: int | None

    def prepare(self) -> Work:
        """Load the model."""
        from robustcodec.bundle import open_bundle
        from robustcodec.codec import Codec
        from robustcodec.images import allow_pixels

        allow_pixels(self.max_pixels)
        return partial(scan_file, Codec(open_bundle(self.bundle), threads=self.threads), self)


def scan_file(codec: "Codec", task: ScanTask, job: Job) -> Result:
    """Look at one picture."""
    from robustcodec import guard, memory
    from robustcodec.container import Limits
    from robustcodec.images import read_picture, recognise

    limits = Limits(max_pixels=task.max_pixels, max_memory=task.max_memory)
    target = Quality(task.quality)

    def admit(width: int, height: int) -> None:
        needed = codec.memory_to_encode(width, height, target, True) + memory.excess(format, size, width, height)
        memory.check(needed, limits.max_memory)

    data = read_input(job.source, options.byte_limit(task.max_pixels, task.max_memory), recognise)
    size = len(data)
    format, _ = recognise(data)
    picture = read_picture(data, limits.max_pixels, as_is=True, admit=admit)
    del data  # so that encoding has its memory
    try:
        verdict = guard.encode(codec, picture, target, limits=limits).verdict
    except ImageError as error:  # the picture was read: it is the model that makes nothing of it
        return Result({"suspicious": True, "suspicion": None, "guard": None}, notes=(str(error),))
    fields = {
        "suspicious": bool(verdict.broken),
        "suspicion": verdict.suspicion,
        "guard": verdict.document(),
    }
    return Result(fields, notes=(verdict.sentence(),) if verdict.broken else ())


def scan(
    inputs: Annotated[list[str], typer.Argument(metavar="IN", help="Pictures, folders with -r, or -.")],
    quality: Annotated[float, typer.Option("-q", "--quality", help="Quality at which to look, 1 to 6.")] = 4.0,
    model: options.Model = None,
    arch: options.Arch = None,
    variant: options.Variant = None,
    json: options.Json = False,
    recursive: options.Recursive = False,
    threads: options.Threads = None,
    jobs: options.Jobs = 1,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    max_memory: options.MaxMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Say how suspicious pictures are, by what the model makes of them; nothing is written.

    A number above 1 means: worse by more than the margins of the model's contract. The exit code is 3 if any picture
    is suspicious.

    \b
      robustcodec scan uploads/*.jpg
      robustcodec scan -r uploads --json
    """
    check_quality(quality)
    plan = plan_inputs(inputs, found=PICTURE_FORMATS, recursive=recursive)
    from robustcodec.bundle import find
    from robustcodec.guard import contract_of

    console = Console(quiet=quiet, json=json)
    bundle = find(model, arch, variant)
    if contract_of(bundle) is None:
        raise ModelError(
            f"the model {bundle.id} has no contract to tell suspicious pictures by; fit one to ordinary pictures with: "
            f"robustcodec models contract {clean_name(shlex.quote(str(bundle.path)))} --data DIR"
        )
    task = ScanTask(
        bundle=bundle.path,
        quality=quality,
        threads=threads_each(threads, jobs),
        max_pixels=options.pixel_limit(max_pixels),
        max_memory=options.memory_limit(max_memory),
    )
    outcomes = []
    for outcome in run(task, plan.jobs, jobs):
        outcomes.append(outcome)
        _report(outcome, console)
        console.progress(len(outcomes), len(plan.jobs))
    _finish(plan, outcomes, console)


def _report(outcome: Outcome, console: Console) -> None:
    name = "-" if outcome.job.source is None else clean_name(str(outcome.job.source))
    fields = named(outcome.job.source, "input")
    if outcome.error is not None:
        console.error(attributed(name, outcome.error))
        console.row(fields | {"error": outcome.error})
        return
    found = outcome.result.fields
    console.row(fields | dict(found) | {"seconds": round(outcome.seconds, 4)})
    if not console.json and not (console.quiet and not found["suspicious"]):
        suspicion = found["suspicion"]
        said = f"{suspicion:.2f}" if isinstance(suspicion, float) else "beyond measure"
        emit(f"{name}: {'SUSPICIOUS' if found['suspicious'] else 'ok'} {said}{_behind(outcome.result.notes)}")


def _behind(notes: Sequence[str]) -> str:
    return "".join(f", {note}" for note in notes)


def _finish(plan: Plan, outcomes: Sequence[Outcome], console: Console) -> None:
    """Name the folders that could not be read, and exit with what was found."""
    name_unread(plan, console)
    if not plan.jobs and not plan.unread:
        console.note("nothing to do: no file has a known suffix")
    if plan.unread or any(outcome.failed for outcome in outcomes):
        raise typer.Exit(FAILED)
    if any(outcome.result.fields["suspicious"] for outcome in outcomes):
        raise typer.Exit(CONTRACT)

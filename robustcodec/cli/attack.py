"""The command `attack`: pictures that a model codes badly, and how badly (needs robustcodec[lab])."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from os.path import lexists
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from robustcodec.cli import options
from robustcodec.cli.batch import Result, Work, process, shown_name
from robustcodec.cli.console import Console, attributed
from robustcodec.cli.lab import require_lab
from robustcodec.cli.stopper import GOES_ON, STOPPED, when_stopped
from robustcodec.data import SAMPLE
from robustcodec.errors import RobustcodecError, UsageError
from robustcodec.files import (
    PICTURE_FORMATS,
    Job,
    Plan,
    check_writable,
    clean_name,
    plan_outputs,
    read_input,
    write_output,
)
from robustcodec.rate import check_quality
from robustcodec.words import duration

if TYPE_CHECKING:
    import torch

    from robustcodec.images import Picture
    from robustcodec.lab.attacks import Attack
    from robustcodec.lab.evaluation.contenders import Learned, Source
    from robustcodec.lab.origins import Origin
    from robustcodec.measure import Figures

_MARK = ".attacked."
_EXTRAS = ("noise", "decoded-clean", "decoded", "compared")
_STRONG = "strong"
_WAY_OUT = "--overwrite makes it anew, or name another place with -o"
_FIGURES_OF = "encoded as .rbc: "
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_BETWEEN_LINES = 30.0


class Target(StrEnum):
    """What `--target` takes."""

    PSNR = "psnr"
    BPP = "bpp"


class Device(StrEnum):
    """What `--device` takes."""

    CPU = "cpu"
    CUDA = "cuda"


def attack(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="IN", help="Pictures, folders with -r, or - [default: the sample photograph]."),
    ] = None,
    output: options.Output = None,
    target: Annotated[Target, typer.Option(help="Make the picture that is decoded worse, or the file larger.")] = (
        Target.PSNR
    ),
    free: Annotated[
        bool, typer.Option("--free", help="Let the other figure change, too: by default it is held where it was.")
    ] = False,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="paper, strong, pgd, noise and others; an unknown name lists all.")
    ] = ("paper"),
    steps: Annotated[int, typer.Option(min=1, help="Steps of the search; the paper takes 1000.")] = 200,
    epsilon: Annotated[float, typer.Option(help="Budget: mean square of the noise on [0, 1].")] = 5e-4,
    quality: Annotated[float, typer.Option("-q", "--quality", help="Quality to encode at, 1 to 6.")] = 4.0,
    model: options.Model = None,
    arch: options.Arch = None,
    variant: options.Variant = None,
    surrogate: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Craft on this model or checkpoint, measure on the other.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 63) - 1, help="Seed of all randomness.")] = 0,
    restarts: Annotated[int, typer.Option(min=1, help="Starts of the method strong; the best result counts.")] = 1,
    precision: options.Precision = options.Arithmetic.FLOAT32,
    device: Annotated[Device | None, typer.Option(help="Where to search [default: a GPU if there is one].")] = None,
    save_all: Annotated[
        bool, typer.Option("--save-all", help="Write the noise, both decoded pictures and a comparison, too.")
    ] = False,
    json: options.Json = False,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    recursive: options.Recursive = False,
    quiet: options.Quiet = False,
) -> None:
    """Attack a model: change pictures a little so that it codes them badly (needs robustcodec[lab]).

    photo.png becomes photo.attacked.png, a picture of whole levels within the budget, and what the model makes of
    both is measured on real files. Results that exist are skipped, so that the same command goes on where it was
    interrupted; one that says it was made otherwise is refused.

    \b
      robustcodec attack --target psnr
      robustcodec attack photo.png --target bpp --save-all
      robustcodec attack -r photos -o attacked --method strong --steps 1000 -m hyper-robust
      robustcodec attack photo.png -m hyper-robust --surrogate hyper-base
    """
    require_lab()
    check_quality(quality)
    from robustcodec.lab import attacks
    from robustcodec.lab.attacks.craft import check

    order = attacks.Attack(
        threat=attacks.Threat(attacks.Target(target), bounded=not free),
        method=method,
        epsilon=epsilon,
        steps=steps,
        seed=seed,
        restarts=restarts,
        precision=attacks.Precision(precision),
    )
    check(order, [])
    order = replace(order, steps=attacks.steps_taken(order))
    if restarts > 1 and method != _STRONG:
        raise UsageError(f"--restarts is for --method {_STRONG}; {method} starts once")
    plan = _plan(inputs or [], output, recursive=recursive, overwrite=overwrite, save_all=save_all)
    options.check_json(json, plan)
    check_writable(plan)

    from robustcodec.bundle import find
    from robustcodec.lab.attacked import find_device
    from robustcodec.lab.evaluation.contenders import Learned, open_source
    from robustcodec.lab.runs import threads_for, use_threads

    use_threads(threads_for(threads))
    console = Console(quiet=quiet, json=json)
    codec = Learned(find(model, arch, variant), threads)
    source = codec.source if surrogate is None else open_source(surrogate)
    task = _Task(codec, source, order, quality, find_device(device) if device else None, console)
    known = {job: task.known(job) for job in plan.skipped}
    if not overwrite:
        for job in plan.jobs:
            if job.target is not None and job.target != Path(output or "") and lexists(job.target):
                task.check_replaced(job)
    # of one picture nothing is kept, and --overwrite begins at the first again
    goes_on = len(plan.jobs) + len(plan.skipped) > 1 and not overwrite
    with when_stopped(lambda: console.note(GOES_ON if goes_on else STOPPED)):
        try:
            process(task, plan, console, processes=1, known=known)
        finally:
            task.summarise()


@dataclass(frozen=True, eq=False)
class _Task:
    """What attacking any of the pictures takes, and what became of those that are done."""

    codec: "Learned"
    source: "Source"
    attack: "Attack"
    quality: float
    device: "torch.device | None"
    console: Console
    done: "list[tuple[str, Figures, Figures]]" = field(default_factory=list)

    def prepare(self) -> Work:
        """See that the model can be attacked at all before any picture is read."""
        from robustcodec.lab.attacks.shipped import victim_of
        from robustcodec.lab.runs import default_device

        victim_of(self.source.weights, self.quality, self.device or default_device())
        return self._attack

    def known(self, job: Job) -> Result:
        """What is known of a result that exists. Raises UsageError if it says that it was made otherwise."""
        assert job.source is not None and job.target is not None  # streams are never skipped
        origin, name = self.origin(job.target), shown_name(job.source)
        if origin is None:
            return Result({}, notes=("it does not say how it was made, and counts in no mean",))
        try:
            picture = _read(job)
        except RobustcodecError as error:
            why = attributed(name, str(error))
            return Result({}, notes=(f"it may be of another picture, and counts in no mean: {why}",))
        _check_clean(job, picture, origin)
        self.done.append((name, origin.before, origin.after))
        return Result(_fields(picture, origin))

    def check_replaced(self, job: Job) -> None:
        """Raise UsageError if a result that lacks pictures beside it would be lost where all are made anew."""
        assert job.target is not None
        origin = self.origin(job.target)
        if origin is None:
            raise UsageError(f"{clean_name(job.target)} exists already and does not say how it was made; {_WAY_OUT}")
        try:
            picture = _read(job)
        except RobustcodecError:
            return  # it will fail again where it is to be attacked, and its result stays
        _check_clean(job, picture, origin)

    def origin(self, result: Path) -> "Origin | None":
        """What a result says of itself, if anything. Raises UsageError if it was made with other options."""
        from robustcodec.lab.attacked import order_of
        from robustcodec.lab.origins import read_origin

        origin = read_origin(result, _most_bytes())
        asked = order_of(self.codec, self.source, self.attack, self.quality)
        if origin is not None and (differences := origin.order.differences(asked)):
            raise UsageError(f"{clean_name(result)} was made with {', '.join(differences)}; {_WAY_OUT}")
        return origin

    def _attack(self, job: Job) -> Result:
        from robustcodec.images import Picture, write_picture
        from robustcodec.lab.attacked import attack_picture, exhibits
        from robustcodec.lab.figures import table
        from robustcodec.lab.origins import as_exhibit

        picture = _read(job)
        name = shown_name(job.source)
        report = _progress(self.console, name, self.attack)
        result = attack_picture(self.codec, self.source, picture, self.attack, self.quality, self.device, report)
        if job.beside:
            shown = exhibits(result)
            for extra, file in zip(_EXTRAS, job.beside, strict=True):
                write_output(file, as_exhibit(write_picture(Picture(pixels=shown[extra]), "PNG"), extra))
        write_output(job.target, result.png)  # last: it tells the next run that all is there
        before, after = result.origin.before, result.origin.after
        self.done.append((name, before, after))
        if not self.console.json:
            for line in table(name, [before], [after]):
                self.console.note(line)
        notes = (*picture.notes, *self._remarks(result.origin))
        return Result(_fields(picture, result.origin), notes=notes, figures_of=_FIGURES_OF)

    def _remarks(self, origin: "Origin") -> Iterator[str]:
        if origin.after.psnr_input == float("inf"):
            yield "no noise was found that does harm and keeps the bound; the picture is unchanged"
        elif origin.shrunk < 1:
            yield f"the noise was shortened to {origin.shrunk:g} of its length to keep the bound"
        if not origin.holds:
            yield f"the bound does not hold on {self.codec.name}; it was kept on {self.source.name}"

    def summarise(self) -> None:
        """Print means over several pictures, and which came off worst."""
        if len(self.done) < 2 or self.console.json:
            return
        from robustcodec.lab.figures import table

        names, before, after = zip(*self.done, strict=True)
        for line in table(f"mean of {len(names)} pictures", before, after):
            self.console.note(line)
        if str(self.attack.threat.target) == Target.BPP:
            worst = max(range(len(names)), key=lambda index: after[index].bpp)
        else:
            worst = min(range(len(names)), key=lambda index: after[index].psnr)
        self.console.note(f"worst: {names[worst]} with {after[worst].bpp:.4f} bpp, {after[worst].psnr:.2f} dB")


def _read(job: Job) -> "Picture":
    from robustcodec.images import read_picture

    return read_picture(read_input(job.source, _most_bytes()), options.MAX_PIXELS)


def _check_clean(job: Job, picture: "Picture", origin: "Origin") -> None:
    """Raise UsageError if a result was made of another picture than that of its job."""
    from robustcodec.lab.evaluation.subjects import digest

    assert job.source is not None and job.target is not None
    if origin.clean != digest(picture.pixels):
        of = shown_name(job.source)
        raise UsageError(f"{clean_name(job.target)} was made of another picture than {of}; {_WAY_OUT}")


def _most_bytes() -> int:
    return options.byte_limit(options.MAX_PIXELS)


def _fields(picture: "Picture", origin: "Origin") -> dict[str, object]:
    """What JSON says."""
    order, attack = origin.order, origin.order.attack
    return {
        "width": picture.width,
        "height": picture.height,
        "bytes": origin.after.size,
        "bpp": origin.after.bpp,
        "psnr": origin.after.psnr,
        "model": order.model,
        "fingerprint": order.fingerprint,
        "quality": order.quality,
        "surrogate": attack.surrogate,
        "surrogate_fingerprint": attack.surrogate_fingerprint,
        "method": attack.method,
        "target": attack.target,
        "free": not attack.bounded,
        "epsilon": attack.epsilon,
        "steps": attack.steps,
        "seed": attack.seed,
        "restarts": attack.restarts,
        "precision": attack.precision,
        "holds": origin.holds,
        "shrunk": origin.shrunk,
        "before": asdict(origin.before),
        "after": asdict(origin.after),
    }


def _plan(inputs: Sequence[str], output: str | None, *, recursive: bool, overwrite: bool, save_all: bool) -> Plan:
    if output is not None and Path(output).suffix.lower() in set(PICTURE_FORMATS) - {".png"}:
        raise UsageError("an attacked picture is written as PNG, which keeps every level; name a .png file with -o")
    from robustcodec.lab.origins import is_exhibit

    if not inputs:
        inputs, output = [str(SAMPLE)], output or "."
    plan = plan_outputs(
        inputs,
        output,
        suffix=f"{_MARK}png",
        found=PICTURE_FORMATS,
        recursive=recursive,
        overwrite=overwrite,
        mark=_MARK,
        beside=[f".{name}.png" for name in _EXTRAS] if save_all else (),
        # so that the same command goes on where it was interrupted
        replaceable=lambda file: is_exhibit(file, _most_bytes()),
    )
    if save_all and any(job.target is None for job in plan.jobs):
        raise UsageError("--save-all writes several pictures; give -o a file")
    return plan


def _progress(console: Console, name: str, attack: "Attack") -> Callable[[int, int, list[float]], None]:
    """Say how far a search is, what it has reached, and how long it will take: now and then, or live on a terminal."""
    from math import log10

    started = last = monotonic()
    seconds, say = _SECONDS_BETWEEN_LINES, console.note
    if console.live:
        seconds, say = _SECONDS_BETWEEN_LOOKS, console.status

    def report(step: int, steps: int, scores: list[float]) -> None:
        nonlocal last
        now = monotonic()
        if now - last < seconds:
            return
        last = now
        (score,) = scores
        if str(attack.threat.target) == Target.PSNR:
            reached = f"{-10 * log10(max(score * attack.epsilon, 1e-30)):.2f} dB"
        else:
            reached = f"{score:.3f} bpp"
        left = (now - started) / step * max(0, steps - step)
        say(f"{name}: step {step} of {steps}, {reached}, {duration(round(left))} left")

    return report

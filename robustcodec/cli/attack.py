"""The command `attack`: pictures that a model codes badly, and how badly (needs robustcodec[lab])."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from robustcodec.cli import options
from robustcodec.cli.batch import Result, Work, process
from robustcodec.cli.console import Console
from robustcodec.cli.lab import require_lab
from robustcodec.data import SAMPLE
from robustcodec.errors import UsageError
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

if TYPE_CHECKING:
    import torch

    from robustcodec.images import Picture
    from robustcodec.lab.attacked import Attacked
    from robustcodec.lab.attacks import Attack
    from robustcodec.lab.evaluation.contenders import Learned, Source
    from robustcodec.measure import Figures

_MARK = ".attacked."
_EXTRAS = ("noise", "decoded-clean", "decoded", "compared")
_STRONG = "strong"
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
        typer.Argument(metavar="[IN...]", help="Pictures, folders with -r, or - [default: the sample photograph]."),
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
    overwrite: options.Overwrite = False,
    recursive: options.Recursive = False,
    quiet: options.Quiet = False,
) -> None:
    """Attack a model: change pictures a little so that it codes them badly (needs robustcodec[lab]).

    photo.png becomes photo.attacked.png, a picture of whole levels within the budget, and what the model makes of
    both is measured on real files. Results that exist are skipped, so that the same command goes on where it was
    interrupted.

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
    if restarts > 1 and method != _STRONG:
        raise UsageError(f"--restarts is for --method {_STRONG}; {method} starts once")
    plan = _plan(inputs or [], output, recursive=recursive, overwrite=overwrite, save_all=save_all)
    options.check_json(json, plan)
    check_writable(plan)

    from robustcodec.bundle import find
    from robustcodec.lab.attacked import find_device
    from robustcodec.lab.evaluation.contenders import Learned, open_source

    console = Console(quiet=quiet, json=json)
    codec = Learned(find(model, arch, variant))
    source = codec.source if surrogate is None else open_source(surrogate)
    task = _Task(codec, source, order, quality, find_device(device) if device else None, console)
    try:
        process(task, plan, console, processes=1)
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

    def _attack(self, job: Job) -> Result:
        from robustcodec.images import Picture, read_picture, write_picture
        from robustcodec.lab.attacked import attack_picture, exhibits
        from robustcodec.lab.figures import table

        picture = read_picture(read_input(job.source, options.byte_limit(options.MAX_PIXELS)), options.MAX_PIXELS)
        name = "-" if job.source is None else clean_name(job.source)
        report = _progress(self.console, name, self.attack)
        result = attack_picture(self.codec, self.source, picture, self.attack, self.quality, self.device, report)
        if job.beside:
            shown = exhibits(result)
            for extra, file in zip(_EXTRAS, job.beside, strict=True):
                write_output(file, write_picture(Picture(pixels=shown[extra]), "PNG"))
        write_output(job.target, result.png)  # last: it tells the next run that all is there
        self.done.append((name, result.before, result.after))
        if not self.console.json:
            for line in table(name, [result.before], [result.after]):
                self.console.note(line)
        return Result(self._fields(picture, result), notes=(*picture.notes, *self._remarks(result)))

    def _fields(self, picture: "Picture", result: "Attacked") -> dict[str, object]:
        """What JSON says."""
        attack, crafted_elsewhere = self.attack, self.source.fingerprint != self.codec.fingerprint
        return {
            "width": picture.width,
            "height": picture.height,
            "bytes": result.after.size,
            "bpp": result.after.bpp,
            "psnr": result.after.psnr,
            "model": self.codec.name,
            "fingerprint": self.codec.fingerprint,
            "quality": self.quality,
            "surrogate": self.source.name if crafted_elsewhere else None,
            "method": attack.method,
            "target": str(attack.threat.target),
            "free": not attack.threat.bounded,
            "epsilon": attack.epsilon,
            "steps": attack.steps,
            "seed": attack.seed,
            "restarts": attack.restarts,
            "precision": str(attack.precision),
            "holds": result.holds,
            "shrunk": result.shrunk,
            "before": asdict(result.before),
            "after": asdict(result.after),
        }

    def _remarks(self, result: "Attacked") -> Iterator[str]:
        if result.after.psnr_input == float("inf"):
            yield "no noise was found that does harm and keeps the bound; the picture is unchanged"
        elif result.shrunk < 1:
            yield f"the noise was shortened to {result.shrunk:g} of its length to keep the bound"
        if not result.holds:
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


def _plan(inputs: Sequence[str], output: str | None, *, recursive: bool, overwrite: bool, save_all: bool) -> Plan:
    if output is not None and Path(output).suffix.lower() in set(PICTURE_FORMATS) - {".png"}:
        raise UsageError("an attacked picture is written as PNG, which keeps every level; name a .png file with -o")
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
        say(f"{name}: step {step} of {steps}, {reached}, {left:.0f} s left")

    return report

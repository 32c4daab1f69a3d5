"""The command `encode`: pictures to robustcodec files."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustcodec.cli import options
from robustcodec.cli.batch import Result, Work, process, threads_each
from robustcodec.cli.console import CONTRACT, Console
from robustcodec.errors import ContractViolation, UsageError
from robustcodec.files import ENCODED_SUFFIX, PICTURE_FORMATS, Job, plan_outputs, read_input, write_output
from robustcodec.policy import DEFAULT_GUARD, Guard, OnViolation
from robustcodec.rate import DEFAULT_TARGET, STEP_UNIT, STEP_WORTHWHILE, BitsPerPixel, FileSize, Psnr, Quality, Target

if TYPE_CHECKING:
    from robustcodec.codec import Codec, Encoded
    from robustcodec.images import Picture


@dataclass(frozen=True, kw_only=True)
class EncodeTask:
    """What encoding any of the files takes."""

    bundle: Path
    target: Target
    threads: int | None = None
    max_pixels: int = options.MAX_PIXELS
    max_memory: int | None = None
    measure: bool = False
    effort: int = 0
    guard: Guard = DEFAULT_GUARD
    strip: bool = False
    strip_all: bool = False
    dry_run: bool = False

    def prepare(self) -> Work:
        """Load the model."""
        from robustcodec.bundle import open_bundle
        from robustcodec.codec import Codec
        from robustcodec.images import allow_pixels

        allow_pixels(self.max_pixels)
        return partial(encode_file, Codec(open_bundle(self.bundle), threads=self.threads), self)


def encode_file(codec: "Codec", task: EncodeTask, job: Job) -> Result:
    """Encode one picture."""
    from robustcodec import guard, memory
    from robustcodec.container import Limits
    from robustcodec.images import read_picture, recognise
    from robustcodec.metrics import bits_per_pixel, psnr

    data = read_input(job.source, options.byte_limit(task.max_pixels, task.max_memory), recognise)
    size = len(data)
    format, _ = recognise(data)
    limits = Limits(max_pixels=task.max_pixels, max_memory=task.max_memory)
    guarded = guard.measures(codec, task.guard)
    measure = task.measure or isinstance(task.target, Psnr)  # which tells how near the target it is

    def admit(width: int, height: int) -> None:
        if guarded:
            needed = guard.memory_to_encode(codec, width, height, task.target, task.guard, task.effort)
        else:
            needed = codec.memory_to_encode(width, height, task.target, measure, refines=task.effort > 0)
        memory.check(needed + memory.excess(format, size, width, height), limits.max_memory)

    picture = _stripped(read_picture(data, limits.max_pixels, as_is=True, admit=admit), task)
    del data  # so that encoding has its memory
    verdict = None
    if guarded:
        try:
            result = guard.encode(codec, picture, task.target, task.guard, limits=limits, effort=task.effort)
        except ContractViolation as error:
            return Result({}, notes=picture.notes, written=False, failure=str(error), code=CONTRACT)
        encoded, verdict = result.encoded, result.verdict
    else:
        encoded = codec.encode(picture, task.target, limits=limits, measure=measure, effort=task.effort)
    if not task.dry_run:
        write_output(job.target, encoded.data)

    fields: dict[str, object] = {
        "width": picture.width,
        "height": picture.height,
        "bytes": len(encoded.data),
        "bpp": bits_per_pixel(len(encoded.data), picture.width, picture.height),
        "model": codec.bundle.id,
        "quality": encoded.quality,
        "step": encoded.step / STEP_UNIT if encoded.step else None,
        "guard": verdict and verdict.document(),
    }
    if task.measure and encoded.reconstruction is not None:
        fields["psnr"] = psnr(picture.pixels, encoded.reconstruction)
    larger = len(encoded.data) >= size
    notes = [f"larger than the input, which has {size:,} bytes; keep that"] if larger else []
    if verdict is None or verdict.rung is None:
        if isinstance(task.target, Psnr):
            assert encoded.reconstruction is not None
            notes += describe_miss(task.target, psnr(picture.pixels, encoded.reconstruction))
        elif isinstance(task.target, BitsPerPixel | FileSize):
            notes += describe_rest(task.target, picture, encoded)
    if guarded and not guard.bounded(codec, task.guard):
        notes.append(
            f"the model {codec.bundle.id} has no contract and no floor or cap is asked for: the guard holds the result "
            "to nothing but finite pixels"
        )
    if verdict is not None and verdict.status != "ok":
        notes.append(verdict.sentence())
    return Result(fields, notes=(*picture.notes, *notes), written=not task.dry_run)


def encode(
    inputs: Annotated[list[str], typer.Argument(metavar="IN", help="Pictures, folders with -r, or -.")],
    output: options.Output = None,
    quality: Annotated[
        float | None, typer.Option("-q", "--quality", help="From 1 (small) to 6 (faithful) [default: 4].")
    ] = None,
    target_bpp: Annotated[
        float | None, typer.Option(help="At most so many bits per pixel, as far as they help.")
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="At most so many bytes, such as 60K or 1.5M, as far as they help."),
    ] = None,
    target_psnr: Annotated[
        float | None, typer.Option(help="So many decibels, within 0.1 or, if no step is, the next above.")
    ] = None,
    model: options.Model = None,
    arch: options.Arch = None,
    variant: options.Variant = None,
    psnr: Annotated[bool, typer.Option("--psnr", help="Measure the PSNR of the result, too.")] = False,
    effort: Annotated[int, typer.Option(min=0, max=3, help="Time spent on a better result: 0 (fast) to 3.")] = 0,
    min_psnr: Annotated[float | None, typer.Option(help="Floor in decibels for the guard.")] = None,
    max_bpp: Annotated[float | None, typer.Option(help="Cap in bits per pixel for the guard.")] = None,
    on_violation: Annotated[
        OnViolation, typer.Option(help="What to do about a result that breaks its contract.")
    ] = OnViolation.WARN,
    guard_rungs: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Rungs of fallback: transform,step,refine,classical,lossless or none."),
    ] = None,
    strip: Annotated[bool, typer.Option("--strip", help="Drop EXIF and XMP, keep the colour profile.")] = False,
    strip_all: Annotated[bool, typer.Option("--strip-all", help="Drop all metadata.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but write nothing.")] = False,
    json: options.Json = False,
    recursive: options.Recursive = False,
    overwrite: options.Overwrite = False,
    threads: options.Threads = None,
    jobs: options.Jobs = 1,
    shard: options.Part = "1/1",
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    max_memory: options.MaxMemory = None,
    quiet: options.Quiet = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say which model is used.")] = False,
) -> None:
    """Encode pictures (PNG, JPEG, WebP, AVIF, TIFF, BMP, PPM, GIF).

    Without -o, photo.png becomes photo.rbc beside it. Results that exist are skipped, but a file that -o
    names is overwritten.

    \b
      robustcodec encode photo.png -q 5
      robustcodec encode photo.png -o photo.bin --target-size 60K
      robustcodec encode -r album -o small --target-bpp 0.4 --jobs 4
      robustcodec encode -r uploads -o safe --min-psnr 30 --on-violation fallback
      cat photo.png | robustcodec encode - -o - > photo.rbc
    """
    target = choose_target(quality, target_bpp, target_size, target_psnr)
    part = options.parse_shard(shard)
    plan = plan_outputs(
        inputs,
        output,
        suffix=ENCODED_SUFFIX,
        found=PICTURE_FORMATS,
        recursive=recursive,
        overwrite=overwrite or dry_run,
    )
    options.check_json(json and not dry_run, plan)
    from robustcodec.bundle import find

    console = Console(quiet=quiet, json=json)
    task = EncodeTask(
        bundle=find(model, arch, variant).path,
        target=target,
        threads=threads_each(threads, jobs),
        max_pixels=options.pixel_limit(max_pixels),
        max_memory=options.memory_limit(max_memory),
        measure=psnr,
        effort=effort,
        guard=Guard(
            on_violation=on_violation,
            min_psnr=min_psnr,
            max_bpp=max_bpp,
            rungs=options.parse_rungs(guard_rungs),
        ),
        strip=strip,
        strip_all=strip_all,
        dry_run=dry_run,
    )
    if verbose:
        console.note(f"model: {task.bundle}")
    process(task, plan, console, processes=jobs, shard=part)


def choose_target(
    quality: float | None, target_bpp: float | None, target_size: str | None, target_psnr: float | None
) -> Target:
    """The one target that the options ask for, quality 4 if none.

    Raises UsageError for several targets and for one out of range.
    """
    options_given = {
        "--quality": quality,
        "--target-bpp": target_bpp,
        "--target-size": target_size,
        "--target-psnr": target_psnr,
    }
    given = [name for name, value in options_given.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other; give one of them")
    if target_bpp is not None:
        return BitsPerPixel(target_bpp)
    if target_size is not None:
        return FileSize(options.parse_size(target_size))
    if target_psnr is not None:
        return Psnr(target_psnr)
    return DEFAULT_TARGET if quality is None else Quality(quality)


def describe_miss(target: Psnr, found: float) -> list[str]:
    """Say if a result is not as near its target as results usually are."""
    from robustcodec.targets import PSNR_TOLERANCE

    near = abs(found - target.decibels) <= PSNR_TOLERANCE
    return [] if near else [f"no step was found that gives {target.decibels:g} dB; this one gives {found:.2f} dB"]


def describe_rest(target: BitsPerPixel | FileSize, picture: "Picture", encoded: "Encoded") -> list[str]:
    """Say if a result leaves bytes unused, since no finer step is worth them."""
    from robustcodec.targets import SIZE_TOLERANCE, most_bytes

    most = most_bytes(target, picture)
    used = encoded.step > STEP_WORTHWHILE or len(encoded.data) >= most * (1 - SIZE_TOLERANCE)
    return [] if used else [f"smaller than the {most:,} bytes asked for, since a larger file would hardly be better"]


def _stripped(picture: "Picture", task: EncodeTask) -> "Picture":
    if task.strip_all:
        return replace(picture, icc=None, exif=None, xmp=None)
    return replace(picture, exif=None, xmp=None) if task.strip else picture

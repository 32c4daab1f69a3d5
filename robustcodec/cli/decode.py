"""The command `decode`: robustcodec files to pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustcodec.cli import options
from robustcodec.cli.batch import Result, Work, process, threads_each
from robustcodec.cli.console import Console
from robustcodec.errors import FileFormatError, UsageError
from robustcodec.files import (
    ENCODED_SUFFIX,
    PICTURE_FORMATS,
    Job,
    clean_name,
    is_folder,
    plan_outputs,
    read_input,
    write_output,
)

if TYPE_CHECKING:
    from robustcodec.codec import Codec, Salvaged
    from robustcodec.container import Limits

_WRITABLE = {suffix: format for suffix, format in PICTURE_FORMATS.items() if format != "GIF"}
_WITH_QUALITY = ("AVIF", "JPEG", "WebP")


@dataclass(frozen=True, kw_only=True)
class DecodeTask:
    """What decoding any of the files takes."""

    format: str
    quality: int | None = None
    max_side: int | None = None
    model: str | None = None
    threads: int | None = None
    max_pixels: int = options.MAX_PIXELS
    max_memory: int | None = None
    region: tuple[int, int, int, int] | None = None
    salvage: bool = False

    def prepare(self) -> Work:
        """Start without a model: each is loaded when the first file asks for it."""
        codecs: dict[bytes, Codec] = {}
        return partial(decode_file, codecs, self)


def decode_file(codecs: "dict[bytes, Codec]", task: DecodeTask, job: Job) -> Result:
    """Decode one file with its model among `codecs`, by fingerprint; it is loaded if it is not there yet."""
    from robustcodec.codec import codec_for_file
    from robustcodec.container import Limits, read_header
    from robustcodec.images import losses, shrink, write_picture
    from robustcodec.metrics import bits_per_pixel
    from robustcodec.tiling import Region

    limits = Limits(max_pixels=task.max_pixels, max_memory=task.max_memory)
    most = options.byte_limit(task.max_pixels, task.max_memory)
    data = read_input(job.source, most, partial(read_header, limits=limits))
    header, _ = read_header(data, limits)
    if header.fingerprint not in codecs:
        codecs[header.fingerprint] = codec_for_file(data, task.model, task.threads)
    codec = codecs[header.fingerprint]
    failure = None
    if task.salvage:
        salvaged = codec.salvage(data, limits)
        picture, failure = salvaged.picture, describe_loss(salvaged) or other_damage(data, limits)
    else:
        picture = codec.decode(data, limits, region=None if task.region is None else Region(*task.region))
    if task.max_side is not None:
        picture = shrink(picture, task.max_side)
    write_output(job.target, write_picture(picture, task.format, task.quality))

    fields = {
        "width": picture.width,
        "height": picture.height,
        "bytes": len(data),
        "bpp": bits_per_pixel(len(data), header.width, header.height),
        "format": task.format,
    }
    return Result(fields, notes=(*picture.notes, *losses(picture, task.format)), failure=failure)


def describe_loss(salvaged: "Salvaged") -> str | None:
    """Say which rows or columns of a salvaged picture are lost, None if none are."""
    if not salvaged.lost:
        return None
    across = all(region.width == salvaged.picture.width for region in salvaged.lost)
    spans = [region.rows if across else region.columns for region in salvaged.lost]
    ranges = ", ".join(f"{start} to {stop - 1}" for start, stop in _merged(spans))
    beside = f", and up to {salvaged.inexact} beside them inexact" if salvaged.inexact else ""
    what = "rows" if across else "columns"
    return f"the file is damaged: {what} {ranges} are lost and grey{beside}; get another copy if you can"


def _merged(spans: Sequence[slice]) -> list[tuple[int, int]]:
    """Give first and stop of ranges in order, those that touch as one."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted((span.start, span.stop) for span in spans):
        touches = bool(merged) and merged[-1][1] == start
        merged.append((merged.pop()[0] if touches else start, stop))
    return merged


def other_damage(data: bytes, limits: "Limits") -> str | None:
    """Say what is wrong with a file whose pixels are all there, None if nothing is."""
    from robustcodec.container import unpack

    try:
        unpack(data, limits)
    except FileFormatError as error:
        return f"its pixels are intact but {error}"
    return None


def decode(
    inputs: Annotated[list[str], typer.Argument(metavar="IN", help="Files, folders with -r, or -.")],
    output: options.Output = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="NAME", help="png, jpeg, webp, avif, tiff, bmp or ppm [default: by the name, or png]."
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Of jpeg and avif, or lossy webp [default: 95; webp lossless]."),
    ] = None,
    max_side: Annotated[
        int | None, typer.Option(min=1, help="Make the picture smaller so that no side has more pixels.")
    ] = None,
    model: options.Model = None,
    json: options.Json = False,
    recursive: options.Recursive = False,
    overwrite: options.Overwrite = False,
    threads: options.Threads = None,
    jobs: options.Jobs = 1,
    shard: options.Part = "1/1",
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    max_memory: options.MaxMemory = None,
    region: Annotated[
        str | None,
        typer.Option(metavar="X,Y,W,H", help="Decode only these pixels, and read no more than they need."),
    ] = None,
    salvage: Annotated[bool, typer.Option("--salvage", help="Decode what is intact of damaged files.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Decode robustcodec files to pictures.

    Without -o, photo.rbc becomes photo.png beside it. Results that exist are skipped, but a file that -o
    names is overwritten. The picture is as it was: grey or colour, with its transparency, profile, EXIF and XMP.

    \b
      robustcodec decode photo.rbc -o photo.webp
      robustcodec decode photo.rbc -o photo.jpg --quality 90
      robustcodec decode -r small -o previews --max-side 256 --format jpeg
    """
    part = options.parse_shard(shard)
    if salvage and region is not None:
        raise UsageError("--salvage and --region exclude each other; give one of them")
    suffix = choose_suffix(inputs, output, format)
    if quality is not None and _WRITABLE[suffix] not in _WITH_QUALITY:
        raise UsageError(f"--quality is for {', '.join(_WITH_QUALITY)}; {_WRITABLE[suffix]} keeps every pixel")
    plan = plan_outputs(
        inputs, output, suffix=suffix, found=(ENCODED_SUFFIX,), recursive=recursive, overwrite=overwrite
    )
    options.check_json(json, plan)
    task = DecodeTask(
        format=_WRITABLE[suffix],
        quality=quality,
        max_side=max_side,
        model=model,
        threads=threads_each(threads, jobs),
        max_pixels=options.pixel_limit(max_pixels),
        max_memory=options.memory_limit(max_memory),
        region=parse_region(region),
        salvage=salvage,
    )
    process(task, plan, Console(quiet=quiet, json=json), processes=jobs, shard=part)


def choose_suffix(inputs: Sequence[str], output: str | None, format: str | None) -> str:
    """The suffix of the format to write: `format` if given, else by the name of the output if a file, else PNG.

    Raises UsageError for formats that cannot be written.
    """
    if format is not None:
        suffix = f".{format.lower()}"
    elif output is None or output == "-" or output.endswith("/") or len(inputs) > 1:
        suffix = ".png"  # also where -o is a folder, whatever its name
    else:
        folders = is_folder(Path(output)) or is_folder(Path(inputs[0]))
        suffix = ".png" if folders else Path(output).suffix.lower() or ".png"
    if suffix not in _WRITABLE:
        wanted = format if format is not None else clean_name(str(output))
        names = ", ".join(sorted({name.lower() for name in _WRITABLE.values()}))
        raise UsageError(f"{wanted} is no format that can be written; --format takes {names}")
    return suffix


def parse_region(text: str | None) -> tuple[int, int, int, int] | None:
    """Numbers of a region such as 0,128,640,480. Raises UsageError."""
    if text is None:
        return None
    try:
        x, y, width, height = (int(number) for number in text.split(","))
        if min(x, y) < 0 or min(width, height) < 1:
            raise ValueError
    except ValueError:
        raise UsageError(f"{clean_name(text)} is no region; give --region X,Y,WIDTH,HEIGHT in pixels") from None
    return x, y, width, height

"""The command `decode`: robustcodec files to pictures."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustcodec.cli import options
from robustcodec.cli.batch import Result, Work, process, threads_each
from robustcodec.cli.console import Console
from robustcodec.errors import UsageError
from robustcodec.files import (
    ENCODED_SUFFIX,
    PICTURE_FORMATS,
    Job,
    clean_name,
    plan_outputs,
    read_input,
    write_output,
)

if TYPE_CHECKING:
    from robustcodec.codec import Codec

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

    data = read_input(job.source, options.byte_limit(task.max_pixels))
    limits = Limits(max_pixels=task.max_pixels)
    header, _ = read_header(data, limits)
    if header.fingerprint not in codecs:
        codecs[header.fingerprint] = codec_for_file(data, task.model, task.threads)
    picture = codecs[header.fingerprint].decode(data, limits)
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
    return Result(fields, notes=(*picture.notes, *losses(picture, task.format)))


def decode(
    inputs: Annotated[list[str], typer.Argument(metavar="IN...", help="Files, folders with -r, or -.")],
    output: options.Output = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help="png, jpeg, webp, avif, tiff, bmp or ppm [default: by the name, or png]."),
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
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
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
    options.check_json(json, output)
    suffix = choose_suffix(output, format)
    if quality is not None and _WRITABLE[suffix] not in _WITH_QUALITY:
        raise UsageError(f"--quality is for {', '.join(_WITH_QUALITY)}; {_WRITABLE[suffix]} keeps every pixel")
    plan = plan_outputs(
        inputs, output, suffix=suffix, found=(ENCODED_SUFFIX,), recursive=recursive, overwrite=overwrite
    )
    task = DecodeTask(
        format=_WRITABLE[suffix],
        quality=quality,
        max_side=max_side,
        model=model,
        threads=threads_each(threads, jobs),
        max_pixels=options.pixel_limit(max_pixels),
    )
    process(task, plan, Console(quiet=quiet, json=json), processes=jobs)


def choose_suffix(output: str | None, format: str | None) -> str:
    """The suffix of the format to write: `format` if given, else by the name of the output, else PNG.

    Raises UsageError for formats that cannot be written.
    """
    if format is not None:
        suffix = f".{format.lower()}"
    elif output is None or output == "-" or output.endswith("/") or Path(output).is_dir():
        suffix = ".png"
    else:
        suffix = Path(output).suffix.lower() or ".png"
    if suffix not in _WRITABLE:
        wanted = format if format is not None else clean_name(str(output))
        names = ", ".join(sorted({name.lower() for name in _WRITABLE.values()}))
        raise UsageError(f"{wanted} is no format that can be written; --format takes {names}")
    return suffix

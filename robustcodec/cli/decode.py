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
_WITHOUT_METADATA = ("BMP", "PPM")


@dataclass(frozen=True, kw_only=True)
class DecodeTask:
    """What decoding any of the files takes."""

    format: str
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
    from robustcodec.images import write_picture
    from robustcodec.metrics import bits_per_pixel

    data = read_input(job.source, options.byte_limit(task.max_pixels))
    limits = Limits(max_pixels=task.max_pixels)
    header, _ = read_header(data, limits)
    if header.fingerprint not in codecs:
        codecs[header.fingerprint] = codec_for_file(data, task.model, task.threads)
    picture = codecs[header.fingerprint].decode(data, limits)
    write_output(job.target, write_picture(picture, task.format))

    fields = {
        "width": picture.width,
        "height": picture.height,
        "bytes": len(data),
        "bpp": bits_per_pixel(len(data), picture.width, picture.height),
        "format": task.format,
    }
    dropped = task.format in _WITHOUT_METADATA and (picture.icc or picture.exif or picture.xmp)
    notes = [f"{task.format} cannot hold its metadata, which is lost; use PNG to keep it"] if dropped else []
    return Result(fields, notes=(*picture.notes, *notes))


def decode(
    inputs: Annotated[list[str], typer.Argument(metavar="IN...", help="Files, folders with -r, or -.")],
    output: options.Output = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help="png, jpeg, webp, avif, tiff, bmp or ppm [default: by the name, or png]."),
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
    names is overwritten. WebP is written lossless, JPEG and AVIF at quality 95.
    """
    options.check_json(json, output)
    suffix = choose_suffix(output, format)
    plan = plan_outputs(
        inputs, output, suffix=suffix, found=(ENCODED_SUFFIX,), recursive=recursive, overwrite=overwrite
    )
    task = DecodeTask(
        format=_WRITABLE[suffix],
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

"""Options that several commands share, and how their values are read."""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import typer

from robustcodec.errors import UsageError
from robustcodec.files import Plan, Shard, clean_name
from robustcodec.policy import Rung

MAX_PIXELS = 1 << 28
UNLIMITED_PIXELS = 1 << 56  # more than the format can say

Output = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="OUT", help="File, folder, or - for standard output."),
]
Model = Annotated[
    str | None, typer.Option("-m", "--model", metavar="MODEL", help="Id, path or fingerprint of a model.")
]
Arch = Annotated[str | None, typer.Option(metavar="NAME", help="Architecture of the model: hyper or cheng.")]
Variant = Annotated[str | None, typer.Option(metavar="NAME", help="Variant of the model: robust, base and others.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of each process [default: all cores].")]
Jobs = Annotated[int, typer.Option(min=1, help="Files to work on at once, each in its own process.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object for each file on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace results that exist already instead of skipping them.")
]
Recursive = Annotated[
    bool, typer.Option("-r", "--recursive", help="Take folders as inputs and keep their tree under -o.")
]
Part = Annotated[
    str,
    typer.Option("--shard", metavar="I/N", help="Do the I-th of N parts of the files, I from 1; for clusters."),
]
MaxPixels = Annotated[
    int, typer.Option(min=0, help="Refuse pictures with more pixels before decoding them; 0: no limit.")
]

MaxMemory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Refuse what may take more memory, such as 900M or 2G, before any work."),
]


class Arithmetic(StrEnum):
    """What an attack computes its gradients in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


Precision = Annotated[
    Arithmetic, typer.Option(help="Arithmetic of the gradients: bfloat16 halves the time on processors that have it.")
]


def parse_rungs(text: str | None) -> tuple[Rung, ...]:
    """The rungs of the guard's ladder that an option names, all of them if it is not given. Raises UsageError."""
    if text is None:
        return tuple(Rung)
    names = [name.strip() for name in text.split(",") if name.strip() not in ("", "none")]
    if unknown := [name for name in names if name not in list(Rung)]:
        raise UsageError(f"{clean_name(unknown[0])} is no rung; give some of {','.join(Rung)}, or none")
    return tuple(Rung(name) for name in names)


def memory_limit(max_memory: str | None) -> int | None:
    """The limit in bytes that an option's value means, None for no limit."""
    return None if max_memory is None else parse_size(max_memory)


def pixel_limit(max_pixels: int) -> int:
    """The limit in pixels that an option's value means."""
    return max_pixels or UNLIMITED_PIXELS


def byte_limit(max_pixels: int, max_memory: int | None = None) -> int:
    """The largest input worth reading: 16-bit RGBA without compression, and 64 MiB of metadata, if memory allows."""
    from robustcodec.memory import readable

    largest = 8 * max_pixels + (64 << 20)
    return largest if max_memory is None else min(largest, readable(max_memory))


def parse_size(text: str) -> int:
    """Bytes of a size such as 60000, 60K, 1.5M or 1.5MB.

    K, M and G are powers of 1000, so that the file fits whichever meaning its reader has. Raises UsageError.
    """
    number = text.strip().upper().removesuffix("B")
    factor = {"K": 1000, "M": 1000**2, "G": 1000**3}.get(number[-1:], 1)
    try:
        size = float(number if factor == 1 else number[:-1]) * factor
        if not 1 <= size < 2**48:
            raise ValueError
    except ValueError:
        raise UsageError(f"{text} is no size: give bytes, or kilobytes or megabytes as 60K or 1.5M") from None
    return int(size)


def parse_shard(text: str) -> Shard:
    """The shard that a text such as 3/16 means. Raises UsageError."""
    numbers = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    if numbers is None or not 1 <= int(numbers[1]) <= int(numbers[2]):
        raise UsageError(f"{clean_name(text)} is no shard; give --shard I/N with I from 1 to N, such as 3/16")
    return Shard(int(numbers[1]), int(numbers[2]))


def check_json(json: bool, plan: Plan) -> None:
    """Raise UsageError if both a result and the report would go to standard output."""
    if json and any(job.target is None for job in plan.jobs):
        raise UsageError("--json and the result would both write to standard output; give -o a file")


def asked(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Give those of some parameters that the command line names."""
    sources = ((name, context.get_parameter_source(name)) for name in names)
    return [name for name, source in sources if source is not None and source.name == "COMMANDLINE"]

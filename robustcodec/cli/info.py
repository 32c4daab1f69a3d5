"""The command `info`: what robustcodec files say about themselves, without any model."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustcodec.cli import options
from robustcodec.cli.console import FAILED, Console, attributed, emit, named
from robustcodec.errors import ModelError, RobustcodecError, UsageError
from robustcodec.files import clean_name, is_folder, read_input

if TYPE_CHECKING:
    from robustcodec.bundle import Manifest


def info(
    inputs: Annotated[list[str], typer.Argument(metavar="IN", help="Files, or - for standard input.")],
    verbose: Annotated[
        bool,
        typer.Option("-v", "--verbose", help="Show the bytes of each section, and the memory that decoding takes."),
    ] = False,
    json: options.Json = False,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
) -> None:
    """Show size, format, model and sections of robustcodec files; every checksum is verified.

    \b
      robustcodec info photo.rbc
      robustcodec info -v photo.rbc                # with the bytes of each section, and the memory to decode
      robustcodec info *.rbc --json
    """
    console = Console(json=json)
    failed = False
    for name in inputs:
        path = None if name == "-" else Path(name)
        try:
            fields = describe(path, options.pixel_limit(max_pixels))
        except RobustcodecError as error:
            failed = True
            console.error(attributed(clean_name(name), str(error)))
            console.row(named(path, "input") | {"error": str(error)})
            continue
        console.row(named(path, "input") | fields)
        if not json:
            for line in _lines(clean_name(name), fields, verbose):
                emit(line)
    if failed:
        raise typer.Exit(FAILED)


def describe(path: Path | None, max_pixels: int) -> dict[str, object]:
    """All that a file says about itself, for JSON."""
    from robustcodec import memory
    from robustcodec.architectures.demands import USUAL, demand_of
    from robustcodec.container import MAJOR_VERSION, ChunkType, Limits, unpack
    from robustcodec.metrics import bits_per_pixel
    from robustcodec.rate import STEP_UNIT

    if path is not None and is_folder(path):
        raise UsageError("this is a folder; info takes files, and `robustcodec models list -v` tells of models")
    data = read_input(path, options.byte_limit(max_pixels))
    file = unpack(data, Limits(max_pixels=max_pixels))
    header = file.header
    model = _model(header.fingerprint)
    demand = USUAL if model is None else demand_of(model.architecture, model.sizes)
    return {
        "version": f"{MAJOR_VERSION}.{header.minor}",
        "width": header.width,
        "height": header.height,
        "bytes": len(data),
        "bpp": bits_per_pixel(len(data), header.width, header.height),
        "payload": header.payload.name.lower(),
        "step": header.step / STEP_UNIT if header.step else None,
        "quality": None if model is None else model.quality(header.step),
        "model": None if model is None else model.id,
        "fingerprint": header.fingerprint.hex() if any(header.fingerprint) else None,
        "strips": header.num_strips,
        "dither": header.seed.hex() or None,
        "transform": header.transform,
        "grey": header.grey,
        "alpha": header.alpha,
        "icc": header.icc,
        "exif": file.get(ChunkType.EXIF) is not None,
        "xmp": file.get(ChunkType.XMP) is not None,
        "memory": memory.to_decode(header, len(data), demand),
        "multiplications": memory.multiplications(header.coded_width, header.coded_height, demand),
        "sections": file.sections,
    }


def _model(fingerprint: bytes) -> "Manifest | None":
    """What the manifest of a file's model says, if it is installed and of an architecture that is known."""
    from robustcodec.architectures.demands import demand_of
    from robustcodec.bundle import find_for

    try:
        manifest = find_for(fingerprint).manifest
        demand_of(manifest.architecture, manifest.sizes)
    except ModelError:
        return None
    return manifest


def _lines(name: str, fields: dict[str, object], verbose: bool) -> Iterator[str]:
    extras = [label for label in ("grey", "alpha", "icc", "exif", "xmp") if fields[label]]
    coding = str(fields["payload"])
    if fields["fingerprint"]:
        coding += f" {fields['fingerprint']}"
        coding += f" ({fields['model']})" if fields["model"] else ""
        coding += f", step {fields['step']:.3f}"
        coding += "" if fields["quality"] is None else f" (quality {fields['quality']:.3g})"
        coding += ", dithered" if fields["dither"] else ""
    if fields["strips"] != 1:
        coding += f", {fields['strips']} strips"
    yield (
        f"{name}: robustcodec {fields['version']}, {fields['width']}x{fields['height']}, {coding}, "
        f"{fields['bytes']:,} bytes, {fields['bpp']:.3f} bpp{''.join(f', {extra}' for extra in extras)}"
    )
    sections = fields["sections"]
    if verbose and isinstance(sections, dict):
        yield f"  memory to decode: at most {fields['memory']:,} bytes"
        yield f"  work to decode: at most {fields['multiplications']:,} multiplications"
        for section, size in sections.items():
            yield f"  {section}: {size:,} bytes"

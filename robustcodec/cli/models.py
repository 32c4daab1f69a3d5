"""The commands `models list`, `add`, `remove`, `verify` and `contract`: which models this machine has."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustcodec.cli import options
from robustcodec.cli.console import FAILED, Console, emit, named
from robustcodec.errors import InputError, ModelError, ModelNotFound
from robustcodec.files import clean_name, is_folder, pictures_below

if TYPE_CHECKING:
    from robustcodec.bundle import Bundle, Manifest

app = typer.Typer(
    help="List, add, remove and verify models, and fit their contracts.", no_args_is_help=True, rich_markup_mode=None
)


_FIGURES = (("bpp", "{:.3f} bpp"), ("psnr", "{:.2f} dB"), ("score", "J {:.3f}"), ("gain", "A {:.2f}"))
"""What is shown of the figures that manifests keep, and how."""


@app.command("list")
def list_models(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show what was measured of each model.")] = False,
    json: options.Json = False,
) -> None:
    """List the models that are found, of which kind they are, and where; one is the default.

    \b
      robustcodec models list
      robustcodec models list -v                   # with what was measured of each
    """
    from robustcodec.bundle import find, installed_folders, open_bundle

    console = Console(json=json)
    failed = False
    default = None
    with suppress(ModelError):  # without one the others are still listed
        default = find().path
    for path in installed_folders():
        try:
            model = open_bundle(path)
        except ModelError as error:
            failed = True
            console.error(str(error))
            continue
        measured = {"points": model.manifest.points, "attacks": model.manifest.attacks} if verbose else {}
        manifest, is_default = model.manifest, model.path == default
        qualities = [point.quality for point in manifest.rates]
        kind = {
            "architecture": manifest.architecture,
            "variant": manifest.variant,
            "qualities": qualities,
            "default": is_default,
        }
        row = {"id": model.id, "fingerprint": model.fingerprint.hex()} | named(model.path, "path")
        console.row(row | kind | measured)
        if not json:
            said = f"{manifest.architecture}, {manifest.variant}, {_range(qualities)}{', default' * is_default}"
            emit(f"{model.id}  {model.fingerprint.hex()}  {said}  {model.path}")
            for line in _measured(model.manifest) if verbose else ():
                emit(f"  {clean_name(line)}")
    if failed:
        raise typer.Exit(FAILED)


def _range(qualities: Sequence[float]) -> str:
    """Say which qualities a model serves: all between its lowest and its highest."""
    low, high = qualities[0], qualities[-1]
    return f"quality {low:g}" if low == high else f"qualities {low:g} to {high:g}"


def _measured(manifest: "Manifest") -> Iterator[str]:
    """Say what a manifest says was measured; it is anyone's JSON, and what is not in the usual form is passed over."""
    for point in manifest.points:
        yield f"quality {_number(point.get('quality'), '{:g}')}: {_figures(point)}"
    for entry in manifest.attacks:
        start = entry.get("start")
        before = _figures(start.get("figures")) if isinstance(start, dict) else ""
        yield f"{entry.get('attack') or 'clean'}: {_figures(entry.get('figures'))}" + (
            f" (before hardening: {before})" if before else ""
        )


def _figures(values: object) -> str:
    if not isinstance(values, dict):
        return ""
    return ", ".join(filter(None, (_number(values.get(name), form) for name, form in _FIGURES)))


def _number(value: object, form: str) -> str:
    return form.format(value) if isinstance(value, float) else ""


@app.command()
def add(path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a model.")]) -> None:
    """Check a model and copy it to where it is found from now on.

    \b
      robustcodec models add runs/mine/model
    """
    from robustcodec import bundle

    added = bundle.add(path, _check)
    Console().note(f"added as {added.id}")


def _check(model: "Bundle") -> None:
    """Check now what is otherwise checked when first used. Raises ModelError."""
    from robustcodec.architectures import open_architecture
    from robustcodec.contract import read_contract

    open_architecture(model, threads=1).check()
    read_contract(model.manifest.contract)


@app.command()
def remove(id: Annotated[str, typer.Argument(metavar="ID", help="Id of a model that was added.")]) -> None:
    """Remove a model that was added; files made with it need it to be decoded.

    \b
      robustcodec models remove my-model
    """
    from robustcodec import bundle

    bundle.remove(id)
    Console().note(f"removed {id}")


@app.command()
def verify(
    id: Annotated[str | None, typer.Argument(metavar="ID", help="Id or path [default: all models].")] = None,
) -> None:
    """Check every byte of a model, the shapes of its arrays, and that its entropy parameters are exact.

    \b
      robustcodec models verify
      robustcodec models verify runs/mine/model
    """
    from robustcodec import bundle

    console = Console()
    failed = False
    for path in [bundle.find(id).path] if id else bundle.installed_folders():
        try:
            model = bundle.open_bundle(path)
            model.verify()
            with bundle.damage_named(path):
                _check(model)
            emit(f"{model.id}: in order ({path})")
        except ModelError as error:
            failed = True
            console.error(str(error))
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def contract(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a model, whose manifest is written.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of ordinary pictures.")],
    most: Annotated[int, typer.Option("--most", min=10, help="Take no more than so many, spread over all.")] = 1000,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
) -> None:
    """Fit what the guard expects of a model to ordinary pictures; files and fingerprint stay as they are.

    Give no pictures that the guard will be tested with, and none that may be hostile.

    \b
      robustcodec models contract models/my-model --data photos
    """
    from robustcodec import bundle
    from robustcodec.calibration import calibrate
    from robustcodec.codec import Codec

    console = Console(quiet=quiet)
    if not is_folder(path):
        raise ModelNotFound(
            f"{clean_name(path)} is no folder; give that of the model and not its id, since the manifest in it is "
            "written: `robustcodec models list` shows the folders"
        )
    if not is_folder(data):
        raise InputError(f"{clean_name(data)} is no folder; give one with some hundred pictures")
    files = pictures_below(data)
    if not files:
        raise InputError(f"{clean_name(data)} holds no pictures; give a folder of some hundred")
    codec = Codec(bundle.open_bundle(path), threads)
    count = min(most, len(files))
    found = calibrate(codec, [files[index * len(files) // count] for index in range(count)], console.note)
    bundle.write_contract(path, found.document())
    console.note(
        f"{codec.bundle.id}: {found.results} results; margins, in multiples of the scatter: {found.psnr.margin:.1f} "
        f"(PSNR), {found.bpp.margin:.1f} (bits), {found.block.margin:.1f} (blocks), {found.rate.margin:.1f} (bits "
        "knowing the PSNR)"
    )

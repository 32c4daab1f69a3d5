"""Attacked pictures of a group: crafted once, kept as PNG files with a note beside each, and read back."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustcodec import __version__
from robustcodec.bundle import Bundle
from robustcodec.errors import ImageError, RobustcodecError
from robustcodec.files import write_output
from robustcodec.images import Picture, read_picture, write_picture
from robustcodec.lab.evaluation import records
from robustcodec.lab.evaluation.contenders import Source
from robustcodec.lab.evaluation.records import Assault, Crafting
from robustcodec.lab.evaluation.subjects import MAX_PIXELS, Subject, digest
from robustcodec.pixels import Pixels

if TYPE_CHECKING:
    from robustcodec.lab.attacks import Crafted

Progress = Callable[[int, int, list[float]], None]
"""Called with the step, the number of steps, and the score of each picture."""

_TRACE_POINTS = 32


@dataclass(frozen=True, eq=False)
class Attacked:
    """An attacked picture as it was read back, how it came about, and its place in the folder of results.

    `version` is the release that crafted it.
    """

    pixels: Pixels
    crafting: Crafting
    version: str
    image: str


def attacked_pictures(
    folder: Path, source: Source, subjects: Sequence[Subject], assault: Assault, quality: float, report: Progress
) -> list[Attacked]:
    """Read the attacked pictures of a group, or craft them all if one is missing.

    The result depends on the batch, so a group is never crafted in part. Raises what `craft` raises.
    """
    images = [f"{_place(source, subject, assault, quality)}.png" for subject in subjects]
    found = [_read(folder, image, subject) for image, subject in zip(images, subjects, strict=True)]
    if any(attacked is None for attacked in found):
        _craft(folder, images, source, subjects, assault, quality, report)
        found = [_read(folder, image, subject) for image, subject in zip(images, subjects, strict=True)]
    return [attacked for attacked in found if attacked is not None]


def read_pixels(path: Path) -> Pixels:
    """Read a picture of the folder of results. Raises ImageError."""
    try:
        return read_picture(path.read_bytes(), MAX_PIXELS).pixels
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error


def write_pixels(path: Path, pixels: Pixels) -> None:
    """Write a PNG file and the folders above it. Raises OutputError."""
    write_output(path, write_picture(Picture(pixels=pixels), "PNG"))


def set_name(picture: records.Picture) -> str:
    """Folder of the pictures of a set: its name, with the crop."""
    return picture.data if picture.crop is None else f"{picture.data}-{picture.crop}"


def _place(source: Source, subject: Subject, assault: Assault, quality: float) -> str:
    attack = f"{assault.label.replace(':', '-')}-{assault.options}"
    model = f"{source.name}-{source.fingerprint[:8]}"
    return f"attacked/{set_name(subject.picture)}/{model}/q{quality:g}/{attack}/{subject.picture.name}"


def _craft(
    folder: Path,
    images: Sequence[str],
    source: Source,
    subjects: Sequence[Subject],
    assault: Assault,
    quality: float,
    report: Progress,
) -> None:
    from robustcodec.lab import attacks

    order = attacks.Attack(
        threat=attacks.Threat(attacks.Target(assault.target), assault.bounded),
        method=assault.method,
        epsilon=assault.epsilon,
        steps=assault.steps,
        seed=assault.seed,
        restarts=assault.restarts,
        precision=attacks.Precision(assault.precision),
    )
    crafted = attacks.craft(source.weights, [subject.pixels for subject in subjects], order, quality, report)
    # without a bundle there is no shipped codec to compare with
    shipped = isinstance(source.weights, Bundle)
    for image, subject, result in zip(images, subjects, crafted, strict=True):
        path = folder / image
        write_pixels(path, result.pixels)
        # the note comes last: it says that the picture is there, and of which clean picture it is a version
        note = {
            "clean": subject.picture.sha256,
            "attacked": digest(result.pixels),
            "crafting": asdict(_summary(result, result.expected if shipped else None)),
            "version": __version__,
        }
        write_output(path.with_suffix(".json"), json.dumps(note).encode())


def _summary(crafted: "Crafted", expected: tuple[float, float] | None) -> Crafting:
    trace = tuple(crafted.trace)
    stride = -(-len(trace) // _TRACE_POINTS) or 1
    thinned = (*trace[:-1][::stride], *trace[-1:])
    return Crafting(
        zero=crafted.gradient.zero,
        not_finite=crafted.gradient.not_finite,
        shrunk=crafted.shrunk,
        trace=tuple((int(step), float(score)) for step, score in thinned),
        torch_bpp=expected[0] if expected else None,
        torch_psnr=expected[1] if expected else None,
    )


def _read(folder: Path, image: str, subject: Subject) -> Attacked | None:
    """Read an attacked picture, if it is there, whole, and a version of this clean picture."""
    path = folder / image
    try:
        note: Any = json.loads(path.with_suffix(".json").read_bytes())
        pixels = read_pixels(path)
        if note["clean"] != subject.picture.sha256 or note["attacked"] != digest(pixels):
            return None
        values = note["crafting"]
        crafting = Crafting(**values | {"trace": tuple((int(step), float(score)) for step, score in values["trace"])})
        # notes have said nothing of releases once
        return Attacked(pixels, crafting, str(note.get("version", __version__)), image)
    except (OSError, ValueError, KeyError, TypeError, RobustcodecError):
        return None

"""A model as a folder: finding it, checking it, opening it; and the step that it has for each quality.

    manifest.json           what the model is, where it comes from, what was measured; sha256 of every part
    analysis.safetensors    float16: analysis and hyper analysis (read by the encoder only)
    synthesis.safetensors   float16: synthesis
    entropy.safetensors     integers: layers, thresholds, medians and tables that select probabilities
    lab.safetensors         float32: what the lab needs to attack or train the model; the runtime never reads it

Nothing in a bundle is trusted. The fingerprint covers all that the decoder depends on and goes into each file.
"""

import hashlib
import itertools
import json
import math
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from robustcodec.errors import ModelDamaged, ModelError, ModelNotFound, OutputError, UsageError
from robustcodec.files import write_atomically
from robustcodec.rate import HIGHEST, LOWEST, STEP_MAX, STEP_MIN, check_quality

FORMAT = 1
"""Version of the bundle's format."""

MANIFEST = "manifest.json"
ANALYSIS, SYNTHESIS, ENTROPY, LAB = (f"{name}.safetensors" for name in ("analysis", "synthesis", "entropy", "lab"))
PARTS = (ANALYSIS, SYNTHESIS, ENTROPY, LAB)

NAMING = "lower-case letters, digits, dots, dashes and underscores, at most 64, of which the first is a letter or digit"
"""What an id, an architecture or a variant consists of."""

_ENVIRONMENT = "ROBUSTCODEC_MODELS"
_MAX_MANIFEST = 1 << 20
_MAX_PART = 1 << 28
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_HEX = re.compile(r"[0-9a-f]{64}")

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class RatePoint:
    """A quality with the Lagrangian it was trained for and its quantisation step R, in units of 1/1024."""

    quality: float
    lagrangian: float
    step: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` says; `provenance`, `points`, `contract` and `attacks` are for people and later layers.

    `sizes` are the architecture's channel counts (N and M for hyper); `rates` rise in quality and fall in step.
    """

    id: str
    architecture: str
    sizes: tuple[int, ...]
    variant: str
    rates: tuple[RatePoint, ...]
    provenance: dict[str, Any]
    points: tuple[dict[str, Any], ...]
    contract: dict[str, Any] | None
    attacks: tuple[dict[str, Any], ...]
    parts: dict[str, str]
    """sha256 of each part, by file name."""

    @cached_property
    def fingerprint(self) -> bytes:
        """Eight bytes that name everything the decoder depends on."""
        decoder = {
            "format": FORMAT,
            "architecture": self.architecture,
            "sizes": list(self.sizes),
            "synthesis": self.parts[SYNTHESIS],
            "entropy": self.parts[ENTROPY],
        }
        return hashlib.sha256(json.dumps(decoder, sort_keys=True).encode()).digest()[:8]

    def step(self, quality: float) -> int:
        """Quantisation step R of a quality from 1 to 6, interpolated on a logarithmic scale. Raises UsageError."""
        qualities = [point.quality for point in self.rates]
        steps = [math.log(point.step) for point in self.rates]
        return round(math.exp(float(np.interp(check_quality(quality), qualities, steps))))

    def lagrangian(self, step: int) -> float:
        """Lagrangian for which a step is right; beyond the table's ends it goes with 1 / step^2, as at high rate."""
        steps = [math.log(point.step) for point in self.rates]
        values = [math.log(point.lagrangian) for point in self.rates]
        at = math.log(step)
        within = min(max(at, steps[-1]), steps[0])
        found = float(np.interp(-within, [-value for value in steps], values))
        return math.exp(found - 2 * (at - within))

    def quality(self, step: int) -> float | None:
        """Quality whose step is `step`; None for steps beyond those of the lowest and the highest quality."""
        if not self.rates[-1].step <= step <= self.rates[0].step:
            return None
        steps = [math.log(point.step) for point in self.rates]
        qualities = [point.quality for point in self.rates]
        return float(np.interp(-math.log(step), [-value for value in steps], qualities))


class Bundle:
    """An opened model folder whose manifest is checked; parts are read and verified when first needed.

    `held` are the bytes of parts that were read already.
    """

    def __init__(self, path: Path, manifest: Manifest, held: Mapping[str, bytes] | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self._held = held or {}

    @property
    def id(self) -> str:
        """Model id, such as hyper-base."""
        return self.manifest.id

    @property
    def fingerprint(self) -> bytes:
        """Eight bytes that name everything the decoder depends on."""
        return self.manifest.fingerprint

    @cached_property
    def analysis(self) -> Arrays:
        """Float weights of the encoder's networks."""
        return self._part(ANALYSIS)

    @cached_property
    def synthesis(self) -> Arrays:
        """Float weights of the synthesis."""
        return self._part(SYNTHESIS)

    @cached_property
    def entropy(self) -> Arrays:
        """Integer arrays that select probabilities."""
        return self._part(ENTROPY)

    @cached_property
    def lab(self) -> Arrays:
        """Float parameters for the lab."""
        return self._part(LAB)

    def verify(self) -> None:
        """Read every part and check it against its checksum. Raises ModelError."""
        with damage_named(self.path):
            for name in PARTS:
                self._part(name)

    def _part(self, name: str) -> Arrays:
        data = self._held[name] if name in self._held else _read_part(self.path, name)
        if hashlib.sha256(data).hexdigest() != self.manifest.parts[name]:
            raise ModelDamaged(f"{name} does not match its checksum")
        try:
            arrays = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ModelDamaged(f"{name} is no safetensors file") from error
        for key, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ModelDamaged(f"{name} holds values in {key} that are not finite")
        return arrays


def is_name(text: str) -> bool:
    """Whether an id, an architecture or a variant of a model can be called so: see NAMING."""
    return _NAME.fullmatch(text) is not None


def floats(arrays: Arrays, shapes: Mapping[str, tuple[int, ...]], what: str) -> dict[str, NDArray[np.float32]]:
    """Check float arrays of a bundle against the names and shapes that an architecture needs; give them as float32."""
    if set(arrays) != set(shapes):
        odd = sorted(set(arrays) ^ set(shapes))[0]
        raise ModelDamaged(f"the model's {what} has missing or unknown arrays, {odd} among them")
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].dtype not in (np.float16, np.float32):
            raise ModelDamaged(
                f"the model's {name} is {arrays[name].dtype} {arrays[name].shape}; expected floats {shape}"
            )
    return {name: arrays[name].astype(np.float32) for name in shapes}


def write_bundle(folder: Path, manifest: dict[str, Any], parts: Mapping[str, Arrays]) -> Bundle:
    """Write a bundle as a new folder, whole or not at all, and open it.

    `manifest` holds the fields of `Manifest` but `parts`, as JSON values; `parts` maps file names to arrays. An
    existing bundle of the same name is replaced; any other existing folder or file is refused.
    """
    data = {
        name: save({key: np.ascontiguousarray(array) for key, array in arrays.items()})
        for name, arrays in parts.items()
    }
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in data.items()}
    document = {"format": FORMAT, **manifest, "parts": sums}
    data[MANIFEST] = (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()
    _manifest(json.loads(data[MANIFEST]))
    _write_folder(folder, data)
    return open_bundle(folder)


def _write_folder(folder: Path, data: Mapping[str, bytes]) -> None:
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise OutputError(f"{folder} exists and is no model; choose another name")
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        for name, content in data.items():
            with (temporary / name).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            old = temporary.with_name(temporary.name + ".old")
            try:
                folder.replace(old)
                temporary.replace(folder)
            except BaseException:  # a signal, too, must not leave its name without a model
                if not folder.exists():
                    old.replace(folder)
                raise
            _delete(old)
        else:
            temporary.replace(folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _delete(folder: Path) -> None:
    """Delete a folder with all that is in it; of a link to one, the link."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)


def open_bundle(path: Path) -> Bundle:
    """Open a model folder; only its manifest is read and checked now."""
    with damage_named(path):
        return Bundle(path, _manifest(_json(_read(path / MANIFEST, _MAX_MANIFEST))))


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Complete what is found damaged in a model: say which model that is, and what to do."""
    try:
        yield
    except ModelDamaged as error:
        raise ModelDamaged(f"the model in {path} is damaged ({error}); install it again") from error


def find(
    model: str | os.PathLike[str] | None = None, architecture: str | None = None, variant: str | None = None
) -> Bundle:
    """Find a model by id, path or fingerprint prefix, or by architecture and variant.

    An id comes before a path without a separator. Of several models of a variant in one folder, the one whose id says
    both (hyper-base) is preferred. Without any, the default is the robust hyper model, else the base one, of the
    nearest folder that has one: those of ROBUSTCODEC_MODELS, then the package's. Raises ModelNotFound, ModelDamaged
    where the folder of the wanted id is, and UsageError.
    """
    if model is not None:
        if architecture is not None or variant is not None:
            raise UsageError("a model is named by itself or by architecture and variant; give one of the two")
        model = os.fspath(model)
        if os.sep in model:
            return open_bundle(Path(model))
        named = _find_id(model)
        if named is not None:
            return named
        if _has_manifest(Path(model)):
            return open_bundle(Path(model))
        matches = [
            bundle for bundle in installed() if len(model) >= 4 and bundle.fingerprint.hex().startswith(model.lower())
        ]
        if not matches:
            if os.path.lexists(model):
                return open_bundle(Path(model))  # which says what it lacks
            raise ModelNotFound(
                f"there is no model {model!r}; `robustcodec models list` shows those that are installed"
            )
        if len({bundle.fingerprint for bundle in matches}) > 1:
            raise ModelNotFound(f"more than one model's fingerprint begins with {model!r}; give more of it")
        return matches[0]
    name = architecture or "hyper"
    # models that were added serve by name only: adding one must not change what `encode` does
    folders = search_path() if architecture or variant else [*_named_folders(), *_package_folders()]
    for folder in folders:
        for wanted in [variant] if variant else ["robust", "base"]:
            found = _find_variant(folder, name, wanted)
            if found is not None:
                return found
    raise ModelNotFound(
        f"there is no model of architecture {name!r}{f' and variant {variant!r}' if variant else ''}; "
        "`robustcodec models list` shows those that are installed, `robustcodec models add PATH` adds one"
    )


def _find_id(id: str) -> Bundle | None:
    """Find the nearest model of an id; a folder of that name whose manifest is damaged counts, and is an error."""
    for path in installed_folders():
        try:
            bundle = open_bundle(path)
        except ModelError:
            if path.name == id:
                raise
        else:
            if bundle.id == id:
                return bundle
    return None


def _find_variant(folder: Path, architecture: str, variant: str) -> Bundle | None:
    """Find a folder's model of a variant, first the one whose id says so; if that one is damaged, that is an error."""
    own = f"{architecture}-{variant}"
    for path in sorted(_models_in(folder), key=lambda path: path.name != own):
        try:
            bundle = open_bundle(path)
        except ModelError:
            if path.name == own:
                raise
        else:
            if (bundle.manifest.architecture, bundle.manifest.variant) == (architecture, variant):
                return bundle
    return None


def find_for(fingerprint: bytes) -> Bundle:
    """Find the model that a file was made with. Raises ModelNotFound."""
    for bundle in installed():
        if bundle.fingerprint == fingerprint:
            return bundle
    raise ModelNotFound(
        f"the file was made with model {fingerprint.hex()}, which is not installed; add its bundle with "
        "`robustcodec models add PATH` or name it with -m PATH"
    )


def installed() -> Iterator[Bundle]:
    """Go through the models on the search path, nearest first, without those whose manifest is damaged."""
    for path in installed_folders():
        with suppress(ModelError):
            yield open_bundle(path)


def installed_folders() -> Iterator[Path]:
    """Go through the folders on the search path that hold a manifest, nearest first."""
    for folder in search_path():
        yield from _models_in(folder)


def _models_in(folder: Path) -> Iterator[Path]:
    # a folder that is not there, or not ours to read, has no models
    with suppress(OSError):
        if _has_manifest(folder):
            yield folder
        for path in sorted(folder.iterdir()):
            if _has_manifest(path) and not path.name.startswith("."):
                yield path


def _has_manifest(folder: Path) -> bool:
    try:
        return (folder / MANIFEST).is_file()
    except OSError:  # it may not be looked at, or its name is longer than names can be
        return False


def search_path() -> list[Path]:
    """Folders that hold models: ROBUSTCODEC_MODELS, the user's data folder, the package's own."""
    return [*_named_folders(), user_folder(), *_package_folders()]


def _named_folders() -> list[Path]:
    return [Path(entry) for entry in os.environ.get(_ENVIRONMENT, "").split(os.pathsep) if entry]


def _package_folders() -> list[Path]:
    package = Path(__file__).parent
    return [package / "weights", package.parent / "weights"]


def user_folder() -> Path:
    """Folder that `robustcodec models add` copies to."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return base / "robustcodec" / "models"


def add(path: Path, check: Callable[[Bundle], object] | None = None) -> Bundle:
    """Verify a bundle and copy the very bytes that were verified to the user's data folder.

    `check` may refuse it by a ModelDamaged too. Raises OutputError where another model of that id was added.
    """
    with damage_named(path):
        manifest = _read(path / MANIFEST, _MAX_MANIFEST)
        parts = {name: _read_part(path, name) for name in PARTS}
        bundle = Bundle(path, _manifest(_json(manifest)), parts)
        for name in PARTS:
            bundle._part(name)
        if check is not None:
            check(bundle)
    folder = user_folder() / bundle.id
    # what is damaged there is replaced: that is how a model is installed again
    with suppress(ModelNotFound, ModelDamaged):
        if open_bundle(folder).fingerprint != bundle.fingerprint:
            raise OutputError(
                f"another model is installed as {bundle.id}; `robustcodec models remove {bundle.id}` first, "
                "but files made with it need it to be decoded"
            )
    _write_folder(folder, {MANIFEST: manifest, **parts})
    return open_bundle(folder)


def remove(model: str) -> Path:
    """Remove a model from the user's data folder, the only place that `add` writes to."""
    path = user_folder() / model
    if not is_name(model) or not (path / MANIFEST).is_file():
        raise ModelNotFound(f"there is no model {model!r} in {user_folder()}; only models added there are removed")
    try:
        _delete(path)
    except OSError as error:
        raise OutputError(f"{error.filename} cannot be removed: {error.strerror}") from error
    return path


def write_contract(folder: Path, contract: dict[str, Any] | None) -> Bundle:
    """Give a model another contract, whole or not at all; its fingerprint and all files made with it stay as they are.

    Raises ModelError for a folder that is no model, OutputError.
    """
    with damage_named(folder):
        document = _json(_read(folder / MANIFEST, _MAX_MANIFEST))
        _manifest(document)
    document["contract"] = contract
    write_atomically(folder / MANIFEST, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    return open_bundle(folder)


def manifest_document(manifest: Manifest) -> dict[str, Any]:
    """Give a manifest's fields but `parts` as JSON values, as `write_bundle` takes them."""
    document = asdict(manifest)
    del document["parts"]
    return document


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        folder = path.parent
        if not folder.exists():
            raise ModelNotFound(
                f"{folder} is no model, since nothing of that name is there; give the folder of one"
            ) from error
        raise ModelNotFound(
            f"{folder} is no model, since it has no {path.name}; give the folder of one, which `robustcodec export` "
            "makes of a run, or of a CompressAI checkpoint with --data"
        ) from error
    except OSError as error:
        raise ModelDamaged(f"{path.name} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise ModelDamaged(f"{path.name} has more than the {limit} bytes allowed")
    return data


def _read_part(folder: Path, name: str) -> bytes:
    try:
        return _read(folder / name, _MAX_PART)
    except ModelNotFound as error:
        raise ModelDamaged(f"{name} is missing") from error


def _json(data: bytes) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a name appears twice")
        return dict(pairs)

    def finite(text: str) -> float:
        if not math.isfinite(float(text)):
            raise ValueError(f"{text} is no finite number")
        return float(text)

    try:
        return json.loads(data.decode(), object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise ModelDamaged(f"{MANIFEST} is not JSON: {error}") from error


def _manifest(document: Any) -> Manifest:
    """Check a manifest's every field that the runtime uses."""

    def wrong(what: str) -> ModelDamaged:
        return ModelDamaged(f"in {MANIFEST}, {what}")

    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise wrong("the version of the format is missing")
    if document["format"] < 1:
        raise wrong("the version of the format is below 1")
    if document["format"] > FORMAT:
        raise ModelError("the model was made by a newer release of robustcodec; update to use it")
    kinds: dict[str, type | tuple[type, ...]] = {
        "id": str,
        "architecture": str,
        "sizes": list,
        "variant": str,
        "rates": list,
        "provenance": dict,
        "points": list,
        "contract": (dict, type(None)),
        "attacks": list,
        "parts": dict,
    }
    if set(document) != {"format", *kinds}:
        raise wrong(f"the fields must be format, {', '.join(kinds)}")
    for name, kind in kinds.items():
        if not isinstance(document[name], kind):
            raise wrong(f"{name} has the wrong type")
    for name in ("id", "architecture", "variant"):
        if not is_name(document[name]):
            raise wrong(f"the {name} must be {NAMING}")
    sizes = document["sizes"]
    if not 1 <= len(sizes) <= 4 or not all(type(size) is int and 1 <= size <= 1024 for size in sizes):
        raise wrong("sizes must be one to four channel counts")
    if set(document["parts"]) != set(PARTS) or not all(
        isinstance(value, str) and _HEX.fullmatch(value) for value in document["parts"].values()
    ):
        raise wrong(f"parts must give the sha256 of {', '.join(PARTS)}")
    rates = [_rate_point(entry) for entry in document["rates"]]
    if (
        not rates
        or any(point is None for point in rates)
        or any(
            not (low is not None and high is not None and low.quality < high.quality and low.step > high.step)
            for low, high in itertools.pairwise(rates)
        )
    ):
        raise wrong("rates must be objects with quality, lagrangian and step, rising in quality, falling in step")
    if not all(isinstance(entry, dict) for entry in [*document["points"], *document["attacks"]]):
        raise wrong("points and attacks must be lists of objects")
    return Manifest(
        id=document["id"],
        architecture=document["architecture"],
        sizes=tuple(sizes),
        variant=document["variant"],
        rates=tuple(point for point in rates if point is not None),
        provenance=document["provenance"],
        points=tuple(document["points"]),
        contract=document["contract"],
        attacks=tuple(document["attacks"]),
        parts=dict(document["parts"]),
    )


def _rate_point(entry: Any) -> RatePoint | None:
    if not isinstance(entry, dict) or set(entry) != {"quality", "lagrangian", "step"}:
        return None
    quality, lagrangian, step = entry["quality"], entry["lagrangian"], entry["step"]
    if type(quality) not in (int, float) or type(lagrangian) not in (int, float) or type(step) is not int:
        return None
    # compared, not converted: a whole number may be larger than any float
    if not (LOWEST <= quality <= HIGHEST and 0 < lagrangian <= sys.float_info.max and STEP_MIN <= step <= STEP_MAX):
        return None
    return RatePoint(float(quality), float(lagrangian), step)

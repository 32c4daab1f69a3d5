"""A run folder: what the run was asked to do, its state, and its log.

run.json            settings, written once
state.safetensors   weights, their average, the optimiser's moments; the step count as metadata; replaced atomically
log.jsonl           a JSON object per line; lines beyond the state's step are dropped on resuming
teacher.safetensors a copy of the weights that a run learns from, if it does
candidates/         averaged weights on the way, STEP.safetensors, to choose from at the end
lock                empty; held by the process that trains
"""

import dataclasses
import hashlib
import json
import math
import os
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from robustcodec.errors import TrainingError
from robustcodec.lab.locks import held
from robustcodec.lab.recipe import Recipe
from robustcodec.processors import usable_threads, useful_threads

_SETTINGS, _STATE, LOG, _TEACHER, _LOCK = "run.json", "state.safetensors", "log.jsonl", "teacher.safetensors", "lock"
_CANDIDATES = "candidates"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run was asked to do. Paths are absolute; `parent` names what it began with."""

    recipe: Recipe
    data: str
    validation: str | None
    parent: str
    threads: int
    """CPU threads of torch: another number may sum in another order and so give other weights."""
    pictures: str | None = None
    """Digest of the pictures' names and sizes; None in a run from before there was one."""
    teacher: str | None = None
    """Digest of the weights that the run learns from."""
    hours: float | None = None
    """The time that the recipe's steps were fitted to; None if it was not, and in a run from before this was kept."""


@dataclass(frozen=True)
class State:
    """Where a run stands after `step` steps. Tensors are on the CPU."""

    step: int
    seconds: float
    """Seconds of training so far."""
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    """Adam's state by parameter name: step, exp_avg, exp_avg_sq."""


@dataclass(frozen=True)
class Run:
    """A run folder on disk."""

    folder: Path

    @classmethod
    def behind(cls, weights: Path) -> "Run | None":
        """Give the run that weights belong to: the folder itself, or that of one of its candidates; None of others."""
        run = cls(weights)
        if not run.exists and weights.parent.name == _CANDIDATES and weights.stem.isdecimal():
            run = cls(weights.parent.parent)
        return run if run.exists else None

    @property
    def exists(self) -> bool:
        """Whether settings have been written here."""
        return (self.folder / _SETTINGS).is_file()

    @property
    def teacher_file(self) -> Path:
        """Where the weights to learn from are kept."""
        return self.folder / _TEACHER

    def check_name(self) -> None:
        """Raise TrainingError for a name that safetensors cannot open files below."""
        try:
            str(self.folder).encode("utf-8")
        except UnicodeEncodeError as error:
            raise TrainingError(
                f"the name of the run folder {self.folder} is not UTF-8, so no state can be read there; choose another"
            ) from error

    def check_unused(self) -> None:
        """Raise TrainingError if a run without settings has been trained, which a new one would overwrite."""
        state = self.load()
        if state is not None and state.step > 0:  # at step 0 it was killed before it wrote its settings
            raise TrainingError(
                f"{self.folder} holds a state of step {state.step} but no {_SETTINGS}; put that back, or begin another "
                f"run with --init {self.folder}"
            )

    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder, which is made, for this process alone; the system lets go of it when the process ends.

        Raises TrainingError if another process holds it.
        """
        name, busy = f"the run folder {self.folder}", f"training in {self.folder}"
        return held(self.folder / _LOCK, TrainingError, name=name, busy=busy)

    def create(self, settings: Settings, state: State) -> None:
        """Make the folder and write its first state and, when that stands, its settings."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.save(state)
            document = {**dataclasses.asdict(settings), "recipe": json.loads(settings.recipe.to_json())}
            _replace(self.folder / _SETTINGS, (json.dumps(document, indent=2) + "\n").encode())
        except OSError as error:
            raise TrainingError(f"the run folder {self.folder} cannot be written: {error.strerror}") from error

    def settings(self) -> Settings:
        """Read the settings."""
        try:
            document = json.loads((self.folder / _SETTINGS).read_text(encoding="utf-8"))
            recipe = Recipe.from_json(json.dumps(document.pop("recipe")))
            return Settings(recipe=recipe, **document)
        except FileNotFoundError as error:
            raise TrainingError(f"{self.folder} is not a run folder: it has no {_SETTINGS}") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise TrainingError(f"{self.folder / _SETTINGS} cannot be read: {error}") from error

    def save(self, state: State) -> None:
        """Replace the state: either the old or the new one is on disk, whenever the process dies."""
        tensors = {f"weights.{name}": tensor for name, tensor in state.weights.items()}
        tensors |= {f"average.{name}": tensor for name, tensor in state.average.items()}
        for name, moments in state.moments.items():
            tensors |= {f"moments.{name}.{key}": tensor for key, tensor in moments.items()}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        metadata = {"step": str(state.step), "seconds": repr(state.seconds)}
        try:
            _replace(self.folder / _STATE, save(tensors, metadata))
        except OSError as error:
            raise TrainingError(
                f"the state of {self.folder} cannot be written: {error.strerror}; the one before it is whole: once "
                "that is mended, the same command goes on from there"
            ) from error

    def load(self) -> State | None:
        """Read the state; None before the first was written."""
        self.check_name()
        path = self.folder / _STATE
        if not path.is_file():
            return None
        weights: dict[str, Tensor] = {}
        average: dict[str, Tensor] = {}
        moments: dict[str, dict[str, Tensor]] = {}
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                for key in file.keys():  # noqa: SIM118 (not a mapping)
                    kind, _, name = key.partition(".")
                    tensor = file.get_tensor(key)
                    if kind == "moments":
                        name, _, moment = name.rpartition(".")
                        moments.setdefault(name, {})[moment] = tensor
                    else:
                        {"weights": weights, "average": average}[kind][name] = tensor
            step, seconds = int(metadata["step"]), float(metadata["seconds"])
            if step < 0 or not math.isfinite(seconds):
                raise ValueError(f"step {step} after {seconds} s")
            return State(step, seconds, weights, average, moments)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise TrainingError(f"{path} is damaged ({error}); delete the folder to begin again") from error

    def keep_teacher(self, weights: dict[str, Tensor]) -> None:
        """Keep a copy of the weights to learn from, so that the run needs nothing outside its folder to go on."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _replace(self.teacher_file, save({name: tensor.contiguous() for name, tensor in weights.items()}))
        except OSError as error:
            raise TrainingError(f"the teacher cannot be kept in {self.folder}: {error.strerror}") from error

    def teacher(self, expected: str | None) -> dict[str, Tensor]:
        """Read the weights to learn from, whose digest is in the settings."""
        path = self.teacher_file
        try:
            weights = load_file(path)
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"{path} cannot be read ({error}); delete the folder to begin again") from error
        if digest(weights) != expected:
            raise TrainingError(f"{path} holds other weights than the run began with; delete the folder to begin again")
        return weights

    def keep_candidate(self, step: int, average: dict[str, Tensor]) -> None:
        """Keep the averaged weights of a step. A run that is resumed from before it writes the same again."""
        try:
            path = self.candidate(step)
            path.parent.mkdir(exist_ok=True)
            _replace(path, save({name: tensor.contiguous() for name, tensor in average.items()}))
        except OSError as error:
            raise TrainingError(f"weights cannot be kept in {self.folder}: {error.strerror}") from error

    def candidate(self, step: int) -> Path:
        """Where the averaged weights of a step lie, if they were kept."""
        return self.folder / _CANDIDATES / f"{step}.safetensors"

    def log(self, record: dict[str, Any]) -> None:
        """Append a line to the log."""
        try:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")
        except OSError as error:
            raise TrainingError(f"the log of {self.folder} cannot be written: {error.strerror}") from error

    def records(self) -> list[dict[str, Any]]:
        """Read the log, but for lines that are damaged."""
        path = self.folder / LOG
        if not path.is_file():
            return []
        # what follows the last line's end was cut off by a kill
        records = map(_record, path.read_bytes().split(b"\n")[:-1])
        return [record for record in records if record is not None]

    def rewind_log(self, step: int) -> None:
        """Drop what was logged beyond `step`, which a resumed run logs again."""
        kept = [record for record in self.records() if record["step"] <= step]
        try:
            _replace(self.folder / LOG, "".join(json.dumps(record) + "\n" for record in kept).encode())
        except OSError as error:
            raise TrainingError(f"the log of {self.folder} cannot be written: {error.strerror}") from error


def _record(line: bytes) -> dict[str, Any] | None:
    """Read a line of a log; None if it is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old or the new content under its name.

    What cannot be written whole is removed, so that it takes no room on a full disk. The name of what is being written
    is always the same, unlike that of `files.write_atomically`: kills leave one such file of a run, not one each.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def digest(weights: dict[str, Tensor]) -> str:
    """Give the sha256 of weights: of their names and values, in the order of the names."""
    sums = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        sums.update(name.encode() + b"\0" + tensor.contiguous().numpy().tobytes())
    return sums.hexdigest()


def cpu_copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def threads_for(wanted: int | None) -> int:
    """Number of CPU threads for torch when so many are wanted, or any number (None).

    That is torch's own, which knows of OMP_NUM_THREADS and of the other processes of a team, but of no quota.
    """
    return min(torch.get_num_threads(), usable_threads()) if wanted is None else useful_threads(wanted)


def use_threads(threads: int) -> None:
    """Let torch compute on so many threads from now on, in this process."""
    torch.set_num_threads(threads)


def default_device() -> torch.device:
    """Choose the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

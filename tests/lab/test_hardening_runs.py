"""Hardening as a run: stopped or killed anywhere it ends with the same weights; what goes wrong is said in a line."""

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from regenerate import sample

from robustcodec.errors import TrainingError
from robustcodec.images import Picture, write_picture
from robustcodec.lab.hardening import loss_of
from robustcodec.lab.hardening_recipes import FAST
from robustcodec.lab.hyper import Hyper
from robustcodec.lab.losses import Batch, Loss, Terms
from robustcodec.lab.precision import Precision
from robustcodec.lab.progress import Reporter
from robustcodec.lab.recipe import Hardening, Method, Phase, Recipe, Rounding
from robustcodec.lab.runs import LOG, Run, State
from robustcodec.lab.train import Order, train
from robustcodec.lab.training import Progress

HARDENINGS = {
    "teacher": Hardening(method=Method.TEACHER, teacher_smooth=0.002),
    "distilled": Hardening(method=Method.DISTILLED, psnr_share=1 / 3, bpp_share=1 / 3, smooth=1e-4, psnr_steps=2),
    "ma2023": Hardening(method=Method.MA2023, psnr_share=1.0, psnr_steps=2),
    "fast": dataclasses.replace(FAST, psnr_share=1 / 3, bpp_share=1 / 3, smooth=1e-3, stability=0.1),
}
"""Of three crops; `fast` is the recipe, and has those terms, too, that others may have."""


def recipe(hardening: Hardening, steps: int = 6) -> Recipe:
    """A run of a second that has all that a long one has."""
    return Recipe(
        steps=steps,
        channels=(8, 12),
        quality_low=1.0,
        quality_high=6.0,
        precision=Precision.AUTO,
        validations=2,
        phases=(
            Phase(share=0.5, rate_from=1e-3, rate_to=1e-3, batch=3, crop=64),
            Phase(share=0.5, rate_from=1e-3, rate_to=0.0, batch=3, crop=64, rounding=Rounding.MIXED),
        ),
        hardening=hardening,
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(write_picture(Picture(pixels=sample(96, 80, seed)), "PNG"))
    return folder


def order(hardening: Hardening, pictures: Path, tiny_path: Path) -> Order:
    teacher = tiny_path if hardening.method is Method.DISTILLED else None
    return Order(recipe=recipe(hardening), data=pictures, init=tiny_path, teacher=teacher)


def quiet(_: object) -> None:
    """Report to nobody."""


def digest(run: Run) -> str:
    state = run.load()
    assert state is not None
    sums = hashlib.sha256()
    for tensors in (state.weights, state.average, *state.moments.values()):
        for name, tensor in sorted(tensors.items()):
            sums.update(name.encode() + tensor.numpy().tobytes())
    return sums.hexdigest()


@pytest.mark.parametrize("name", HARDENINGS)
def test_three_steps_and_three_are_six(name: str, pictures: Path, tmp_path: Path, tiny_path: Path) -> None:
    asked = order(HARDENINGS[name], pictures, tiny_path)
    whole, stopped = Run(tmp_path / "whole"), Run(tmp_path / "stopped")
    assert train(whole, asked, quiet, quiet)
    steps = iter(range(1, 7))
    assert not train(stopped, asked, quiet, quiet, stop=lambda: next(steps) == 3)
    state = stopped.load()
    assert state is not None and state.step == 3
    assert train(stopped, None, quiet, quiet)
    assert digest(stopped) == digest(whole)
    before = Run(tmp_path / "plain")
    train(
        before, dataclasses.replace(asked, recipe=recipe(Hardening(method=Method.TEACHER)), teacher=None), quiet, quiet
    )
    assert digest(before) != digest(whole)


KILLS = (
    # where, at which call of it since the process began, and the last step whose state is kept
    ("robustcodec.lab.adversaries.rate", 7, 1),  # inside the second step's attack
    ("os.fsync", 4, 2),  # inside the write of the third step's state
    ("robustcodec.lab.training._update_average", 2, 3),
    ("robustcodec.lab.training.validate", 1, 5),
    ("robustcodec.lab.adversaries.rate", 3, 5),
)
KILLED = """
import os, pkgutil, signal, sys
from pathlib import Path
from robustcodec.lab import training
from robustcodec.lab.recipe import Recipe
from robustcodec.lab.runs import Run
from robustcodec.lab.train import Order, train

where, calls, folder, recipe, pictures, tiny = sys.argv[1:]
module, _, name = where.rpartition(".")
owner, left = pkgutil.resolve_name(module), int(calls)
function = getattr(owner, name)

def fatal(*arguments):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments)

setattr(owner, name, fatal)
training._SAVE_SECONDS = 0.0
recipe = Recipe.from_json(Path(recipe).read_text())
order = Order(recipe=recipe, data=Path(pictures), init=Path(tiny), teacher=Path(tiny))
train(Run(Path(folder)), order, lambda _: None, lambda _: None)
"""


def test_five_kills_change_nothing(pictures: Path, tmp_path: Path, tiny_path: Path) -> None:
    asked = order(HARDENINGS["distilled"], pictures, tiny_path)
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    train(whole, asked, quiet, quiet)
    (tmp_path / "recipe.json").write_text(asked.recipe.to_json())
    places = list(map(str, (killed.folder, tmp_path / "recipe.json", pictures, tiny_path)))
    for where, calls, step in KILLS:
        command = [sys.executable, "-W", "ignore", "-c", KILLED, where, str(calls), *places]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        state = killed.load()
        assert state is not None and state.step == step, where
        assert (killed.folder / ".state.safetensors.new").exists() is (where == "os.fsync")
    train(killed, asked, quiet, quiet)
    assert digest(killed) == digest(whole)


def test_a_run_keeps_its_teacher(pictures: Path, tmp_path: Path, tiny_path: Path) -> None:
    """It goes on without the one it was given, but not with another."""
    asked = order(HARDENINGS["distilled"], pictures, tiny_path)
    with pytest.raises(TrainingError, match="learns from the teacher"):
        train(Run(tmp_path / "none"), dataclasses.replace(asked, teacher=None), quiet, quiet)
    run = Run(tmp_path / "run")
    train(run, asked, quiet, quiet, stop=lambda: True)
    other = Run(tmp_path / "other")
    train(other, dataclasses.replace(asked, recipe=recipe(HARDENINGS["teacher"], 1), teacher=None), quiet, quiet)
    with pytest.raises(TrainingError, match="other settings"):
        train(run, dataclasses.replace(asked, teacher=other.folder), quiet, quiet)
    kept = run.folder / "teacher.safetensors"
    kept.write_bytes(kept.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(TrainingError, match="other weights"):
        train(run, None, quiet, quiet)
    kept.unlink()
    with pytest.raises(TrainingError, match="cannot be read"):
        train(run, None, quiet, quiet)


def test_a_loss_that_is_no_number_keeps_the_last_good_state(
    pictures: Path, tmp_path: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(hardening: Hardening | None, teacher: Hyper | None) -> Loss:
        loss, calls = loss_of(hardening, teacher), iter(range(100))

        def broken(network: Hyper, batch: Batch) -> Terms:
            terms = loss(network, batch)
            return Terms(terms.loss * torch.nan, terms.figures) if next(calls) == 3 else terms

        return broken

    monkeypatch.setattr("robustcodec.lab.train.loss_of", failing)
    monkeypatch.setattr("robustcodec.lab.training._SAVE_SECONDS", 0.0)
    run = Run(tmp_path / "run")
    with pytest.raises(TrainingError, match="diverged before step 4"):
        train(run, order(HARDENINGS["fast"], pictures, tiny_path), quiet, quiet)
    state = run.load()
    assert state is not None and state.step == 3
    assert all(torch.isfinite(tensor).all() for tensor in (*state.weights.values(), *state.average.values()))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_no_space_left_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / LOG).symlink_to("/dev/full")
    with pytest.raises(TrainingError, match=r"log of .* cannot be written: No space left on device"):
        Run(tmp_path).log({"step": 1})

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("robustcodec.lab.runs._replace", full)
    for write in (
        lambda: Run(tmp_path).save(State(1, 1.0, {}, {}, {})),
        lambda: Run(tmp_path).rewind_log(1),
        lambda: Run(tmp_path).keep_teacher({}),
        lambda: Run(tmp_path).keep_candidate(1, {}),
    ):
        with pytest.raises(TrainingError, match="No space left on device"):
            write()


def test_curves_that_cannot_be_written_end_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_bytes(b"")  # in the way of the folder
    with pytest.raises(TrainingError, match="cannot be written"), Reporter(tmp_path, quiet) as reporter:
        reporter.report(Progress(1, 2, 3.0, {"bpp": 1.0}))

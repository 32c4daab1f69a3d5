"""`robustcodec train` and `export` as commands: signals, options that contradict each other, what is not there."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from regenerate import sample
from typer.testing import CliRunner

pytest.importorskip("torch")

from robustcodec.cli import app
from robustcodec.cli.stopper import Stopper, resumable
from robustcodec.images import Picture, write_picture
from robustcodec.lab.recipe import Phase, Recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "robustcodec", *arguments]


def environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}


def refusal(*arguments: str) -> tuple[int, str]:
    """Exit code and message of a command that says one line."""
    done = subprocess.run(command(*arguments), capture_output=True, env=environment(), timeout=120, check=False)
    (line,) = done.stderr.decode().splitlines()
    assert done.stdout == b""
    return done.returncode, line.removeprefix("robustcodec: error: ")


def write_toy(folder: Path) -> None:
    """Pictures and a recipe that would take hours."""
    (folder / "pictures").mkdir()
    for seed in range(2):
        data = write_picture(Picture(pixels=sample(64, 64, seed)), "PNG")
        (folder / "pictures" / f"{seed}.png").write_bytes(data)
    phase = Phase(share=1.0, rate_from=1e-4, rate_to=1e-4, batch=1, crop=64)
    recipe = Recipe(steps=10**6, channels=(8, 12), phases=(phase,), validations=10**5)
    (folder / "recipe.json").write_text(recipe.to_json())


def test_a_terminated_training_saves_its_state(here: Path) -> None:
    write_toy(here)
    arguments = ("train", "--data", "pictures", "--recipe", "recipe.json", "-o", "my run")
    with subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, env=environment()) as running:
        assert running.stderr is not None
        lines = (line.decode() for line in running.stderr)
        assert any(line.startswith("step ") for line in lines)
        running.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert running.returncode == 143
    assert rest[-1] == "stopped; go on with: robustcodec train -o 'my run'\n"
    from robustcodec.lab.runs import Run

    state = Run(Path("my run")).load()
    assert state is not None and state.step >= 10


def test_a_stopped_hardening_says_a_command_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustcodec.cli.harden.Request.load", lambda run: SimpleNamespace(run=run))
    monkeypatch.setattr("robustcodec.lab.harden.harden", lambda *_: None)
    done = CliRunner().invoke(app, ["harden", "-o", "my run"])
    assert done.stderr == "stopped; go on with: robustcodec harden -o 'my run'\n"
    monkeypatch.setattr("robustcodec.lab.harden.harden", lambda *_: made)
    made = SimpleNamespace(points=(), comparisons=(), bundle=SimpleNamespace(path=Path("my run/model"), id="model"))
    done = CliRunner().invoke(app, ["harden", "-o", "my run"])
    assert done.stderr == "wrote my run/model: model model; encode with: -m 'my run/model'\n"


def test_an_interrupt_that_nobody_waits_for_says_how_it_goes_on() -> None:
    notes: list[str] = []
    for end, begun in ((KeyboardInterrupt(), True), (KeyboardInterrupt(), False), (SystemExit(130), True)):
        with pytest.raises(type(end)), resumable(lambda begun=begun: begun, notes.append, "robustcodec train"):
            raise end
    assert notes == ["stopped; go on with: robustcodec train"] * 2
    with pytest.raises(SystemExit), resumable(lambda: True, notes.append, "robustcodec train"):
        raise SystemExit(141)  # whoever read the output has gone
    assert len(notes) == 2


def test_a_stopper_keeps_the_first_signal_for_who_asks() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        with Stopper() as stopper:
            signal.raise_signal(signal.SIGINT)
            assert (came, stopper.number) == ([signal.SIGINT], signal.SIGINT)  # nobody had asked yet
        with Stopper() as stopper:
            assert not stopper.asked()
            signal.raise_signal(signal.SIGINT)
            assert stopper.asked()
            assert len(came) == 1
            signal.raise_signal(signal.SIGINT)
            assert len(came) == 2
        signal.raise_signal(signal.SIGINT)
        assert len(came) == 3
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("train", "--data", "."), 2, "a run needs a folder; name it with -o"),
        (("train", "--data", ".", "-o", "run"), 1, "holds no pictures"),
        (("train", "--start", "warm", "--data", ".", "-o", "run"), 2, "--start can be orthonormal or conventional"),
        (("train", "--start", "conventional", "--init", "x", "--data", ".", "-o", "run"), 2, "exclude each other"),
        (("train", "-o", "run"), 1, "run holds no run to resume"),
        (("train", "--arch", "vgg", "--data", ".", "-o", "run"), 2, "no architecture 'vgg' to train; this release has"),
        (("export", "nosuch", "-o", "model"), 1, "nosuch does not exist; give a run folder, a bundle or a checkpoint"),
        (("export", ".", "-o", "model"), 1, ". holds no trained state"),
        (("export", "x", "-o", "x.pth", "--to", "compressai", "--data", "."), 2, "takes no --data, --validation, --id"),
        (("export", "x", "-o", "x.pth", "--to", "compressai", "--id", "y"), 2, "takes no --data, --validation, --id"),
        (("export", "x", "-o", "x.pth", "--to", "compressai", "--restrain"), 2, "--variant or --restrain"),
        (("export", "x", "-o", "y", "--validation", "z"), 2, "--validation goes with --data"),
        (
            ("export", "x", "-o", "model", "--id", "Bad Id"),
            2,
            "'Bad Id' is no id of a model; give --id lower-case letters",
        ),
        (("export", "x", "-o", "My Model"), 2, "'My Model' is no id of a model; give --id lower-case letters, digits"),
        (
            ("export", "x", "-o", "model", "--variant", "é"),
            2,
            "'é' is no variant of a model; give --variant lower-case",
        ),
        (("export", "x", "-o", "model", "-q", "3"), 2, "--quality is for --to compressai alone"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    here: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, line = refusal(*arguments)
    assert (found, message in line) == (code, True), line
    assert list(here.iterdir()) == []


def test_a_recipe_is_printed_without_a_run(here: Path) -> None:
    arguments = command("train", "--print-recipe", "--start", "conventional", "--channels", "64,96", "-q", "4")
    done = subprocess.run(arguments, capture_output=True, env=environment(), timeout=120, check=True)
    recipe = Recipe.from_json(done.stdout.decode())
    assert (recipe.start, recipe.channels, recipe.quality_low, recipe.quality_high) == ("conventional", (64, 96), 4, 4)
    done = subprocess.run(
        command("train", "--print-recipe", "--arch", "cheng"), capture_output=True, env=environment(), check=True
    )
    recipe = Recipe.from_json(done.stdout.decode())
    assert (recipe.arch, recipe.channels) == ("cheng", (128, 128))

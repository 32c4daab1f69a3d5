"""Exit codes of all commands: 1 for what is named and not there, 2 for wrong usage, as docs/cli.md promises."""

import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from robustcodec import cli
from robustcodec.data import SAMPLE

ROOT = Path(__file__).parent.parent
ROOT_COMMAND = typer.main.get_command(cli.app)
LAB = ("attack", "export", "harden", "train")

NOT_THERE = (
    "attack none.png",
    "attack -r none",
    "attack a.png -m none -o x.png",
    "attack a.png --surrogate none -o x.png",
    "attack a.png --surrogate no/ne -o x.png",
    "attack a.png -o none/x.png",
    "decode none.rbc",
    "decode -r none",
    "decode a.rbc -m none -o x.png",
    "encode none.png",
    "encode -r none",
    "encode a.png -m none",
    "encode a.png -m no/ne",
    "encode a.png --arch none",
    "encode a.png --variant none",
    "encode a.png -o none/x.rbc",
    "encode a.png -o a.rbc/",
    "evaluate -o none",
    "evaluate --recheck none",
    "evaluate --data none --models MODEL --attacks none -o x",
    "evaluate --data empty --models MODEL --attacks none -o x",
    "evaluate --data pictures --models none --attacks none -o x",
    "evaluate --data pictures --models no/ne --attacks none -o x",
    "evaluate --data pictures --variant none --attacks none -o x",
    "export none -o x",
    "export MODEL -o x --data none",
    "export MODEL -o x --data empty",
    "export MODEL -o x --data pictures --validation none",
    "harden -o none",
    "harden --data none -o x",
    "harden --data empty -o x --dry-run",
    "harden --data pictures --validation none -o x --dry-run",
    "harden --data pictures --init none -o x",
    "harden --data pictures --variant none -o x",
    "harden --data pictures --recipe none -o x",
    "info none.rbc",
    "info .",
    "models add none",
    "models contract none --data pictures",
    "models contract MODEL --data none",
    "models contract MODEL --data empty",
    "models remove none",
    "models verify none",
    "models verify no/ne",
    "sample -o none/x.png",
    "scan none.png -m ROBUST",
    "scan -r none -m ROBUST",
    "scan a.png -m none",
    "scan a.png -m MODEL",
    "train -o none",
    "train --data none -o x",
    "train --data empty -o x",
    "train --data pictures --validation none -o x",
    "train --data pictures --init none -o x",
    "train --data pictures --init no/ne -o x",
    "train --recipe none --print-recipe",
)
"""At least one for each command; `models list` names nothing."""

WRONG = (
    "attack a.png -q 9",
    "attack a.png --method none",
    "decode a.rbc --format none",
    "decode a.rbc --region 1",
    "encode .",
    "encode a.png -q 9",
    "encode a.png -q 4 --target-bpp 1",
    "encode a.png -m MODEL --arch hyper",
    "encode a.png -o a.png",
    "evaluate",
    "evaluate --data pictures --models MODEL -q 9 --attacks none -o x",
    "export MODEL -o x --id No",
    "harden --data pictures --steps 1 --hours 1 -o x",
    "info",
    "models add",
    "models contract MODEL",
    "models list --none",
    "models remove",
    "models verify --none",
    "sample --none",
    "scan a.png -q 9",
    "train --data pictures",
    "train --data pictures -o x --arch none",
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_path: Path) -> Iterator[Path]:
    """The current folder: a picture, a file, a folder with and one without pictures; the tiny models alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tiny_path.parent))
    shutil.copy(SAMPLE, "a.png")
    shutil.copy(ROOT / "tests" / "data" / "golden" / "odd.rbc", "a.rbc")
    Path("empty").mkdir()
    Path("pictures").mkdir()
    shutil.copy(SAMPLE, "pictures")
    yield tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.rbc", "empty", "pictures"]


def outcome(line: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> int:
    """Run a command as its process does, and check that it says its one error."""
    name, *_ = line.split()
    if name in LAB and find_spec("torch") is None:
        pytest.skip("needs robustcodec[lab]")
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    models = {"MODEL": str(model), "ROBUST": str(ROOT / "weights" / "hyper-robust")}
    monkeypatch.setattr(sys, "argv", ["robustcodec", *(models.get(word, word) for word in line.split())])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert "rror: " in capsys.readouterr().err
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize("line", NOT_THERE)
def test_what_is_not_there(
    line: str, here: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(line, tiny_path, monkeypatch, capsys) == 1


@pytest.mark.parametrize("line", WRONG)
def test_wrong_usage(
    line: str, here: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(line, tiny_path, monkeypatch, capsys) == 2


def test_no_command_is_left_out() -> None:
    assert isinstance(ROOT_COMMAND, typer.core.TyperGroup)
    every = set()
    for name, command in ROOT_COMMAND.commands.items():
        every |= {f"{name} {below}" for below in command.commands} if hasattr(command, "commands") else {name}
    for lines, but in ((NOT_THERE, {"models list"}), (WRONG, set())):
        assert {name for name in every if any(f"{line} ".startswith(f"{name} ") for line in lines)} == every - but

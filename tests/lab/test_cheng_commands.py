"""The commands of the lab on cheng."""

import dataclasses
import json
from pathlib import Path

import pytest
from regenerate import CHENG, sample
from typer.testing import CliRunner

from robustcodec.bundle import open_bundle
from robustcodec.cli import app
from robustcodec.images import Picture, write_picture
from robustcodec.lab.hardening_recipes import Plan, fast, fitted
from robustcodec.lab.recipe import Phase


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two pictures, and the tiny models."""
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(CHENG.parent))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for seed in range(2):
        path = tmp_path / "pictures" / f"{seed}.png"
        path.write_bytes(write_picture(Picture(pixels=sample(64, 64, seed)), "PNG"))
    return tmp_path


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.exception
    return done.stdout


@pytest.mark.parametrize("target", ["psnr", "bpp"])
def test_a_picture_is_attacked(here: Path, target: str) -> None:
    asked = ["--arch", "cheng", "--method", "pgd", "--steps", "8", "--target", target, "--free", "--json"]
    said = json.loads(run("attack", "pictures/0.png", *asked))
    before, after = said["before"], said["after"]
    assert said["model"] == "cheng-tiny"
    assert after["psnr"] < before["psnr"] if target == "psnr" else after["bpp"] > before["bpp"]


def test_it_is_hardened_and_evaluated(here: Path) -> None:
    recipe = fitted(fast("cheng"), "cheng", (8, 8), (1.0, 6.0)).student
    assert recipe is not None
    phase = Phase(share=1.0, rate_from=1e-4, rate_to=0.0, batch=8, crop=64)
    recipe = dataclasses.replace(recipe, steps=2, phases=(phase,), validations=1)
    (here / "plan.json").write_text(Plan(student=recipe).to_json())
    run("harden", "--arch", "cheng", "--data", "pictures", "--recipe", "plan.json", "--measure", "none")
    assert open_bundle(here / "hardened" / "model").manifest.architecture == "cheng"
    asked = ["--attacks", "pgd:psnr", "--steps", "2", "-o", "results"]
    run("evaluate", "--data", "pictures", "--arch", "cheng", "--models", "hardened/model", *asked)
    rows = [json.loads(line) for line in (here / "results" / "results.jsonl").read_text().splitlines()]
    assert {row["model"] for row in rows} == {"cheng-tiny", "hardened"}
    assert len(rows) == 8

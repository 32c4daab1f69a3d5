"""What a hardening ends in: the checkpoint by the rule, and numbers before and after from the shipped codecs."""

import dataclasses
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from regenerate import TINY, sample
from safetensors.torch import save_file
from typer.testing import CliRunner

from robustcodec.bundle import open_bundle
from robustcodec.cli import app
from robustcodec.codec import Codec
from robustcodec.errors import TrainingError
from robustcodec.images import Picture, read_picture, write_picture
from robustcodec.lab import hardening_recipes as recipes
from robustcodec.lab.attacks import Attack, Target, Threat, craft
from robustcodec.lab.attacks.shipped import victim_of
from robustcodec.lab.checkpoints import load_weights
from robustcodec.lab.choice import Candidate, choose, strong_gain
from robustcodec.lab.evaluation.crafting import write_pixels
from robustcodec.lab.evaluation.grid import clean_image
from robustcodec.lab.export import export_run
from robustcodec.lab.harden import harden
from robustcodec.lab.hardening_recipes import Plan, fitted
from robustcodec.lab.hardening_request import Request
from robustcodec.lab.precision import Precision
from robustcodec.lab.resistance import held_out, table
from robustcodec.lab.restraint import FULL
from robustcodec.lab.runs import Run
from robustcodec.metrics import psnr
from robustcodec.rate import Quality, score


def write(folder: Path, name: str, height: int, width: int, seed: int) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(write_picture(Picture(pixels=sample(height, width, seed)), "PNG"))
    return path


def test_the_least_gain_within_the_limit_is_chosen() -> None:
    gains = {1: 1.0, 2: 3.0, 3: 2.0, 4: 2.0}
    scores = {1: 1.05, 2: 1.0, 3: 1.03, 4: 1.02}
    choice = choose(scores, 1.0, 1.04, gains.__getitem__)
    assert (choice.step, choice.within, choice.limit) == (4, True, 1.04)
    assert choice.candidates == (
        Candidate(step=1, score=1.05),
        Candidate(step=2, score=1.0, gain=3.0),
        Candidate(step=3, score=1.03, gain=2.0),
        Candidate(step=4, score=1.02, gain=2.0),
    )


def test_nothing_is_attacked_where_that_decides_nothing() -> None:
    def never(step: int) -> float:
        raise AssertionError

    choice = choose({1: 1.2, 2: 1.1}, 1.0, 1.04, never)
    assert (choice.step, choice.within) == (2, False)
    choice = choose({1: 1.2, 2: 1.01}, 1.0, 1.04, never)
    assert (choice.step, choice.within) == (2, True)


def test_the_gain_is_that_of_a_strong_attack() -> None:
    """Against the shipped codec, which rounds like the estimate."""
    crops = [sample(64, 64, seed) for seed in (1, 2)]
    found = strong_gain(TINY, [crops], 4.0, 5e-4, Precision.FLOAT32)
    attack = Attack(threat=Threat(Target.PSNR), method="strong", steps=30)
    codec = Codec(open_bundle(TINY), threads=1)
    gains = []
    for clean, crafted in zip(crops, craft(TINY, crops, attack), strict=True):
        before, after = (
            codec.decode(codec.encode(Picture(pixels=x), Quality(4)).data).pixels for x in (clean, crafted.pixels)
        )
        gains.append((10 ** (-psnr(clean, after) / 10) - 10 ** (-psnr(clean, before) / 10)) / 5e-4)
    assert found == pytest.approx(np.mean(gains), rel=0.02)
    apart = [[crops[0]], [crops[1], crops[0]]]  # groups of different sizes: each crop counts once
    means = [strong_gain(TINY, [group], 4.0, 5e-4, Precision.FLOAT32) for group in apart]
    expected = (means[0] + 2 * means[1]) / 3
    assert strong_gain(TINY, apart, 4.0, 5e-4, Precision.FLOAT32) == pytest.approx(expected)


def test_held_out_crops_are_spread_and_readable(tmp_path: Path) -> None:
    files = [write(tmp_path, f"{index}.png", 150, 200, index) for index in range(6)]
    (group,) = held_out(files, 3)
    assert (group.paths, group.crop) == ((files[0], files[2], files[4]), 128)
    files[2].write_bytes(b"no picture")
    (group,) = held_out(files, 3)
    assert group.paths == (files[0], files[4], files[1])
    assert [each.pixels.shape for each in group.load()] == [(128, 128, 3)] * 3
    assert [len(group.paths) for group in held_out(files, 40)] == [5]
    double = write(tmp_path / "other", "0.png", 300, 300, 7)
    assert held_out([double, *files[:1]], 2)[0].paths == (double,)  # results are kept by name
    small = write(tmp_path, "small.png", 63, 200, 8)
    assert held_out([small, double], 1)[0].paths == (double,)
    with pytest.raises(TrainingError, match="64 pixels wide and high"):
        held_out([small], 1)
    many = [write(tmp_path / "many", f"{index}.png", 64, 64, index) for index in range(10)]
    groups = held_out(many, 10)  # as many as fit into memory at a time
    assert [group.paths for group in groups] == [tuple(many[:8]), tuple(many[8:])]
    assert {group.crop for group in groups} == {64}


def test_results_are_kept_under_names_that_fit(tmp_path: Path) -> None:
    """Of pictures, and of their folder."""
    folder = tmp_path / ("d" * 255)
    folder.mkdir()
    names = [f"{'é' * 125}{number}.png" for number in range(2)]
    files = [write(folder, name, 64, 64, seed) for seed, name in enumerate([*names, "short.png"])]
    found = [each.picture for each in held_out(files, 3)[0].load()]
    assert len({picture.name for picture in found}) == 3 and found[2].name == "short"
    for picture in found:
        write_pixels(tmp_path / clean_image(picture), sample(64, 64))
        write_pixels((tmp_path / clean_image(picture)).with_suffix(".json"), sample(64, 64))


def test_numbers_before_and_after_are_kept_in_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        write(tmp_path / "pictures", f"{seed}.png", 96, 80, seed)
    ((_, recipe),) = fitted(recipes.fast(), "hyper", (8, 12), (1.0, 6.0)).stages()
    assert recipe.hardening is not None
    phases = tuple(dataclasses.replace(phase, batch=5, crop=64) for phase in recipe.phases)
    plan = Plan(student=dataclasses.replace(recipe, phases=phases, steps=8, validations=1))
    request = Request(
        run=tmp_path / "run", data=tmp_path / "pictures", validation=None, init=TINY, plan=plan, j_limit=9.0, crops=1
    )
    done = harden(request, lambda _: None)
    assert done is not None and done.choice is not None
    run = Run(request.run / "student")
    assert [candidate.step for candidate in done.choice.candidates] == [4, 5, 6, 7, 8]
    assert done.choice.within and all(candidate.gain is not None for candidate in done.choice.candidates)

    manifest = done.bundle.manifest
    assert manifest.provenance["steps"] == done.choice.step == manifest.provenance["choice"]["step"]
    source = run.folder if done.choice.step == 8 else run.candidate(done.choice.step)
    again = export_run(source, tmp_path / "again", "again", "robust", None, lambda _: None).bundle.manifest
    assert again.parts == manifest.parts
    kept = {name: value for name, value in manifest.provenance.items() if name != "choice"}
    assert again.provenance == kept and kept["restraint"] == dataclasses.asdict(FULL)

    for weights in (run.folder, run.candidate(4), done.bundle.path):
        assert victim_of(weights, 4.0, torch.device("cpu")).dead_zones is not None
    assert victim_of(TINY, 4.0, torch.device("cpu")).dead_zones is None

    labels = [None, "paper:psnr", "paper:bpp", "strong:psnr", "strong:bpp"]
    assert [entry["attack"] for entry in manifest.attacks] == labels
    json.dumps(manifest.attacks, allow_nan=False)
    # the clean and one attacked row, measured anew from what lies in the folder
    measured = request.run / "measured"
    clean = read_picture(next(measured.glob("pictures/*/*.png")).read_bytes(), 10**6).pixels
    assert clean.shape == (64, 64, 3)
    (path,) = measured.glob("attacked/*/run-*/q4/strong-bpp-*/*.png")
    attacked = read_picture(path.read_bytes(), 10**6).pixels
    codec = Codec(done.bundle, threads=1)
    before, after = (codec.encode(Picture(pixels=x), Quality(4)).data for x in (clean, attacked))
    found = manifest.attacks[4]["figures"]
    assert found["bpp"] == len(after) * 8 / 64**2
    assert found["growth"] == pytest.approx(len(after) / len(before))
    decoded = codec.decode(after).pixels
    assert (found["psnr"], found["psnr_own"]) == pytest.approx((psnr(clean, decoded), psnr(attacked, decoded)))
    assert found["score"] == pytest.approx(score(found["bpp"], found["psnr_own"]))
    assert manifest.attacks[0]["figures"]["bpp"] == len(before) * 8 / 64**2
    start = Codec(open_bundle(TINY), threads=1).encode(Picture(pixels=clean), Quality(4)).data
    assert manifest.attacks[0]["start"]["figures"]["bpp"] == len(start) * 8 / 64**2
    lines = list(table(done.comparisons))
    assert lines[0] == "1 held-out crop of 64x64, quality 4"
    assert sum("adversarial gain A" in line for line in lines) == 4

    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(done.bundle.path))
    shown = CliRunner().invoke(app, ["models", "list", "-v"]).stdout
    attack = (
        f"strong:bpp: {found['bpp']:.3f} bpp, {found['psnr']:.2f} dB, J {found['score']:.3f}, A {found['gain']:.2f}"
    )
    assert f"  {attack} (before hardening: " in shown and "  quality 4: " in shown
    assert attack not in CliRunner().invoke(app, ["models", "list"]).stdout


def test_a_manifest_of_odd_figures_is_shown_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "odd")
    manifest = json.loads((TINY / "manifest.json").read_text())
    manifest |= {
        "points": [{"quality": "x", "bpp": []}],
        "attacks": [{}, {"attack": "\x1b[2J", "figures": 3, "start": 1}],
    }
    (tmp_path / "odd" / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tmp_path / "odd"))
    done = CliRunner().invoke(app, ["models", "list", "-v"])
    assert done.exit_code == 0 and "  clean: \n  \\x1b[2J: \n" in done.stdout


def test_a_start_that_is_no_bundle_is_exported_to_compare_with(tmp_path: Path) -> None:
    """And where no checkpoint keeps the limit, that is said."""
    for seed in range(3):
        write(tmp_path / "pictures", f"{seed}.png", 96, 80, seed)
    ((_, recipe),) = fitted(recipes.fast(), "hyper", (8, 12), (4.0, 4.0)).stages()
    phases = tuple(dataclasses.replace(phase, batch=5, crop=64) for phase in recipe.phases)
    plan = Plan(student=dataclasses.replace(recipe, phases=phases, steps=1, validations=1))
    first = Request(run=tmp_path / "first", data=tmp_path / "pictures", validation=None, init=TINY, plan=plan, crops=0)
    assert harden(first, lambda _: None) is not None
    said: list[str] = []
    second = dataclasses.replace(
        first, run=tmp_path / "second", init=tmp_path / "first" / "student", j_limit=0.5, crops=1
    )
    done = harden(second, said.append)
    assert done is not None and done.choice is not None and not done.choice.within
    assert any("no checkpoint keeps the limit" in line for line in said)
    start = open_bundle(tmp_path / "second" / "measured" / "start")
    assert done.bundle.manifest.attacks[1]["start"]["fingerprint"] == start.fingerprint.hex()


def test_the_benchmark_measures_anew_what_is_asked_otherwise(tmp_path: Path) -> None:
    """The steps of attacks, the crops or the weights; and what an older file does not say."""
    measured = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "hardening.py"))["measured"]
    crops, kept = [sample(64, 64, 1)], tmp_path / "kept.json"
    other = tmp_path / "other.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_weights(TINY).items()}, other)
    first = measured(TINY, None, crops, kept, 1)
    written = kept.stat().st_mtime_ns
    assert measured(TINY, None, crops, kept, 1) == first and kept.stat().st_mtime_ns == written
    for asked in ((TINY, crops, 3), (TINY, [sample(64, 64, 2)], 3), (other, crops, 3)):
        source, pictures, steps = asked
        assert measured(source, None, pictures, kept, steps) != first
    kept.write_text(json.dumps({**first, "J": 0.0}))
    assert measured(TINY, None, crops, kept, 1) == first

"""The evaluation with attacks: its grid, its rows, what they come to, and its doubts about itself."""

import dataclasses
import hashlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage
from typer.testing import CliRunner

from robustcodec import __version__
from robustcodec.bundle import Bundle
from robustcodec.cli import app
from robustcodec.errors import ImageError, InputError, MissingExtra, ModelError, TrainingError, UsageError
from robustcodec.images import Picture as Image
from robustcodec.images import read_picture, write_picture
from robustcodec.lab import attacks
from robustcodec.lab.attacks import threat
from robustcodec.lab.checkpoints import weights_of_bundle
from robustcodec.lab.evaluation import crafting
from robustcodec.lab.evaluation.checks import CODES, check
from robustcodec.lab.evaluation.classical import CODECS, Classical
from robustcodec.lab.evaluation.contenders import Learned, Source, open_source
from robustcodec.lab.evaluation.exchange import bd_rate, compressai_json, curves_of, rate_table
from robustcodec.lab.evaluation.exhibits import exhibits, window
from robustcodec.lab.evaluation.grid import Event, Grid, Shard, check_sets, evaluate, parse_attacks
from robustcodec.lab.evaluation.outputs import write_report, write_summary
from robustcodec.lab.evaluation.recheck import recheck, rows_to_recheck
from robustcodec.lab.evaluation.records import (
    Assault,
    Crafting,
    Picture,
    Row,
    append_row,
    from_json,
    read_rows,
    to_json,
)
from robustcodec.lab.evaluation.subjects import groups_of
from robustcodec.lab.evaluation.summary import Statistic, inflation, paired, sections
from robustcodec.lab.evaluation.tables import all_tables
from robustcodec.lab.resistance import held_out
from robustcodec.measure import Coded, Figures, measure
from robustcodec.metrics import psnr

Pixels = NDArray[np.uint8]
ROOT = Path(__file__).parent.parent.parent
EPSILON = 5e-4


class Workshop:
    """Stands for the attacks: crafts noise that follows from the order alone, and counts what it crafts."""

    def __init__(self) -> None:
        self.orders: list[str] = []
        self.fails_at: int | None = None
        self.shift = 0

    def craft(
        self, source: Any, pictures: Sequence[Pixels], attack: threat.Attack, quality: float, report: Any = None
    ) -> list[Any]:
        self.orders.append(f"{attack.method}:{attack.threat} x{len(pictures)}")
        if len(self.orders) == self.fails_at:
            raise KeyboardInterrupt
        if report is not None:
            report(1, attack.steps, [1.0] * len(pictures))
        random = np.random.default_rng(attack.seed + attack.steps + self.shift)
        crafted = []
        for pixels in pictures:
            noise = random.normal(0, 0.97 * math.sqrt(attack.epsilon) * 255, pixels.shape)
            attacked = np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)
            gradient = SimpleNamespace(zero=0.01, not_finite=0.0)
            trace = tuple((step, float(step)) for step in range(1, attack.steps + 1))
            crafted.append(
                SimpleNamespace(pixels=attacked, gradient=gradient, trace=trace, shrunk=1.0, expected=(1.0, 30.0))
            )
        return crafted


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    shop = Workshop()
    monkeypatch.setattr(attacks, "craft", shop.craft, raising=False)
    for name in ("Attack", "Threat", "Target"):
        monkeypatch.setattr(attacks, name, getattr(threat, name), raising=False)
    return shop


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_sample: Callable[..., Pixels]) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, pixels in {"a": make_sample(80, 96, 1), "b": make_sample(64, 64, 2), "c": make_sample(64, 64, 3)}.items():
        (folder / f"{name}.png").write_bytes(write_picture(Image(pixels=pixels), "PNG"))
    return folder


@pytest.fixture(scope="module")
def model(tiny: Bundle) -> Learned:
    return Learned(tiny, threads=1)


def silent(event: Event) -> None:
    assert event.done <= event.total


def asked(text: str, **options: Any) -> tuple[Assault, ...]:
    given_options: dict[str, Any] = {"epsilon": EPSILON, "steps": 5, "seed": 0, **options}
    return parse_attacks(text, **given_options)


def grid(data: Path, model: Any, text: str = "psnr,noise:bpp-free", **options: Any) -> Grid:
    return Grid(
        groups=groups_of(data, options.pop("crop", None)),
        contenders=[model],
        attacks=asked(text),
        qualities=options.pop("qualities", [4.0]),
        **options,
    )


def test_every_cell_of_the_grid_is_measured_once(
    tmp_path: Path, data: Path, model: Learned, workshop: Workshop
) -> None:
    rows = evaluate(grid(data, model, qualities=[2.0, 4.0]), tmp_path, silent)
    keys = {(row.picture.name, row.quality, row.label) for row in rows}
    assert len(rows) == len(keys) == 3 * 2 * 3
    assert {label for _, _, label in keys} == {"clean", "paper:psnr", "noise:bpp-free"}
    # the two pictures of one size are crafted together
    assert workshop.orders.count("paper:psnr x2") == workshop.orders.count("paper:psnr x1") == 2
    for row in rows:
        assert (tmp_path / row.image).is_file()
        assert row.fingerprint == model.fingerprint
        assert (row.attack is None) == (row.crafting is None) == (row.holds is None) == (row.figures.gain is None)
        if row.attack is not None:
            assert 10 ** (-row.figures.psnr_input / 10) == pytest.approx(EPSILON, rel=0.1)
    assert all(row.holds for row in rows if row.label == "noise:bpp-free")
    count = len(workshop.orders)
    assert len(evaluate(grid(data, model, qualities=[2.0, 4.0]), tmp_path, silent)) == len(rows)
    assert len(workshop.orders) == count


def test_progress_is_of_the_work_that_is_left(tmp_path: Path, data: Path, model: Learned, workshop: Workshop) -> None:
    """Rows that are known are none of it, and a search is all steps of its pictures."""
    evaluate(grid(data, model, "psnr", qualities=[2.0]), tmp_path, silent)
    both = [model, Classical("jpeg", model, "psnr")]
    wanted = dataclasses.replace(grid(data, model, "psnr", qualities=[2.0, 4.0]), contenders=both)
    events: list[Event] = []
    evaluate(wanted, tmp_path, events.append)
    # 18 rows of the 24 are new, and the three pictures are attacked anew at one quality, in five steps
    whole = 18 + 3 * 5
    found = [(event.done, event.step, event.share * whole) for event in events]
    # a picture that is a group of its own: two rows are known, then jpeg's; clean, a step of five, and attacked
    assert found[:7] == [
        (1, 0, 0),
        (2, 0, 0),
        (3, 0, pytest.approx(1)),
        (4, 0, pytest.approx(2)),
        (5, 0, pytest.approx(3)),
        (5, 1, pytest.approx(3 + 6 / 5)),
        (6, 0, pytest.approx(3 + 6)),
    ]
    assert found[-1] == (24, 0, pytest.approx(whole))
    assert [event.share for event in events] == sorted(event.share for event in events)
    events.clear()
    evaluate(wanted, tmp_path, events.append)
    assert {event.share for event in events} == {0}


def test_torch_and_the_shipped_codec_agree(model: Learned, make_sample: Callable[..., Pixels]) -> None:
    clean = make_sample(72, 90, 5)
    attack = threat.Attack(threat=threat.Threat(threat.Target.PSNR, bounded=False), method="noise", steps=1)
    (crafted,) = attacks.craft(model.source.weights, [clean], attack, 3.0)
    found = measure(model.code(crafted.pixels, 3.0), clean, crafted.pixels)
    assert found.bpp_y is not None
    assert found.bpp_z is not None
    # real numbers against integers and fitted tables
    assert crafted.expected[0] == pytest.approx(found.bpp_y + found.bpp_z, rel=0.15)
    assert crafted.expected[1] == pytest.approx(found.psnr, abs=0.02)


def test_interrupted_and_resumed_gives_the_same_bytes(
    tmp_path: Path, data: Path, model: Learned, workshop: Workshop
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    evaluate(grid(data, model), whole, silent)
    workshop.orders.clear()
    workshop.fails_at = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate(grid(data, model), broken, silent)
    assert 0 < len(read_rows(broken)) < len(read_rows(whole))
    workshop.fails_at = None
    evaluate(grid(data, model), broken, silent)
    files = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert {path.relative_to(broken): path.read_bytes() for path in broken.rglob("*") if path.is_file()} == files


def test_a_half_done_group_is_crafted_again_as_a_whole(
    tmp_path: Path, data: Path, model: Learned, workshop: Workshop
) -> None:
    rows = evaluate(grid(data, model, "psnr"), tmp_path, silent)
    image = next(tmp_path / row.image for row in rows if row.label == "paper:psnr" and row.picture.name == "c")
    before = image.read_bytes()
    image.write_bytes(before[: len(before) // 2])  # damaged, and its row is gone
    lines = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text("".join(line for line in lines if '"c"' not in line))
    workshop.orders.clear()
    again = evaluate(grid(data, model, "psnr"), tmp_path, silent)
    assert workshop.orders == ["paper:psnr x2"]
    assert image.read_bytes() == before
    assert {row.key for row in again} == {row.key for row in rows}


def test_an_attacked_row_is_of_the_release_that_crafted_its_picture(
    tmp_path: Path, data: Path, model: Learned, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(crafting, "__version__", "older")
        evaluate(grid(data, model, "psnr"), tmp_path, silent)
    (tmp_path / "results.jsonl").unlink()
    rows = evaluate(grid(data, model, "psnr"), tmp_path, silent)
    assert {(row.attack is None, row.version) for row in rows} == {(True, __version__), (False, "older")}

    (note,) = (tmp_path / "attacked").rglob("c.json")
    values = json.loads(note.read_text())
    del values["version"]  # as a release wrote notes that did not say which one it was
    note.write_text(json.dumps(values))
    (tmp_path / "results.jsonl").unlink()
    rows = evaluate(grid(data, model, "psnr"), tmp_path, silent)
    assert {(row.picture.name, row.version) for row in rows if row.attack} == {
        ("a", "older"),
        ("b", "older"),
        ("c", __version__),
    }
    assert "E10" in {warning.code for warning in check(rows)}


def test_a_group_with_another_picture_is_measured_again(
    tmp_path: Path, data: Path, model: Learned, workshop: Workshop, make_sample: Callable[..., Pixels]
) -> None:
    """Its attacked pictures are others, and take the place of those that were measured."""
    pictures = tmp_path / "pictures"
    shutil.copytree(data, pictures)
    (pictures / "b.png").unlink()
    folder = tmp_path / "results"
    evaluate(grid(pictures, model, "noise:psnr-free"), folder, silent)
    shutil.copy(data / "b.png", pictures)
    workshop.shift = 1  # what another batch does to the noise
    rows = evaluate(grid(pictures, model, "noise:psnr-free"), folder, silent)
    assert len(rows) == 6
    for row in rows:
        attacked = read_picture((folder / row.image).read_bytes(), 10_000).pixels
        assert hashlib.sha256(model.code(attacked, 4.0)(attacked).data).hexdigest() == row.figures.sha256


def test_shards_are_the_whole(tmp_path: Path, data: Path, model: Learned, workshop: Workshop) -> None:
    whole = evaluate(grid(data, model), tmp_path / "whole", silent)
    for index in (1, 2):
        rows = evaluate(grid(data, model, shard=Shard(index=index, count=2)), tmp_path / "parts", silent)
    assert sorted(map(to_json, rows)) == sorted(map(to_json, whole))


def test_a_surrogate_is_named_in_every_attacked_row(
    tmp_path: Path, data: Path, model: Learned, workshop: Workshop
) -> None:
    surrogate = Source("other", "0123456789abcdef", Path("other.pth"))
    rows = evaluate(grid(data, model, surrogate=surrogate), tmp_path, silent)
    attacked = [row for row in rows if row.attack]
    assert {(row.attack.surrogate, row.attack.surrogate_fingerprint) for row in attacked if row.attack} == {
        ("other", "0123456789abcdef")
    }
    assert all(row.crafting and row.crafting.torch_bpp is None for row in attacked)
    (table, *_) = all_tables(sections(rows))
    assert [line[0] for line in table.rows] == ["hyper-tiny (crafted on other)"]


def test_a_model_is_no_surrogate_of_itself(
    tmp_path: Path, data: Path, model: Learned, tiny_path: Path, workshop: Workshop
) -> None:
    rows = evaluate(grid(data, model, "psnr", surrogate=open_source(str(tiny_path))), tmp_path, silent)
    assert {row.attack.surrogate for row in rows if row.attack} == {None}


def test_a_checkpoint_can_be_the_surrogate(tmp_path: Path, tiny: Bundle) -> None:
    path = tmp_path / "other.pth"
    torch.save(weights_of_bundle(tiny), path)
    source = open_source(str(path))
    assert (source.name, source.weights) == ("other", path)
    assert source.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    with pytest.raises(ModelError):
        open_source(str(tmp_path / "nothing"))
    path.write_bytes(b"weights")
    with pytest.raises(TrainingError, match=r"other\.pth"):
        open_source(str(path))


def test_a_crop_is_the_middle(tmp_path: Path, data: Path, make_sample: Callable[..., Pixels]) -> None:
    subjects = {item.picture.name: item for group in groups_of(data, 72) for item in group.load()}
    assert np.array_equal(subjects["a"].pixels, make_sample(80, 96, 1)[4:76, 12:84])
    assert subjects["b"].pixels.shape == (64, 64, 3)  # smaller than the crop: all of it


def test_other_pictures_of_the_same_names_are_refused(
    tmp_path: Path, data: Path, model: Learned, workshop: Workshop, make_sample: Callable[..., Pixels]
) -> None:
    evaluate(grid(data, model, "none"), tmp_path / "out", silent)
    other = tmp_path / data.name
    shutil.copytree(data, other)
    (other / "a.png").write_bytes(write_picture(Image(pixels=make_sample(80, 96, 9)), "PNG"))
    with pytest.raises(UsageError, match="another picture of that name"):
        evaluate(grid(other, model, "none"), tmp_path / "out", silent)
    (other / "a.png").rename(other / "z.png")
    with pytest.raises(UsageError, match="the results have a of a set"):
        check_sets(groups_of(other, None), read_rows(tmp_path / "out"))
    check_sets(groups_of(other, 72), read_rows(tmp_path / "out"))  # of which there are no results
    (other / "z.png").unlink()  # what is left is a part of the set
    check_sets(groups_of(other, None), read_rows(tmp_path / "out"))


def test_a_second_crop_and_a_second_set_add_all_their_pictures(
    tmp_path: Path, data: Path, model: Learned, workshop: Workshop
) -> None:
    again = tmp_path / "again"
    shutil.copytree(data, again)
    for folder, crop in ((data, None), (data, 72), (again, None)):
        rows = evaluate(grid(folder, model, "none", crop=crop), tmp_path / "out", silent)
    found = [(section.data == "again", section.crop, section.count) for section in sections(rows)]
    assert sorted(found, key=str) == [(False, 72, 3), (False, None, 3), (True, None, 3)]


def test_a_picture_that_is_too_large_is_named_or_passed_over(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustcodec.lab.evaluation.subjects.MAX_PIXELS", 64 * 64)
    with pytest.raises(ImageError, match=r"a\.png: the picture has 96 x 80 pixels, more than 4096; shrink it"):
        groups_of(data, 64)
    (group,) = held_out(sorted(data.iterdir()), 2)
    assert group.paths == (data / "b.png", data / "c.png")


def test_a_set_of_links_is_named_by_its_own_folder(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, links = tmp_path / "store", tmp_path / "links"
    links.mkdir()
    for name in "ab":
        (store / name).mkdir(parents=True)
        shutil.copy(data / f"{name}.png", store / name)
        (links / f"{name}.png").symlink_to(store / name / f"{name}.png")
    monkeypatch.chdir(links)
    for folder in (links, Path()):
        found = {subject.picture.data for group in groups_of(folder, None) for subject in group.load()}
        assert found == {"links"}


def test_odd_names_become_visible_ones(
    tmp_path: Path, data: Path, model: Learned, tiny: Bundle, workshop: Workshop
) -> None:
    odd = tmp_path / "set$\\frac$\x1b[31m"
    odd.mkdir()
    for name in (b"byte\xff.png", b"[\x1b[31m.png"):
        (odd / os.fsdecode(name)).write_bytes((data / "b.png").read_bytes())
    checkpoint = tmp_path / os.fsdecode(b"net\xff\x1b.pth")
    torch.save(weights_of_bundle(tiny), checkpoint)
    out = tmp_path / os.fsdecode(b"out\xff")
    rows = evaluate(grid(odd, model, "psnr", surrogate=open_source(str(checkpoint))), out, silent)
    written = write_summary(out, rows, check(rows), paper=False)
    written.append(write_report(out, rows, check(rows), [model], paper=False))
    assert all(path.parent in (out, out / "compressai") for path in written)
    for path in written:
        if path.suffix != ".png":
            assert "\x1b" not in path.read_text(encoding="utf-8")
    summary = (out / "summary.md").read_text(encoding="utf-8")
    assert "byte\\xff" in summary and "net\\xff\\x1b" in summary
    assert "out\\xff" in (out / "report.html").read_text(encoding="utf-8")


def test_attacks_are_parsed() -> None:
    first, second, third = asked("psnr,strong:bpp-free, simba:psnr", steps=7, seed=3, restarts=2)
    assert (first.method, first.target, first.bounded, first.label) == ("paper", "psnr", True, "paper:psnr")
    assert (second.method, second.target, second.bounded, second.label) == ("strong", "bpp", False, "strong:bpp-free")
    assert (third.method, third.steps, third.seed) == ("simba", 7, 3)
    assert [attack.restarts for attack in (first, second, third)] == [1, 2, 1]  # the others start once
    assert asked("none") == ()


def test_methods_of_one_step_are_the_same_attack_whatever_steps_are_asked_for() -> None:
    for name in attacks.METHODS:
        (few,), (many,) = asked(f"{name}:psnr", steps=1), asked(f"{name}:psnr", steps=200)
        single = name in ("fgsm", "noise", "noise-uniform", "offset")
        assert (few == many, many.steps) == (single, 1 if single else 200)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("newton:psnr", {}, "no attack 'newton'; there are paper, ma2023, fgsm"),
        ("none,psnr", {}, "none beside others; it stands alone"),
        ("psnr, none", {}, "none beside others; it stands alone"),
        ("paper", {}, "no target 'paper'"),
        ("paper:psnr,noise:psnr", {"restarts": 2}, "--restarts is for strong"),
        ("paper:rate", {}, "no target 'rate'"),
        ("psnr,paper:psnr", {}, "twice"),
        ("psnr", {"epsilon": 0.0}, "above 0"),
        ("psnr", {"epsilon": math.nan}, "above 0"),
    ],
)
def test_wrong_attacks_are_named(text: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        asked(text, **options)


# rows made by hand


def figures(**changes: Any) -> Figures:
    values: dict[str, Any] = {
        "size": 1000,
        "sha256": "00",
        "setting": 1024.0,
        "bpp": 0.5,
        "bpp_y": 0.45,
        "bpp_z": 0.04,
        "psnr": 32.0,
        "psnr_own": 32.0,
        "psnr_input": 33.1,
        "ms_ssim": 0.97,
        "worst_block": 28.0,
        "score": 1.0,
        "gain": 3.0,
        "score_change": 0.2,
    }
    return Figures(**values | changes)


def row(
    name: str = "a", attack: str | None = "paper:psnr", *, model: str = "m", quality: float = 4.0, **changes: Any
) -> Row:
    crafting = {"zero": 0.0, "not_finite": 0.0, "shrunk": 1.0, "torch_bpp": 0.5, "torch_psnr": 32.0}
    crafting |= {key: changes.pop(key) for key in list(changes) if key in crafting}
    trace = changes.pop("trace", tuple((step, float(step)) for step in range(1, 201)))
    assault = None
    if attack is not None:
        options = {"steps": 200} | {key: changes.pop(key) for key in ("steps", "seed") if key in changes}
        (assault,) = asked(attack, **options)
        assault = dataclasses.replace(assault, surrogate=changes.pop("surrogate", None))
    return Row(
        model=model,
        fingerprint=f"{model}-fingerprint",
        quality=quality,
        picture=Picture(data="set", name=name, crop=256, width=256, height=256, sha256=f"sha of {name}"),
        attack=assault,
        holds=changes.pop("holds", None if attack is None else True),
        figures=figures(**changes) if attack else figures(**{"gain": None, "score_change": None} | changes),
        crafting=None if attack is None else Crafting(trace=trace, **crafting),
        image="picture.png",
        version="0",
    )


def test_rows_come_back_from_json() -> None:
    for one in (row(), row(attack=None, psnr=math.inf, psnr_input=math.inf, bpp_y=None)):
        text = to_json(one)
        assert "Infinity" not in text
        assert from_json(text) == one


def test_a_score_that_is_no_number_comes_back_from_json() -> None:
    one = row(not_finite=1.0, trace=((1, 2.0), (2, math.nan)))
    again = from_json(to_json(one))
    assert again.crafting is not None and again.crafting.trace[0] == (1, 2.0)
    assert again.crafting.trace[1][0] == 2 and math.isnan(again.crafting.trace[1][1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 400))
def test_rows_survive_a_crash_at_any_byte(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("rows") / "results.jsonl"
    append_row(path, row("a"))
    whole = path.stat().st_size
    append_row(path, row("b"))
    path.write_bytes(path.read_bytes()[: whole + cut])
    survivors = [one.picture.name for one in read_rows(path.parent)]
    append_row(path, row("c"))
    assert [one.picture.name for one in read_rows(path.parent)] == [*survivors, "c"]


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        "no json",
        "\udcff",
        '{"model": 1}',
        "[" * 100_000,
        to_json(row()).replace("[1, 1.0]", "[1e999, 1.0]"),
        to_json(row()).replace("[1, 1.0]", f"[1, {10**400}]"),
        to_json(row()).replace('"set"', '"set\\udcff"'),
        to_json(row()).replace('"size"', '"sizes"'),
        to_json(row()).replace('"bpp": 0.5', '"bpp": "0.5"'),
        to_json(row()).replace('"picture.png"', "null"),
        to_json(row()).replace('"picture.png"', '"../picture.png"'),
        to_json(row()).replace('"data": "set"', '"data": "x/../../set"'),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "results.jsonl").write_text(f"{to_json(row())}\n{line}\n", errors="surrogateescape")
    with pytest.raises(InputError, match=r"line 2, is no result"):
        read_rows(tmp_path)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20))
def test_means_and_standard_errors(values: list[float]) -> None:
    statistic = Statistic.of([*values, math.inf, None])
    assert statistic.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert statistic.error == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), abs=1e-9)
    assert (statistic.count, statistic.left_out) == (len(values), 1)


def test_differences_are_taken_picture_by_picture() -> None:
    ours = [row(name, model="ours", psnr=psnr) for name, psnr in (("a", 30.0), ("b", 34.0), ("c", math.inf))]
    theirs = [row(name, model="theirs", psnr=psnr) for name, psnr in (("c", math.inf), ("b", 33.0), ("a", 28.0))]
    (section,) = sections([*ours, *theirs])
    first, second = section.cells
    difference = paired(first, second, "psnr")
    assert (difference.mean, difference.error, difference.count, difference.left_out) == (1.5, 0.5, 2, 1)


def test_tables_are_shaped_like_the_papers(tmp_path: Path) -> None:
    cases = ((None, 0.4), ("psnr", 0.41), ("bpp", 0.8), ("simba:psnr", 0.4), ("noise:psnr", 0.4))
    rows = [row(name, attack, bpp=bpp) for attack, bpp in cases for name in "ab"]
    table, simba, noise, *details = all_tables(sections(rows), paper=True)
    assert table.title == (
        "set, 2 pictures, centre crops of 256, quality 4; methods paper:psnr, paper:bpp; N = 200, ε = 0.0005, seed 0"
    )
    assert table.header[:6] == ("model", "pictures", "clean bpp", "clean PSNR", "clean J", "paper:psnr bpp")
    ours, *papers = table.rows
    assert ours[:3] == ("m", "2", "0.400 ±0.000")
    assert (ours[5], ours[8]) == ("0.410 ±0.000", "0.800 ±0.000")
    assert papers[-1] == ("paper: ours", "24", "0.4323", "32.08", "", "0.4286", "28.40", "", "0.6822", "32.99", "")
    assert (simba.header[5], noise.header[5]) == ("simba:psnr bpp", "noise:psnr bpp")
    assert "N = 1," in noise.title
    assert [one.title.split("; ")[1] for one in details] == [
        "methods paper:psnr, simba:psnr",
        "method paper:bpp",
        "method noise:psnr",  # of one step
    ]
    assert [line[:3] for line in details[0].rows] == [("paper:psnr", "m", "2"), ("simba:psnr", "m", "2")]
    assert [line[6] for line in details[1].rows] == ["2.000 ±0.000"]


def test_models_and_surrogates_of_one_name_are_told_apart() -> None:
    first = row(attack=None)
    second = dataclasses.replace(first, fingerprint="another of the name")
    assert [cell.line.title for cell in sections([first])[0].cells] == ["m"]
    titles = [cell.line.title for cell in sections([first, second])[0].cells]
    assert titles == ["m [m-finger]", "m [another of the name]"]
    crafted = row(surrogate="net")
    assert crafted.attack is not None
    others = [
        dataclasses.replace(crafted, attack=dataclasses.replace(crafted.attack, surrogate_fingerprint=text * 8))
        for text in "ab"
    ]
    assert [cell.line.title for cell in sections(others)[0].cells] == [
        "m (crafted on net [aaaaaaaa])",
        "m (crafted on net [bbbbbbbb])",
    ]
    names = [compressai_json(curve)[0] for curve in curves_of(sections([first, second, *others]))]
    assert len(set(names)) == 4


def test_a_row_is_of_one_set_of_pictures(tmp_path: Path) -> None:
    rows = [*(row(name, None, bpp=bpp) for name, bpp in (("a", 0.2), ("b", 0.6))), row("b", "psnr", bpp=0.9)]
    table, details, *_ = all_tables(sections(rows))
    (line,) = table.rows
    assert (line[1], line[2], line[5]) == ("1", "0.600", "0.900")
    assert (details.rows[0][2], *details.rows[0][6:8]) == ("1", "1.500", "1.500")


def test_inflation_of_the_rate_both_ways() -> None:
    clean = [row(name, None, bpp=bpp) for name, bpp in (("a", 0.2), ("b", 0.6))]
    attacked = [row(name, "bpp", bpp=bpp) for name, bpp in (("a", 0.6), ("b", 0.9))]
    of_means, of_ratios = inflation(*(sections(rows)[0].cells[0] for rows in (attacked, clean)))
    assert (of_means.mean, of_ratios.mean) == (pytest.approx(1.5 / 0.8), pytest.approx((3 + 1.5) / 2))
    # by hand: the ratio leaves 0.225 and -0.225 over, whose mean has the error 0.225, of a mean clean rate of 0.4
    assert (of_means.error, of_ratios.error) == (pytest.approx(0.225 / 0.4), pytest.approx(0.75))


def test_outputs_of_an_evaluation(tmp_path: Path) -> None:
    rows = [row(name, attack, bpp=bpp) for attack, bpp in ((None, 0.4), ("psnr", 0.41)) for name in "ab"]

    written = write_summary(tmp_path, rows, check(rows), paper=True)
    assert all(path.stat().st_size for path in written)
    plots = {f"rd-set-256-paper-e0.0005-n200-s0-r1.{ending}" for ending in ("png", "svg")}
    assert {"summary.md", "summary.csv"} | plots <= {path.name for path in written}
    header, *lines = (tmp_path / "summary.csv").read_text().splitlines()
    assert len(lines) == 2
    assert {len(line.split(",")) for line in (header, *lines)} == {len(header.split(","))}


def test_sets_of_similar_names_have_files_of_their_own(tmp_path: Path) -> None:
    sets = ["my-photos", "my photos", "рисунки", "снимки"]
    one = row(attack=None)
    rows = [dataclasses.replace(one, picture=dataclasses.replace(one.picture, data=data)) for data in sets]
    written = write_summary(tmp_path, rows, [], paper=False)
    assert len([path for path in written if path.suffix == ".json"]) == 4
    assert len({path for path in written if path.suffix == ".svg"}) == 4
    assert all(path.is_file() and path.name.isascii() for path in written)
    assert {"rd-my-photos-256.svg", "my-photos-256-m-clean.json"} <= {path.name for path in written}


def test_curves_that_went_leave_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "compressai"
    write_summary(tmp_path, [row(), row(attack="bpp"), row(attack="noise:psnr")], [], paper=False)
    clean, bpp, noise, psnr = (
        "set-256-m-clean.json",
        "set-256-m-paper-bpp-e0.0005-n200-s0-r1.json",
        "set-256-m-noise-psnr-e0.0005-n1-s0-r1.json",
        "set-256-m-paper-psnr-e0.0005-n200-s0-r1.json",
    )
    names = {path.name for path in folder.iterdir()}
    assert names == {bpp, noise, psnr, "SHA256SUMS"}
    shutil.copy(folder / bpp, folder / "kept.json")  # what others put there, or changed, is theirs
    (folder / noise).write_text("changed")
    outside = tmp_path / "outside.json"
    outside.write_text("outside")
    sums = (folder / "SHA256SUMS").read_text()
    lies = [hashlib.sha256(b"outside").hexdigest() + f"  {name}" for name in ("../outside.json", str(outside), "..")]
    (folder / "SHA256SUMS").write_bytes("\n".join([sums, *lies, "no line"]).encode() + b"\n\xff\0\n")
    write_summary(tmp_path, [row(attack=None)], [], paper=False)
    assert {path.name for path in folder.iterdir()} == {clean, noise, "kept.json", "SHA256SUMS"}
    assert ((folder / noise).read_text(), outside.read_text()) == ("changed", "outside")
    digest = hashlib.sha256((folder / clean).read_bytes()).hexdigest()
    assert (folder / "SHA256SUMS").read_text() == f"{digest}  {clean}\n"


def test_curves_for_compressai(tmp_path: Path) -> None:
    rows = [row(quality=quality, bpp=quality / 10, psnr=28 + quality) for quality in (3.0, 1.0, 2.0)]
    (curve,) = curves_of(sections(rows))
    name, text = compressai_json(curve)
    document = json.loads(text)
    assert name == "set-256-m-paper-psnr-e0.0005-n200-s0-r1.json"
    assert document["results"]["bpp"] == [0.1, 0.2, 0.3]
    assert document["results"]["psnr-rgb"] == document["results"]["psnr"] == [29, 30, 31]
    assert {"name", "description", "results"} == set(document)
    (tmp_path / name).write_text(text)
    plot = [sys.executable, "-m", "compressai.utils.plot", "-f", tmp_path / name, "-o", tmp_path / "curve.png"]
    subprocess.run(plot, check=True, capture_output=True)
    with PillowImage.open(tmp_path / "curve.png") as picture:
        assert picture.width > 100


def test_bjontegaard_rates() -> None:
    pytest.importorskip("bjontegaard")
    points = [(quality, 0.1 * 2**quality, 27.0 + 2 * quality) for quality in (1.0, 2.0, 3.0, 4.0)]
    rows = [row(quality=q, bpp=bpp, psnr=psnr) for q, bpp, psnr in points]
    rows += [row(quality=q, bpp=1.3 * bpp, psnr=psnr, model="wasteful") for q, bpp, psnr in points]
    rows += [row(quality=q, bpp=bpp, psnr=-psnr, model="falling") for q, bpp, psnr in points]
    anchor, wasteful, falling = curves_of(sections(rows))
    assert bd_rate(anchor, wasteful) == pytest.approx(30, abs=0.1)
    assert bd_rate(anchor, falling) is None
    assert bd_rate(anchor, dataclasses.replace(wasteful, cells=wasteful.cells[:3])) is None
    elsewhere = [dataclasses.replace(one, picture=dataclasses.replace(one.picture, data="other")) for one in rows]
    table = rate_table(curves_of(sections([*rows, *elsewhere])))
    assert table is not None
    assert [(line[0].split(",")[0], *line[1:3]) for line in table.rows] == [
        ("other", "wasteful", "m"),
        ("set", "wasteful", "m"),
    ]


HEALTHY = [row(), row("b"), row(attack="bpp"), row(attack="noise:bpp", bpp=0.3, torch_bpp=0.3)]
HEALTHY += [row(attack=f"{weaker}:psnr", gain=gain) for weaker, gain in [("fgsm", 2.0), ("noise", 0.5), ("simba", 0.4)]]

SICK: dict[str, list[Row]] = {
    "E01": [row(zero=0.7)],
    "E02": [row(gain=3.0), row(gain=2.9, steps=400, trace=())],
    "E03": [row(gain=1.0), row(attack="noise:psnr", gain=1.1)],
    "E04": [row(gain=1.0), row(attack="fgsm:psnr", gain=1.1)],
    "E05": [row(gain=1.0), row(gain=1.1, surrogate="other")],
    "E06": [row(torch_bpp=0.4)],
    "E07": [row(psnr_input=33.0)],
    "E08": [row(holds=False)],
    "E09": [row(gain=1.0), row(attack="simba:psnr", gain=1.1)],
    "E10": [row(), dataclasses.replace(row("b"), version="older")],
    "E11": [row(), row(attack="noise:psnr-free", gain=0.5)],
}


def test_a_healthy_evaluation_has_no_warning() -> None:
    assert check(HEALTHY) == []


@pytest.mark.parametrize("code", CODES)
def test_each_sign_of_failure_is_found(code: str) -> None:
    # most of them have nothing to beat
    assert {warning.code for warning in check(SICK[code])} - {"E11"} == {code} - {"E11"}
    assert code in {warning.code for warning in check(SICK[code])}


def test_what_has_nothing_to_beat_is_told_what_to_name() -> None:
    (warning,) = check([row(), row(attack="bpp-free"), row(attack="fgsm:bpp-free", bpp=0.3, torch_bpp=0.3)])
    assert warning.text == "on m, no control stands beside paper:psnr; name offset:psnr in --attacks, too"
    assert check([row(surrogate="other"), row(attack="noise:psnr", gain=0.5), row(attack="simba:psnr", gain=0.4)]) == []


@pytest.mark.parametrize(
    ("code", "rows"),
    [
        ("E01", [row(not_finite=0.001)]),
        ("E02", [row(gain=3.0), row(gain=3.0, steps=400, trace=())]),
        ("E02", [row(attack="paper:psnr-free", trace=((1, 1.0), (10, 5.0), (200, 4.0)))]),
        ("E06", [row(torch_psnr=31.8)]),
    ],
)
def test_each_other_sign_is_found(code: str, rows: list[Row]) -> None:
    assert [warning.code for warning in check(rows)] == [code, "E11"]


def test_an_early_score_beyond_the_bound_is_no_sign() -> None:
    assert check([row(trace=((1, 1.0), (10, 5.0), (200, 4.0))), row(attack="noise:psnr", gain=0.5)]) == []


def test_controls_of_another_seed_are_compared() -> None:
    weaker = [
        row(attack="offset:psnr", gain=0.5),
        row(attack="fgsm:psnr", gain=2.0),
        row(attack="simba:psnr", gain=0.4),
    ]
    assert check([row(seed=1), *weaker]) == []
    assert [warning.code for warning in check([row(seed=1, gain=0.3), *weaker])] == ["E03", "E04", "E09"]


def test_strengths_are_compared_within_the_bound_only() -> None:
    beaten = [row("a", gain=1.0), row("a", "noise:psnr", gain=9.0, holds=False)]
    assert [warning.code for warning in check(beaten)] == ["E08"]


def test_every_warning_is_explained() -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (E\d\d)$", text, re.MULTILINE) == list(CODES)


def test_rows_are_rechecked(tmp_path: Path, data: Path, model: Learned, workshop: Workshop) -> None:
    rows = evaluate(grid(data, model), tmp_path, silent)
    chosen, left_out = rows_to_recheck(tmp_path, 3, seed=1)
    assert (len(chosen), left_out) == (3, 0)
    assert rows_to_recheck(tmp_path, 3, seed=1) == (chosen, 0)
    for one in chosen:
        again = recheck(tmp_path, one, model)
        assert again.same_file
        assert again.now == one.figures
        assert not again.differences
    one = next(one for one in rows if one.attack)
    for name in ("psnr", "ms_ssim", "worst_block", "gain", "score_change"):
        wrong = dataclasses.replace(
            one, figures=dataclasses.replace(one.figures, **{name: getattr(one.figures, name) + 0.002})
        )
        assert [text.split()[0] for text in recheck(tmp_path, wrong, model).differences] == [name]
    (tmp_path / one.image).unlink()
    chosen, left_out = rows_to_recheck(tmp_path, 100, seed=0)
    assert one.key not in {row.key for row in chosen}
    assert (len(chosen), left_out) == (len(rows) - 1, 1)


class Tags(HTMLParser):
    """Collects what a page embeds, and whether its tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        assert not set(attributes) & {"href", "srcset", "onload", "onerror"}
        if "src" in attributes:
            self.sources.append(attributes["src"] or "")
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_everything_itself(tmp_path: Path, data: Path, model: Learned, workshop: Workshop) -> None:
    rows = evaluate(grid(data, model, "psnr,bpp"), tmp_path, silent)
    path = write_report(tmp_path, rows, check(rows), [model], paper=True)
    text = path.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert not tags.open
    assert re.findall(r"https?:|url\(|@import|//", re.sub(r"base64,[^\"]*", "", text)) == []
    pictures = [source for source in tags.sources if source.startswith("data:image/jpeg;base64,")]
    curves = [source for source in tags.sources if source.startswith("data:image/svg+xml;base64,")]
    assert (len(pictures), len(curves), len(tags.sources)) == (2 * 6, 1, 13)
    sizes = {(picture.width, picture.height) for picture in map(read_embedded, pictures)}
    assert sizes <= {(64, 64), (96, 80)}
    assert tags.text.count("hyper-tiny, paper:psnr, quality 4: ") == 1
    clean = {(f"{one.figures.bpp:.3f}", f"{one.figures.psnr:.2f}") for one in rows if one.attack is None}
    shown = re.findall(r"bpp \(clean ([\d.]+)\).* dB \(clean ([\d.]+) dB\)", tags.text)
    assert len(shown) == 2
    assert set(shown) <= clean


def test_models_take_turns_where_the_page_has_no_room_for_all(
    tmp_path: Path, data: Path, model: Learned, workshop: Workshop
) -> None:
    rows = evaluate(grid(data, model, "psnr,bpp,psnr-free,bpp-free,strong:psnr,strong:bpp"), tmp_path, silent)
    other = SimpleNamespace(name=model.name, fingerprint="another", code=model.code, source=None)
    both = [*rows, *(dataclasses.replace(one, fingerprint="another") for one in rows)]
    shown, left_out = exhibits(tmp_path, both, [model, other])
    assert [exhibit.row.fingerprint for exhibit in shown] == [model.fingerprint, "another"] * 4
    assert left_out == 4
    text = write_report(tmp_path, both, [], [model, other], paper=False).read_text(encoding="utf-8")
    assert "4 more attacks on models are in the tables" in text
    # a picture that is gone is passed over
    (tmp_path / rows[0].image).unlink()
    assert len(exhibits(tmp_path, rows, [model])[0]) < 6


def read_embedded(source: str) -> Image:
    return read_picture(b64decode(source.partition(",")[2]), 1 << 20)


def test_models_that_are_not_at_hand_are_said(tmp_path: Path) -> None:
    text = write_report(tmp_path, [row(), row(attack=None)], [], [], paper=False).read_text(encoding="utf-8")
    assert "No pictures of m," in text
    assert '<div class="slider">' not in text


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    rows = [row(name, attack, model=hostile) for name in (hostile, "b") for attack in (None, "psnr")]
    text = write_report(tmp_path, rows, check(rows), [], paper=False).read_text(encoding="utf-8")
    assert "alert(1)" in text
    assert hostile not in text


def test_a_window_lies_around_the_damage() -> None:
    clean = np.zeros((500, 700, 3), np.uint8)
    after = clean.copy()
    after[490, 5] = 255
    rows, columns = window(clean, after)
    assert clean[rows, columns].shape == (384, 384, 3)
    assert rows.start <= 490 < rows.stop
    assert columns.start == 0


def test_classical_codecs_come_as_near_as_they_can(model: Learned, make_sample: Callable[..., Pixels]) -> None:
    pixels = make_sample(64, 72, 4)
    wanted = model.code(pixels, 4.0)(pixels)
    bpp = 8 * len(wanted.data) / (64 * 72)
    for match, goal in (("psnr", psnr(pixels, wanted.pixels)), ("bpp", bpp)):
        codec = Classical("webp", model, match)
        coded = codec.code(pixels, 4.0)(pixels)
        reached = {}
        for quality in range(101):
            out = io.BytesIO()
            PillowImage.fromarray(pixels).save(out, "WEBP", quality=quality, method=6)
            shown = np.asarray(PillowImage.open(out).convert("RGB"))
            reached[quality] = psnr(pixels, shown) if match == "psnr" else 8 * len(out.getvalue()) / (64 * 72)
        nearest = min(abs(value - goal) for value in reached.values())
        assert abs(reached[int(coded.setting)] - goal) <= nearest + 0.05
        other = make_sample(64, 72, 5)
        assert codec.code(pixels, 4.0)(other).setting == coded.setting


@pytest.mark.parametrize("name", sorted(CODECS))
def test_every_classical_codec_codes(name: str, model: Learned, make_sample: Callable[..., Pixels]) -> None:
    if CODECS[name].plugin is not None:
        pytest.importorskip(CODECS[name].plugin)
    pixels = make_sample(64, 72, 4)
    coded = Classical(name, model, "psnr").code(pixels, 4.0)(pixels)
    assert coded.pixels.shape == pixels.shape
    assert psnr(pixels, coded.pixels) == pytest.approx(psnr(pixels, model.code(pixels, 4.0)(pixels).pixels), abs=0.5)


@pytest.mark.parametrize(("name", "width"), [("webp", 16400), ("jpeg", 66000), ("avif", 70000)])
def test_a_picture_that_a_classical_codec_cannot_hold_is_named(
    name: str, width: int, tmp_path: Path, model: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((2, width, 3), np.uint8)
    (tmp_path / "wide.png").write_bytes(write_picture(Image(pixels=pixels), "PNG"))
    coded = Coded(b"", pixels, 0.0)
    monkeypatch.setattr(model, "code", lambda *_: lambda _: coded)  # which need not code it, to save time
    with pytest.raises(ImageError, match=f"^wide: {name} cannot code a picture of {width} x 2 pixels .* or {name}, or"):
        evaluate(grid(tmp_path, Classical(name, model, "psnr"), "none"), tmp_path / "out", silent)


def test_a_missing_plugin_says_what_to_install(model: Learned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustcodec.lab.evaluation.classical.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"heic needs pillow-heif.*robustcodec\[classical\]"):
        Classical("heic", model, "psnr")


def test_real_attacks_go_through(tmp_path: Path, data: Path, tiny_path: Path) -> None:
    def run(folder: str) -> list[Row]:
        models = f"{tiny_path},jpeg"
        options = ["--attacks", "psnr,bpp-free,offset:psnr", "--steps", "2", "--seed", "1", "--threads", "1"]
        command = ["evaluate", "--data", str(data), "--models", models, *options, "-o", str(tmp_path / folder)]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        return read_rows(tmp_path / folder)

    rows = run("first")
    assert [to_json(one) for one in run("second")] == [to_json(one) for one in rows]
    attacked = [one for one in rows if one.attack]
    assert len(attacked) == 3 * 2 * 3
    assert all(10 ** (-one.figures.psnr_input / 10) <= EPSILON for one in attacked)
    assert {one.attack.surrogate for one in attacked if one.attack and one.model == "jpeg"} == {"hyper-tiny"}
    offsets = [one.figures.gain for one in attacked if one.label == "offset:psnr"]
    assert all(gain is not None and 0.9 < gain < 1.1 for gain in offsets), offsets
    assert not {"E01", "E07"} & {warning.code for warning in check(rows)}

"""The scripts for a lent GPU, end to end at toy size on a CPU, and their parts."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from robustcodec.errors import TrainingError
from robustcodec.graphs import UNLIMITED
from robustcodec.images import Picture, write_picture
from robustcodec.lab import gradients, slices, training
from robustcodec.lab.crops import Encoding, pack_crops, sample_tiles, unpack_crops
from robustcodec.lab.hyper import Hyper
from robustcodec.lab.parcels import read_parcel, write_parcel
from robustcodec.lab.recipe import Hardening, Method, Phase, Recipe
from robustcodec.lab.runs import Run, State
from robustcodec.lab.slices import Plan, Standing, averaged_weights, finish_slice, new_run, next_slice, train_slice

SCRIPTS = Path(__file__).parents[2] / "scripts"
RECIPE = Recipe(
    steps=1,
    channels=(8, 12),
    validations=2,
    phases=(
        Phase(share=0.5, rate_from=1e-3, rate_to=1e-3, batch=2, crop=64),
        Phase(share=0.5, rate_from=1e-3, rate_to=0.0, batch=2, crop=64),
    ),
)


def pictures(count: int) -> list[np.ndarray]:
    """Smooth pictures, 140 x 150, with some texture."""
    random = np.random.default_rng(count)
    y, x = np.mgrid[:140, :150] / 140
    waves = [np.sin(x * a + y * b + c)[:, :, None] for a, b, c in random.uniform(1, 20, (count, 3))]
    return [(128 + 80 * wave + random.normal(0, 5, (140, 150, 3))).clip(0, 255).astype(np.uint8) for wave in waves]


def small_pack(slices: int) -> dict[str, bytes]:
    torch.manual_seed(0)
    weights = Hyper(8, 12).state_dict()
    crops = pack_crops(pictures(3), Encoding(format="PNG"), 10**6)
    return new_run(Plan(recipe=RECIPE, slices=slices, parent="a test"), weights, crops, crops)


class Clock:
    """A clock that a look at it advances: a training step takes two looks, 0.02 seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.01
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that does not depend on how busy the machine is."""
    clock = Clock()
    monkeypatch.setattr(slices, "time", clock)
    monkeypatch.setattr(training, "time", clock)
    monkeypatch.setattr(slices, "seconds_per_step", lambda *_, **__: 0.021)
    return clock


def train_for(seconds: float, clock: Clock, pack: dict[str, bytes], work: Path, left: int | None = None) -> list[str]:
    lines: list[str] = []
    until = clock.now + seconds
    train_slice(pack, work, until=until, slice_seconds=seconds, slices_left=left, record=True, announce=lines.append)
    return lines


def state_of(work: Path) -> State:
    state = Run(work).load()
    assert state is not None
    return state


def test_parcels_are_split_joined_and_checked(tmp_path: Path) -> None:
    files = {"large": bytes(range(256)) * 10, "small": b"abc", "empty": b""}
    write_parcel(tmp_path, {"large": b"x" * 900, "other": b"y"}, most=1000, piece=100)
    write_parcel(tmp_path, files, most=2563, piece=1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "empty", "large.00", "large.01", "large.02", "parcel.json", "small"
    ]  # fmt: skip
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 1000
    assert read_parcel(tmp_path) == files
    with pytest.raises(TrainingError, match="more than"):
        write_parcel(tmp_path, files, most=2562)
    piece = tmp_path / "large.01"
    piece.write_bytes(piece.read_bytes()[:-1] + b"!")
    with pytest.raises(TrainingError, match="damaged"):
        read_parcel(tmp_path)
    piece.unlink()
    with pytest.raises(TrainingError, match=r"lacks .*large\.01"):
        read_parcel(tmp_path)
    with pytest.raises(TrainingError, match="no parcel"):
        read_parcel(tmp_path / "nothing")


@pytest.mark.parametrize(
    "index",
    [
        [],
        {"a": 1},
        {"a": {"size": 1, "sha256": "", "pieces": "a"}},
        {"a": {"size": "1", "sha256": "", "pieces": ["a"]}},
        {"a": {"size": 1, "sha256": "", "pieces": [["a"]]}},
        {"a": {"size": 1, "sha256": "", "pieces": ["../kept"]}},
        {"a": {"size": 1, "sha256": "", "pieces": [".."]}},
        {"../kept": {"size": 1, "sha256": "", "pieces": ["a"]}},
    ],
)
def test_an_index_names_files_of_its_own_folder_only(tmp_path: Path, index: object) -> None:
    (tmp_path / "kept").write_bytes(b"k")
    (tmp_path / "parcel").mkdir()
    (tmp_path / "parcel" / "parcel.json").write_text(json.dumps(index))
    with pytest.raises(TrainingError, match="not an index"):
        read_parcel(tmp_path / "parcel")
    with pytest.raises(TrainingError, match="not an index"):
        write_parcel(tmp_path / "parcel", {"a": b"a"})
    assert (tmp_path / "kept").read_bytes() == b"k"


def test_only_what_a_slice_leaves_goes_into_the_next_pack() -> None:
    pack = small_pack(2)
    outcome = {name: pack[name] for name in ("plan.json", "progress.json", "weights.safetensors", "log.jsonl")}
    with pytest.raises(TrainingError, match="lacks average"):
        next_slice(pack, outcome)
    outcome["average.safetensors"] = b"new"
    assert next_slice(pack, {**outcome, "crops.tar": b"other", "gpu_slice.py": b"other"}) == {**pack, **outcome}


def test_a_folder_of_other_things_is_not_worked_in(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "thesis").write_bytes(b"t")
    with pytest.raises(TrainingError, match="something other"):
        train_for(1.0, clock, small_pack(2), tmp_path)
    with pytest.raises(TrainingError, match="something other"):
        train_for(1.0, clock, small_pack(2), tmp_path / "thesis")
    assert (tmp_path / "thesis").read_bytes() == b"t"
    with pytest.raises(TrainingError, match="0 slices left"):
        train_for(1.0, clock, small_pack(2), tmp_path / "new", left=0)


def test_another_plans_run_is_not_counted(clock: Clock, tmp_path: Path) -> None:
    small_outcome(clock, tmp_path / "work")
    before = (tmp_path / "work" / "progress.json").read_bytes()
    assert finish_slice(small_pack(3), tmp_path / "work") == {}
    assert (tmp_path / "work" / "progress.json").read_bytes() == before


def test_a_pack_replaces_nothing_but_a_pack(tmp_path: Path) -> None:
    (tmp_path / "robustcodec").mkdir()
    (tmp_path / "robustcodec" / "mine").write_bytes(b"m")
    for output, said in ((tmp_path, "neither empty nor a pack"), (SCRIPTS.parent, "the package itself")):
        command = [sys.executable, SCRIPTS / "gpu_pack.py", "next", tmp_path / "out", "-o", output]
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 1 and said in result.stderr
    assert (tmp_path / "robustcodec" / "mine").read_bytes() == b"m"


def test_tiles_are_distinct_parts_of_their_pictures() -> None:
    """A picture of distinct pixels: no pixel may be in two tiles."""
    rows, columns = np.mgrid[:140, :150].astype(np.uint8)
    picture = np.stack([rows, columns, np.zeros_like(rows)], axis=2)
    tiles = list(sample_tiles([picture], 64, seed=1))
    assert len(tiles) == 4
    corners = [tuple(int(value) for value in tile[0, 0, :2]) for tile in tiles]
    for tile, (top, left) in zip(tiles, corners, strict=True):
        assert (tile == picture[top : top + 64, left : left + 64]).all()
    assert len({(top, left) for top, left in corners}) == 4
    assert {abs(a - b) for a, _ in corners for b, _ in corners} == {0, 64}
    with pytest.raises(TrainingError, match="no picture"):
        sample_tiles([picture], 160, seed=1)


@pytest.mark.parametrize(("name", "quality", "error"), [("AVIF", 90, 5.0), ("JPEG", 90, 5.0), ("PNG", 90, 0.0)])
def test_crops_come_back(name: str, quality: int, error: float) -> None:
    crops = [picture[:128, :128] for picture in pictures(3)]
    archive = pack_crops(crops, Encoding(format=name, quality=quality), 10**6)
    for before, after in zip(crops, unpack_crops(archive), strict=True):
        assert np.sqrt(np.mean((before.astype(float) - after) ** 2)) <= error


def test_archives_keep_their_limit() -> None:
    crops = pictures(6)
    whole = pack_crops(crops, Encoding(), 10**6)
    half = pack_crops(crops, Encoding(), len(whole) // 2 // 10240 * 10240)
    assert len(half) <= len(whole) // 2
    with tarfile.open(fileobj=io.BytesIO(half)) as tar:
        assert 1 <= len(tar.getnames()) < 6
    with pytest.raises(TrainingError, match="not one crop"):
        pack_crops(crops, Encoding(), 5000)


def test_a_plan_is_trained_to_its_end_over_slices(clock: Clock, tmp_path: Path) -> None:
    """First slice from the pack, second on the kept machine, third on another one: the rate falls to zero."""
    pack = small_pack(3)
    assert any("fresh optimiser" in line for line in train_for(1.0, clock, pack, tmp_path / "one"))
    first = finish_slice(pack, tmp_path / "one")
    begun = Standing.from_json(first["progress.json"])
    planned = Run(tmp_path / "one").settings().recipe.steps
    assert begun.slices == 1 and begun.step / planned == pytest.approx(1 / 3, rel=0.15)

    before = state_of(tmp_path / "one")
    assert any("kept" in line for line in train_for(1.0, clock, pack, tmp_path / "one"))
    second = finish_slice(pack, tmp_path / "one")
    after = state_of(tmp_path / "one")
    some = next(iter(after.moments))
    assert int(after.moments[some]["step"]) == after.step > before.step  # the optimiser went on
    assert Run(tmp_path / "one").settings().recipe.steps == pytest.approx(planned, rel=0.15)

    pack = next_slice(pack, second)
    assert Standing.from_json(pack["progress.json"]).slices == 2
    train_for(1.0, clock, pack, tmp_path / "two")
    third = finish_slice(pack, tmp_path / "two")
    end = state_of(tmp_path / "two")
    assert end.step == Run(tmp_path / "two").settings().recipe.steps == pytest.approx(planned, rel=0.15)
    assert int(end.moments[some]["step"]) == end.step - after.step  # a fresh one
    records = [json.loads(line) for line in third["log.jsonl"].decode().splitlines()]
    rates = [record["rate"] for record in records if "rate" in record]
    assert rates[-1] == 0.0 and [record["step"] for record in records] == sorted(record["step"] for record in records)
    assert "validation_J" in records[-1]
    with pytest.raises(TrainingError, match="all 3 slices"):
        train_for(1.0, clock, next_slice(pack, third), tmp_path / "two")
    other = {**third, "plan.json": Plan(recipe=RECIPE, slices=9, parent="a test").to_json()}
    with pytest.raises(TrainingError, match="another run"):
        next_slice(pack, other)


def test_folders_that_are_mixed_up_are_refused(clock: Clock, tmp_path: Path) -> None:
    outcome = small_outcome(clock, tmp_path / "work")
    assert averaged_weights(outcome) == outcome["average.safetensors"]
    with pytest.raises(
        TrainingError, match=r"the pack lacks crops\.tar, validation\.tar; name the folder that gpu_pack"
    ):
        train_for(1.0, clock, outcome, tmp_path / "other")
    del outcome["average.safetensors"]
    with pytest.raises(TrainingError, match=r"lacks average\.safetensors; name the folder that a slice left"):
        averaged_weights(outcome)


def test_a_teacher_travels_along(clock: Clock, tmp_path: Path) -> None:
    """A slice of stage II holds the rate at what the packed teacher pays."""
    hardening = Hardening(method=Method.DISTILLED, psnr_share=0.5, psnr_steps=1)
    recipe = dataclasses.replace(RECIPE, hardening=hardening)
    plan = Plan(recipe=recipe, slices=1, parent="a test", steps=1)
    torch.manual_seed(0)
    weights = Hyper(8, 12).state_dict()
    teacher = {name: tensor * 1.5 for name, tensor in weights.items()}
    crops = pack_crops(pictures(3), Encoding(format="PNG"), 10**6)
    distances = []
    for name, learnt in (("itself", weights), ("another", teacher)):
        pack = new_run(plan, weights, crops, crops, learnt)
        train_for(5.0, clock, pack, tmp_path / name)
        (record,) = (record for record in Run(tmp_path / name).records() if "distance" in record)
        distances.append(record["distance"])
        assert "teacher.safetensors" in next_slice(pack, finish_slice(pack, tmp_path / name))
    assert distances[1] > 2 * distances[0]
    with pytest.raises(TrainingError, match="name one with --teacher"):
        new_run(plan, weights, crops, crops)
    with pytest.raises(TrainingError, match="leave --teacher out"):
        new_run(dataclasses.replace(plan, recipe=RECIPE), weights, crops, crops, teacher)
    del pack["teacher.safetensors"]
    with pytest.raises(TrainingError, match=r"lacks teacher\.safetensors"):
        train_for(5.0, clock, pack, tmp_path / "none")


def test_archives_without_crops_are_refused() -> None:
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    for archive, message in ((empty.getvalue(), "is empty"), (b"no archive", "is damaged"), (b"", "is damaged")):
        with pytest.raises(TrainingError, match=f"the archive of crops {message}.*; pack the crops again"):
            unpack_crops(archive)


def test_a_fresh_optimiser_is_warmed_up_wherever_it_is_resumed(clock: Clock, tmp_path: Path) -> None:
    pack = next_slice(small_pack(2), small_outcome(clock, tmp_path / "before"))
    train_for(1.0, clock, pack, tmp_path / "after")
    begun = Standing.from_json(pack["progress.json"]).step
    train_for(1.0, clock, pack, tmp_path / "after", left=1)
    for record in Run(tmp_path / "after").records():
        if "rate" in record and begun < record["step"] < begun + 200:
            assert record["rate"] <= 1e-3 * (record["step"] - begun) / 200 * 1.001


def test_weights_survive_the_journey(clock: Clock, tmp_path: Path) -> None:
    files = small_outcome(clock, tmp_path / "work")
    state = state_of(tmp_path / "work")
    (tmp_path / "average").write_bytes(files["average.safetensors"])
    for name, tensor in load_file(tmp_path / "average").items():
        assert torch.allclose(tensor.float(), state.average[name], rtol=2**-11, atol=1e-7)


def test_a_slice_that_did_not_train_leaves_nothing(clock: Clock, tmp_path: Path) -> None:
    assert finish_slice(small_pack(2), tmp_path / "nothing") == {}
    files = small_outcome(clock, tmp_path / "work")
    assert finish_slice(next_slice(small_pack(2), files), tmp_path / "work") == {}
    # nor on a kept machine, whose folder is ahead of the pack
    assert finish_slice(small_pack(2), tmp_path / "work") == {}


def small_outcome(clock: Clock, work: Path) -> dict[str, bytes]:
    """Train one slice of two."""
    pack = small_pack(2)
    train_for(1.0, clock, pack, work)
    return finish_slice(pack, work)


def test_a_recording_that_fails_or_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice a GPU makes, with a stand-in for the recording itself."""
    network = torch.nn.Linear(2, 1)
    parameters = list(network.parameters())
    notes: list[str] = []

    class Batch:
        def __init__(self) -> None:
            self.x, self.rounding, self.strength, self.generator = torch.ones(3, 2), 0, 1.0, torch.Generator()

    def computing(factor: float) -> gradients.Gradients:
        def compute(batch: object) -> dict[str, torch.Tensor]:
            for parameter in parameters:
                parameter.grad = None
            (factor * network(batch.x)).sum().backward()  # type: ignore[attr-defined]
            return {"factor": torch.tensor(factor)}

        return compute

    def fail(*_: object) -> gradients.Gradients:
        raise RuntimeError("operation not permitted\nwhile capturing")

    for record, used, said in (
        (lambda *_: computing(1.01), 1.01, None),
        (lambda *_: computing(1.2), 1.0, "differs by 0.2"),
        (lambda *_: computing(float("nan")), 1.0, "differs by inf"),
        (fail, 1.0, "operation not permitted"),
    ):
        notes.clear()
        monkeypatch.setattr(gradients, "_record", record)
        compute = gradients._recording(network, computing(1.0), notes.append)  # type: ignore[arg-type]
        for _ in range(2):
            assert float(compute(Batch())["factor"]) == pytest.approx(used)  # type: ignore[arg-type]
        assert len(notes) == (said is not None) and (said is None or said in notes[0])


def test_nothing_is_recorded_while_attacks_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[float] = []

    def record(parameters: object, eager: gradients.Gradients, batch: SimpleNamespace) -> gradients.Gradients:
        recorded.append(batch.strength)
        return eager

    monkeypatch.setattr(gradients, "_record", record)
    monkeypatch.setattr(gradients, "_difference", lambda *_: 0.0)
    compute = gradients._recording(torch.nn.Linear(2, 1), lambda batch: {}, print)
    for step in range(1, 20):
        compute(SimpleNamespace(x=torch.ones(3, 2), rounding=0, strength=min(1.0, step / 10)))  # type: ignore[arg-type]
    assert recorded == [1.0]


def test_what_is_refused_is_not_tried_again(tmp_path: Path) -> None:
    write_parcel(tmp_path / "pack", small_pack(2))
    places = ["--pack", tmp_path / "pack", "--out", tmp_path / "out", "--work", tmp_path / "work"]
    command = [sys.executable, SCRIPTS / "gpu_slice.py", *places, "--slices-left", "0"]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 1 and not (tmp_path / "work").exists()
    assert "with 0 slices left" in result.stdout and "nothing was trained" in result.stdout
    assert "starting again" not in result.stdout


def test_end_to_end(tmp_path: Path) -> None:
    """Pack, train a slice without the libraries a GPU machine lacks and with a crash of its first try, pack again."""
    for folder, count in (("data", 4), ("validation", 2)):
        (tmp_path / folder).mkdir()
        for index, pixels in enumerate(pictures(count)):
            (tmp_path / folder / f"{index}.png").write_bytes(write_picture(Picture(pixels=pixels), "PNG"))
    torch.manual_seed(0)
    save_file(Hyper(8, 12).state_dict(), tmp_path / "init.safetensors")
    hardening = Hardening(method=Method.FAST, bpp_share=0.5, local_share=0.5, local_steps=1, gain_quantile=0.5)
    (tmp_path / "recipe.json").write_text(dataclasses.replace(RECIPE, hardening=hardening).to_json())
    absent = tmp_path / "absent"
    for module in ("constriction", "compressai", "typer", "rich", "threadpoolctl", "onnx", "onnxruntime"):
        (absent / module).mkdir(parents=True)
        (absent / module / "__init__.py").write_text("raise ImportError('not on the GPU machine')\n")

    def run(*command: object) -> str:
        path = os.pathsep.join([str(absent), str(SCRIPTS.parent)])
        environment = {**os.environ, "PYTHONPATH": path}
        arguments = [sys.executable, "-W", "ignore", *map(str, command)]
        result = subprocess.run(arguments, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    pack, out = tmp_path / "pack", tmp_path / "out"
    places = ["--data", tmp_path / "data", "--validation", tmp_path / "validation"]
    begin = ["--init", tmp_path / "init.safetensors", "--recipe", tmp_path / "recipe.json", "--steps", 40]
    said = run(SCRIPTS / "gpu_pack.py", "new", *places, *begin, "--crop", 64, "--max-file", 0.02, "-o", pack)
    assert "16 crops for training, 2 of 2 for validation" in said
    assert (pack / "crops.tar.00").stat().st_size == int(0.02 * 2**20)
    with (pack / "robustcodec" / "lab" / "gradients.py").open("a") as code:
        code.write(CRASH)
    said = run(pack / "gpu_slice.py", "--out", out, "--work", tmp_path / "work", "--slice-minutes", 3)
    assert "starting again, with eager steps" in said
    outcome = read_parcel(out)
    records = [json.loads(line) for line in outcome["log.jsonl"].decode().splitlines()]
    assert [record for record in records if "rate" in record][-1]["rate"] == 0.0
    assert len(list(out.iterdir())) <= 8
    run(SCRIPTS / "gpu_pack.py", "next", out, "-o", pack)
    assert read_parcel(pack)["weights.safetensors"] == outcome["weights.safetensors"]
    run(SCRIPTS / "gpu_pack.py", "join", out, "-o", tmp_path / "trained.safetensors")
    trained = load_file(tmp_path / "trained.safetensors")
    assert trained.keys() == Hyper(8, 12).state_dict().keys()
    assert (trained["g_s.1.limit"] < UNLIMITED).all()


CRASH = """
import os
plain = gradients_of
def gradients_of(*arguments, record, **others):
    if record:
        os._exit(9)  # as a fault of the driver would
    return plain(*arguments, record=record, **others)
"""

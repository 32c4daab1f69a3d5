"""The training loop: it learns, and a run killed anywhere ends with the very same weights."""

import dataclasses
import hashlib
import json
import math
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from robustcodec.errors import LimitExceeded, TrainingError
from robustcodec.files import PICTURE_FORMATS
from robustcodec.images import Picture, write_picture
from robustcodec.lab import runs
from robustcodec.lab.data import Pool, centre_crops, picture_files, picture_sizes, pool_bytes, read_pictures
from robustcodec.lab.hyper import Hyper
from robustcodec.lab.losses import draw_qualities, rate_distortion
from robustcodec.lab.precision import Precision
from robustcodec.lab.recipe import Hardening, Method, Phase, Recipe, Rounding, Start
from robustcodec.lab.runs import Run, Settings, State
from robustcodec.lab.train import Order, split_pictures, train, validation_crops
from robustcodec.lab.training import draw_batch, pixels_seen, validate
from robustcodec.rate import high_rate_step, lagrangian

STEPS = 40


def recipe(steps: int = STEPS) -> Recipe:
    """A run of seconds that has all that a long one has: two phases, several qualities, the machine's arithmetic."""
    return Recipe(
        steps=steps,
        channels=(8, 12),
        quality_low=1.0,
        quality_high=6.0,
        precision=Precision.AUTO,
        validations=4,
        phases=(
            Phase(share=0.6, rate_from=1e-4, rate_to=1e-3, batch=2, crop=64),
            Phase(share=0.4, rate_from=1e-3, rate_to=0.0, batch=2, crop=64, rounding=Rounding.MIXED),
        ),
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of smooth pictures with some texture."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    y, x = np.mgrid[:96, :112] / 96
    for index in range(6):
        waves = [np.sin(x * random.uniform(2, 20) + y * random.uniform(2, 20) + c) for c in range(3)]
        pixels = 128 + 80 * np.stack(waves, axis=2) + random.normal(0, 6, (96, 112, 3))
        data = write_picture(Picture(pixels=pixels.clip(0, 255).astype(np.uint8)), "PNG")
        (folder / f"{index}.png").write_bytes(data)
    return folder


def quiet(_: object) -> None:
    """Report to nobody."""


def digest(run: Run) -> str:
    """sha256 of a run's final weights, average and moments."""
    state = run.load()
    assert state is not None
    sums = hashlib.sha256()
    for name, tensor in sorted(state.weights.items()) + sorted(state.average.items()):
        sums.update(name.encode() + tensor.numpy().tobytes())
    for name, moments in sorted(state.moments.items()):
        for key, tensor in sorted(moments.items()):
            sums.update(f"{name}.{key}".encode() + tensor.numpy().tobytes())
    return sums.hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("run") / "whole")
    train(run, Order(recipe=recipe(), data=pictures), quiet, quiet)
    return run


def test_a_conventional_start_is_random_kernels_and_identity_like_gdn(pictures: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "conventional")
    start = dataclasses.replace(recipe(1), start=Start.CONVENTIONAL)
    first: list[State] = []
    create = Run.create

    def keep(self: Run, settings: Settings, state: State) -> None:
        first.append(state)
        create(self, settings, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "create", keep)
        train(run, Order(recipe=start, data=pictures), quiet, quiet)
    weights = first[0].weights
    assert run.settings().parent == "conventional start"
    # torch draws kernels and biases evenly within one over the root of what each sum has of terms
    for name, terms in (("g_a.2.weight", 8 * 25), ("h_a.0.weight", 12 * 9), ("g_a.2.bias", 8 * 25)):
        largest = float(weights[name].abs().max())
        assert 0.8 * terms**-0.5 < largest <= terms**-0.5
    assert torch.allclose(weights["g_s.3.beta"] ** 2, torch.ones(8))
    assert torch.allclose(weights["g_s.3.gamma"] ** 2, 0.1 * torch.eye(8), atol=1e-6)


def test_training_lowers_the_cost(uninterrupted: Run) -> None:
    scores = [record["validation_J"] for record in uninterrupted.records() if "validation_J" in record]
    assert len(scores) == 4
    assert scores[-1] < 0.9 * scores[0]


def test_the_log_has_every_figure(uninterrupted: Run) -> None:
    records = uninterrupted.records()
    last = [record for record in records if "bpp" in record][-1]
    assert last["step"] == STEPS
    assert {"bpp", "bpp_z", "mse", "cost", "gradient", "rate", "seconds"} <= set(last)
    assert next(r for r in reversed(records) if "pixels" in r)["pixels"] == pixels_seen(recipe(), STEPS)


def test_stopping_after_any_step_changes_nothing(
    uninterrupted: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop at four different steps, one of them inside the second phase, each with a state on disk."""
    run = Run(tmp_path / "stopped")
    monkeypatch.setattr("robustcodec.lab.training._SAVE_SECONDS", 0.0)
    order: Order | None = Order(recipe=recipe(), data=pictures)
    for stop in (1, 13, 24, 33):
        save = Run.save

        def save_and_stop(self: Run, state: State, stop: int = stop, save: object = save) -> None:
            save(self, state)  # type: ignore[operator]
            if state.step == stop:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Run, "save", save_and_stop)
            with pytest.raises(KeyboardInterrupt):
                train(run, order, quiet, quiet)
        order = None
    train(run, None, quiet, quiet)
    assert digest(run) == digest(uninterrupted)
    steps = [record["step"] for record in run.records()]
    assert steps == [record["step"] for record in uninterrupted.records()]


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_as_if_it_had_not(
    uninterrupted: Run, pictures: Path, tmp_path: Path
) -> None:
    run = Run(tmp_path / "asked")
    answers = iter([False] * 16 + [True])
    assert not train(run, Order(recipe=recipe(), data=pictures), quiet, quiet, lambda: next(answers))
    state = run.load()
    assert state is not None and state.step == 17
    assert train(run, None, quiet, quiet)
    assert digest(run) == digest(uninterrupted)
    assert [record["step"] for record in run.records()] == [record["step"] for record in uninterrupted.records()]


def test_only_one_process_trains_in_a_folder(uninterrupted: Run, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(uninterrupted.folder, tmp_path / "run")
    program = """
import sys
from pathlib import Path
from robustcodec.lab.runs import Run
with Run(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        for order in (None, Order(recipe=recipe(), data=pictures)):
            with pytest.raises(TrainingError, match="another process is training in"):
                train(Run(tmp_path / "run"), order, quiet, quiet)
        other.kill()
    assert train(Run(tmp_path / "run"), None, quiet, quiet)


def test_a_run_goes_on_with_its_own_pictures_only(uninterrupted: Run, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "pictures")
    run = Run(tmp_path / "run")
    order = Order(recipe=recipe(1), data=tmp_path / "pictures")
    train(run, order, quiet, quiet)
    shutil.copy(pictures / "0.png", tmp_path / "pictures" / "6.png")
    for again in (order, None):
        with pytest.raises(TrainingError, match=r"are not those that .* was begun with; put those back"):
            train(run, again, quiet, quiet)
    settings = json.loads((run.folder / "run.json").read_text())
    assert len(settings.pop("pictures")) == 64
    (run.folder / "run.json").write_text(json.dumps(settings))  # as before there was a digest
    assert train(run, None, quiet, quiet)


def test_a_kill_inside_a_checkpoint_write_changes_nothing(uninterrupted: Run, pictures: Path, tmp_path: Path) -> None:
    """Kill -9 a real process again and again, half of the times while it writes its state."""
    folder = tmp_path / "killed"
    run = Run(folder)
    program = f"""
import sys, time
from pathlib import Path
import robustcodec.lab.training as training, robustcodec.lab.runs as runs
from robustcodec.lab.recipe import Recipe
from robustcodec.lab.train import Order, train
training._SAVE_SECONDS = 0.0
slow = sys.argv[1] == "slow"
replace = runs._replace
def slow_replace(path, data):
    # write half, tell, and linger: the kill comes here
    temporary = path.with_name("." + path.name + ".new")
    temporary.write_bytes(data[: len(data) // 2])
    if run.exists and path.name == "state.safetensors":
        print("writing", flush=True)
        time.sleep(0.2)
    replace(path, data)
if slow:
    runs._replace = slow_replace
run = runs.Run(Path({str(folder)!r}))
order = None if run.exists else Order(recipe=Recipe.from_json(Path({str(tmp_path / "recipe.json")!r}).read_text()),
                                      data=Path({str(pictures)!r}))
train(run, order, lambda _: None, lambda _: None)
"""
    (tmp_path / "recipe.json").write_text(recipe().to_json())
    for attempt in range(4):
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program, "slow" if attempt % 2 else "fast"], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        if attempt % 2:
            for _ in range(2 + attempt):
                process.stdout.readline()
        else:
            deadline = time.monotonic() + 60
            while not (folder / "run.json").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.15)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert run.load() is not None
    interrupted = run.load()
    assert interrupted is not None and 0 < interrupted.step < STEPS
    train(run, None, quiet, quiet)
    assert digest(run) == digest(uninterrupted)


def test_an_order_for_an_existing_run_must_be_the_same(uninterrupted: Run, pictures: Path) -> None:
    before = digest(uninterrupted)
    train(uninterrupted, Order(recipe=recipe(), data=pictures), quiet, quiet)
    assert digest(uninterrupted) == before
    with pytest.raises(TrainingError, match="other settings"):
        train(uninterrupted, Order(recipe=recipe(STEPS + 1), data=pictures), quiet, quiet)


def test_hours_become_steps_once(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def seconds(*_: object, **__: object) -> float:
        measured.append(1)
        return 3.6

    monkeypatch.setattr("robustcodec.lab.train.seconds_per_step", seconds)
    run = Run(tmp_path / "timed")
    order = Order(recipe=recipe(), data=pictures, hours=0.02)
    train(run, order, quiet, quiet)
    train(run, order, quiet, quiet)
    assert run.settings().recipe.steps == 20
    assert measured == [1]
    for other in (dataclasses.replace(order, hours=0.04), dataclasses.replace(order, recipe=recipe(20), hours=None)):
        with pytest.raises(TrainingError, match="other settings"):
            train(run, other, quiet, quiet)


def test_a_run_of_so_many_steps_is_none_of_so_many_hours(uninterrupted: Run, pictures: Path) -> None:
    with pytest.raises(TrainingError, match="other settings"):
        train(uninterrupted, Order(recipe=recipe(), data=pictures, hours=0.01), quiet, quiet)


def test_held_out_pictures_are_not_trained_on(uninterrupted: Run) -> None:
    training, validation = split_pictures(uninterrupted.settings())
    assert validation and training
    assert not set(training) & set(validation)


@pytest.mark.parametrize(
    "hardening", [None, Hardening(method=Method.FAST, bpp_share=0.5, bpp_steps=1, dead_zones=True)]
)
def test_a_diverged_run_stops_and_keeps_its_state(hardening: Hardening | None, pictures: Path, tmp_path: Path) -> None:
    wild = Recipe(
        steps=60,
        channels=(8, 12),
        phases=(Phase(share=1.0, rate_from=1e15, rate_to=1e15, batch=2, crop=64),),
        hardening=hardening,
    )
    run = Run(tmp_path / "wild")
    with pytest.raises(TrainingError, match="diverged"):
        train(run, Order(recipe=wild, data=pictures), quiet, quiet)
    state = run.load()
    assert state is not None and all(torch.isfinite(tensor).all() for tensor in state.weights.values())


def test_a_picture_that_comes_out_exactly_is_no_divergence() -> None:
    class Exact(Hyper):
        def synthesise(self, y_hat: torch.Tensor) -> torch.Tensor:
            return torch.ones(y_hat.shape[0], 3, 64, 64)

    figures = validate(Exact(8, 12), torch.stack([torch.ones(3, 64, 64), torch.zeros(3, 64, 64)]), recipe(1))
    assert figures["validation_psnr"] == pytest.approx((100 + 0) / 2) and math.isfinite(figures["validation_J"])


def test_a_damaged_state_is_refused(pictures: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "damaged")
    train(run, Order(recipe=recipe(1), data=pictures), quiet, quiet)
    path = run.folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="damaged"):
        train(run, None, quiet, quiet)


def altered(run: Run, folder: Path, **changes: object) -> Run:
    """Copy a run, with changes to its state."""
    shutil.copytree(run.folder, folder)
    copy = Run(folder)
    state = copy.load()
    assert state is not None
    copy.save(dataclasses.replace(state, **changes))  # type: ignore[arg-type]
    return copy


def test_a_state_of_another_network_is_refused(uninterrupted: Run, tmp_path: Path) -> None:
    state = uninterrupted.load()
    assert state is not None
    name, tensor = next(iter(state.weights.items()))
    short = {other: tensor for other, tensor in state.weights.items() if other != name}
    moments = state.moments["g_a.0.weight"]
    changes: list[dict[str, object]] = [
        {"weights": short},
        {"average": {**short, name: tensor[:1]}},
        {"moments": {**state.moments, "g_a.0.weight": {**moments, "exp_avg": moments["exp_avg"][:1]}}},
        {"moments": {**state.moments, "g_a.0.weight": {"exp_avg": moments["exp_avg"]}}},
        {"moments": {"g_a.9.weight": moments}},
    ]
    for index, change in enumerate(changes):
        run = altered(uninterrupted, tmp_path / str(index), **change)
        with pytest.raises(TrainingError, match="damaged: its tensors are not those of its network"):
            train(run, None, quiet, quiet)


def test_a_state_beyond_the_run_is_refused(uninterrupted: Run, tmp_path: Path) -> None:
    run = altered(uninterrupted, tmp_path / "run", step=STEPS + 5)
    with pytest.raises(TrainingError, match=f"state of step {STEPS + 5}, but its run has {STEPS} steps"):
        train(run, None, quiet, quiet)
    for change in ({"step": -1}, {"seconds": float("nan")}):
        with pytest.raises(TrainingError, match="damaged"):
            altered(uninterrupted, tmp_path / str(change), **change).load()


def test_a_trained_state_without_settings_is_not_overwritten(
    uninterrupted: Run, pictures: Path, tmp_path: Path
) -> None:
    run = altered(uninterrupted, tmp_path / "run")
    (run.folder / "run.json").unlink()
    with pytest.raises(TrainingError, match=rf"holds a state of step {STEPS} but no run\.json"):
        train(run, Order(recipe=recipe(), data=pictures), quiet, quiet)
    assert digest(run) == digest(uninterrupted)


def test_damaged_lines_of_a_log_are_left_out(uninterrupted: Run, tmp_path: Path) -> None:
    run = altered(uninterrupted, tmp_path / "run")
    log = run.folder / "log.jsonl"
    damaged = [b"garbage", b"\0" * 40, b"[1]", b"{}", b'{"step": "1"}', b"\xff\xfe", b"", b"[" * 100_000]
    log.write_bytes(b"\n".join(damaged) + b"\n" + log.read_bytes() + b'{"step": 3')
    assert run.records() == uninterrupted.records()
    assert train(run, None, quiet, quiet)
    assert log.read_bytes() == (uninterrupted.folder / "log.jsonl").read_bytes()


def test_a_curve_is_drawn_of_what_is_whole(
    uninterrupted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    script = Path(__file__).parents[2] / "scripts" / "curve.py"
    for lines, count in (((uninterrupted.folder / "log.jsonl").read_bytes() + b'{"step": 3', 1), (b"", 0)):
        log.write_bytes(lines)
        monkeypatch.setattr("sys.argv", [str(script), str(tmp_path), "--rows", "1"])
        with nullcontext() if count else pytest.raises(SystemExit, match="no validation"):
            runpy.run_path(str(script), run_name="__main__")
        assert capsys.readouterr().out.count(f"| {tmp_path.name} |") == count


def test_a_name_that_weights_cannot_be_read_from_is_refused(pictures: Path, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xff"))
    with pytest.raises(TrainingError, match="is not UTF-8"):
        train(Run(folder), Order(recipe=recipe(1), data=pictures), quiet, quiet)
    assert not folder.exists()


def test_the_arithmetic_of_a_run_is_settled_when_it_begins(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, order = Run(tmp_path / "run"), Order(recipe=recipe(1), data=pictures)
    for supported in (True, False):  # begun on one machine, repeated on another
        monkeypatch.setattr("robustcodec.lab.precision._has_bfloat16", lambda _, supported=supported: supported)
        assert train(run, order, quiet, quiet)
        assert run.settings().recipe.precision is Precision.BFLOAT16
    other = dataclasses.replace(order, recipe=dataclasses.replace(order.recipe, precision=Precision.FLOAT32))
    with pytest.raises(TrainingError, match="other settings"):
        train(run, other, quiet, quiet)


@pytest.mark.parametrize("hours", [None, 1.0])
def test_too_little_memory_to_train_is_said_in_a_line(
    hours: float | None, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starve(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr("robustcodec.lab.training.draw_batch", starve)
    order = Order(recipe=dataclasses.replace(recipe(1), start=Start.CONVENTIONAL), data=pictures, hours=hours)
    with pytest.raises(LimitExceeded, match="smaller batches or crops"):
        train(Run(tmp_path / "run"), order, quiet, quiet)


def test_pictures_that_do_not_fit_into_memory_are_not_read(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustcodec.lab.train.available_memory", lambda: 10_000)
    monkeypatch.setattr("robustcodec.lab.train.read_pictures", None)
    with pytest.raises(LimitExceeded, match=r"take 0\.0 GB of memory while they are read, and 0\.0 GB are available"):
        train(Run(tmp_path / "run"), Order(recipe=recipe(1), data=pictures), quiet, quiet)


def test_a_state_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails half-way leaves the old content under the name."""
    path = tmp_path / "state"
    runs._replace(path, b"old")

    def fail(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("robustcodec.lab.runs.os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        runs._replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(TrainingError, match="No space left on device; the one before it is whole"):
        Run(tmp_path).save(State(1, 1.0, {}, {}, {}))


def test_pictures_that_cannot_be_read_are_named_counted_and_left_out(pictures: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes((pictures / "0.png").read_bytes()[:500])
    missing = tmp_path / "missing.png"
    said: list[str] = []
    read = read_pictures([pictures / "0.png", cut, missing, pictures / "1.png"], said.append)
    assert [picture.shape for picture in read] == [(96, 112, 3)] * 2
    assert said[0].startswith(f"left out {cut}: the PNG picture is damaged")
    assert said[1:] == [
        f"left out {missing}: No such file or directory",
        "left out 2 of 4 pictures",
    ]
    with pytest.raises(TrainingError, match=f"none of 1 pictures can be read; {re.escape(str(cut))}: the PNG"):
        read_pictures([cut], quiet)


def test_pictures_of_all_kinds_that_commands_take_are_trained_on(pictures: Path, tmp_path: Path) -> None:
    names = [f"a{suffix}" for suffix in sorted(PICTURE_FORMATS)]
    for name in names:
        shutil.copy(pictures / "0.png", tmp_path / name)
    assert [path.name for path in picture_files(tmp_path)] == names


def test_small_pictures_are_counted_and_one_is_named(pictures: Path, tmp_path: Path) -> None:
    for name, side in (("a", 40), ("b", 95)):
        pixels = np.zeros((side, 120, 3), np.uint8)
        (tmp_path / f"{name}.png").write_bytes(write_picture(Picture(pixels=pixels), "PNG"))
    said: list[str] = []
    files = [pictures / "0.png", tmp_path / "a.png", tmp_path / "b.png"]
    assert [picture.shape for picture in read_pictures(files, said.append, 96)] == [(96, 112, 3)]
    assert said == [f"left out 2 of 3 pictures, which are smaller than 96x96, such as {tmp_path / 'a.png'}"]
    assert read_pictures(files[1:], quiet, 96) == []
    with pytest.raises(TrainingError, match="no picture is at least 96 pixels wide and high"):
        Pool.of(read_pictures(files[1:], quiet, 96), 96, torch.device("cpu"))


def test_pictures_that_are_too_large_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, side in (("a", 40), ("b", 64)):
        picture = Picture(pixels=np.zeros((side, side, 3), np.uint8))
        (tmp_path / f"{name}.png").write_bytes(write_picture(picture, "PNG"))
    monkeypatch.setattr("robustcodec.lab.data._MAX_PIXELS", 2000)
    said: list[str] = []
    (kept,) = read_pictures(picture_files(tmp_path), said.append)
    assert kept.shape == (40, 40, 3)
    assert said[0].startswith(f"left out {tmp_path / 'b.png'}: it has 64 x 64 pixels")
    assert said[1] == "left out 1 of 2 pictures"


def test_one_small_picture_does_not_make_all_validation_crops_small(uninterrupted: Run, tmp_path: Path) -> None:
    for index, size in enumerate([(140, 150), (70, 90), (130, 300)]):
        data = write_picture(Picture(pixels=np.zeros((*size, 3), np.uint8)), "PNG")
        (tmp_path / f"{index}.png").write_bytes(data)
    said: list[str] = []
    settings = dataclasses.replace(uninterrupted.settings(), validation=str(tmp_path))
    assert validation_crops(settings, said.append).shape == (2, 3, 128, 128)
    assert said == [f"left out 1 of 3 pictures, which are smaller than 128x128, such as {tmp_path / '1.png'}"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP", "AVIF", "TIFF", "PPM"])
@pytest.mark.parametrize("head", [8, 1 << 16])
def test_sizes_come_from_headers(kind: str, head: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustcodec.lab.data._HEAD", head)
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.write_bytes(write_picture(Picture(pixels=noise), kind, 90))
    cut.write_bytes(b"\x89PNG")
    assert picture_sizes([cut, whole, tmp_path / "missing"]) == [(300, 200)]


def test_the_bytes_of_a_pool_are_known_from_sizes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (701, 100, 3), np.uint8)
    pictures = [noise, noise[:90], noise[:60]]
    pool = Pool.of(pictures, 64, torch.device("cpu"))
    assert pool_bytes([picture.shape[:2] for picture in pictures], 64) == pool.pixels.numel()


def test_crops_are_exact_pixels_of_their_picture() -> None:
    """A picture of distinct colours: each crop, turned back, must be found in it."""
    rows, columns = np.mgrid[:80, :70].astype(np.uint8)
    picture = np.stack([rows, columns, rows ^ columns], axis=2)
    pool = Pool.of([picture], 64, torch.device("cpu"))
    seen = set()
    crops = pool.draw(64, 64, torch.Generator().manual_seed(1))
    for crop in (crops * 255).round().byte().permute(0, 2, 3, 1).numpy():
        for turn in range(8):
            turned = crop.transpose(1, 0, 2) if turn & 4 else crop
            turned = turned[::-1] if turn & 2 else turned
            turned = turned[:, ::-1] if turn & 1 else turned
            top, left = int(turned[0, 0, 0]), int(turned[0, 0, 1])
            if top + 64 <= 80 and left + 64 <= 70 and (turned == picture[top : top + 64, left : left + 64]).all():
                seen.add(turn)
                break
        else:
            raise AssertionError("a crop that is no part of its picture")
    assert len(seen) == 8


def test_a_batch_depends_on_seed_and_step_alone(pictures: Path) -> None:
    random = np.random.default_rng(3)
    pool = Pool.of([random.integers(0, 256, (90, 90, 3), np.uint8)], 64, torch.device("cpu"))
    one, again, other = (
        draw_batch(recipe(), recipe().phases[0], step, pool, torch.device("cpu")) for step in (5, 5, 6)
    )
    assert torch.equal(one.x, again.x) and torch.equal(one.step, again.step)
    assert not torch.equal(one.x, other.x)


def test_qualities_are_drawn_within_their_range() -> None:
    step, lambdas = draw_qualities(recipe(), 400, torch.Generator().manual_seed(0))
    assert step[:100].eq(1.0).all()
    assert step.min() >= high_rate_step(6.0) and step.max() <= high_rate_step(1.0)
    assert step[100:].log().std() > 0.3
    assert torch.allclose(lambdas, lagrangian(4.0) / step**2)


def test_the_loss_is_rate_plus_weighted_distortion() -> None:
    """Against the parts, computed apart with the same noise."""
    torch.manual_seed(0)
    network = Hyper(8, 12)
    pool = Pool.of([np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)], 64, torch.device("cpu"))

    def batch() -> object:
        return draw_batch(recipe(), recipe().phases[0], 1, pool, torch.device("cpu"))

    first = batch()
    terms = rate_distortion(network, first)  # type: ignore[arg-type]
    second = batch()
    with torch.no_grad():
        coded = network(second.x, second.step, *second.quantisers())  # type: ignore[attr-defined]
        mse = ((coded.x_hat - second.x) ** 2).mean((1, 2, 3))  # type: ignore[attr-defined]
        cost = coded.bits / 64**2 + second.lagrangian * 65025 * mse  # type: ignore[attr-defined]
        expected = (cost * second.step).mean()  # type: ignore[attr-defined]
    assert torch.allclose(terms.loss, expected, rtol=1e-5)


def test_centre_crops_are_the_middle() -> None:
    picture = np.zeros((70, 80, 3), np.uint8)
    picture[3:67, 8:72] = 255
    assert centre_crops([picture], 64).eq(1.0).all()
    with pytest.raises(TrainingError, match="64 pixels"):
        centre_crops([picture[:60]], 64)

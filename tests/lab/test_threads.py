"""Threads of torch: as many as the process may use, whose quota torch does not know, or as many as are asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from robustcodec import processors
from robustcodec.cli import app
from robustcodec.codec import Codec
from robustcodec.images import Picture, write_picture
from robustcodec.lab import harden, hardening_estimate, runs
from robustcodec.lab.evaluation import contenders
from robustcodec.lab.recipe import from_start
from robustcodec.lab.runs import threads_for
from robustcodec.lab.train import Order, _settings


@pytest.fixture
def quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight processors whose control group grants three, where torch would take four."""
    monkeypatch.setattr(processors.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(runs, "usable_threads", lambda: 3)
    torch.set_num_threads(4)


@pytest.fixture
def picture(tmp_path: Path, make_sample: Callable[..., NDArray[np.uint8]]) -> Path:
    path = tmp_path / "pictures" / "a.png"
    path.parent.mkdir()
    path.write_bytes(write_picture(Picture(pixels=make_sample(64, 64, 7)), "PNG"))
    return path


@pytest.mark.usefixtures("quota")
def test_a_quota_cuts_what_torch_would_take() -> None:
    assert [threads_for(wanted) for wanted in (None, 1, 4, 9999)] == [3, 1, 4, 8]
    torch.set_num_threads(2)  # as OMP_NUM_THREADS says
    assert threads_for(None) == 2


@pytest.mark.usefixtures("quota")
@pytest.mark.parametrize(("asked", "expected"), [([], 3), (["--threads", "2"], 2)])
@pytest.mark.parametrize("command", ["attack", "evaluate"])
def test_attacks_keep_to_it(
    command: str, asked: list[str], expected: int, picture: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def codec(bundle: Any, threads: int | None) -> Codec:
        opened.append(threads)
        return Codec(bundle, 1)

    monkeypatch.setattr(contenders, "Codec", codec)
    out = str(picture.parent.parent / "out")
    arguments = {
        "attack": [str(picture), "--method", "noise", "-m", str(tiny_path), "-o", f"{out}/", "--device", "cpu"],
        "evaluate": ["--data", str(picture.parent), "--attacks", "noise:psnr", "--models", str(tiny_path), "-o", out],
    }[command]
    done = CliRunner().invoke(app, [command, *arguments, *asked])
    assert done.exit_code == 0, (done.output, done.exception)
    assert torch.get_num_threads() == expected
    assert opened == [int(asked[1]) if asked else None]  # which the codec cuts itself


@pytest.mark.usefixtures("quota")
def test_a_new_run_keeps_to_it(picture: Path) -> None:
    assert _settings(Order(recipe=from_start(1), data=picture.parent)).threads == 3


@pytest.mark.usefixtures("quota")
@pytest.mark.parametrize("what", [harden.harden, hardening_estimate.estimate])
def test_hardening_keeps_to_it(what: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    class _Enough(Exception):
        pass

    def enough(*_: object) -> None:
        raise _Enough

    monkeypatch.setattr(harden, "_stages", enough)
    monkeypatch.setattr(hardening_estimate, "load_weights", enough)

    class Request:
        init = None

    with pytest.raises(_Enough):
        what(Request, lambda _: None)
    assert torch.get_num_threads() == 3

"""The recipe of examples/dask: a real cluster on this machine, files found by fsspec, good and bad pictures."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from robustcodec.codec import Codec
from robustcodec.images import Picture, write_picture

pytest.importorskip("distributed")

ROOT = Path(__file__).parent.parent
Pixels = NDArray[np.uint8]


def test_a_local_cluster_encodes_a_folder(
    tmp_path: Path, codec: Codec, tiny_path: Path, make_sample: Callable[..., Pixels]
) -> None:
    pictures = {name: Picture(pixels=make_sample(40, 50, seed)) for seed, name in enumerate(("a.png", "deep/b.png"))}
    for name, picture in pictures.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(write_picture(picture, "PNG"))
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    (tmp_path / "in" / "notes.txt").write_bytes(b"left alone")
    environment = {**os.environ, "ROBUSTCODEC_MODELS": str(tiny_path.parent), "PYTHONPATH": str(ROOT)}

    def run() -> tuple[int, dict[str, dict[str, object]]]:
        command = [sys.executable, "examples/dask/encode.py", "local", f"file://{tmp_path}/in", f"{tmp_path}/out"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode in (0, 1), done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return done.returncode, {row.pop("input").removeprefix(f"file://{tmp_path}/in/"): row for row in rows}

    code, rows = run()
    assert code == 1 and rows.keys() == {"a.png", "deep/b.png", "bad.png"}
    assert "no picture in a known format" in str(rows["bad.png"]["error"])
    for name, picture in pictures.items():
        data = (tmp_path / "out" / f"{name}.rbc").read_bytes()
        assert data == codec.encode(picture).data
        assert rows[name] == {"output": f"{tmp_path}/out/{name}.rbc", "bytes": len(data)}
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["a.png.rbc", "b.png.rbc"]
    (tmp_path / "in" / "bad.png").unlink()
    assert run() == (0, {})

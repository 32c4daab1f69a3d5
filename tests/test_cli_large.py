"""The options for large and damaged pictures, on real files: --max-memory, --region, --salvage."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from regenerate import sample
from typer.testing import CliRunner, Result

from robustcodec import codec as codec_module
from robustcodec import memory
from robustcodec.cli import app
from robustcodec.codec import Codec
from robustcodec.container import Limits, unpack
from robustcodec.errors import RobustcodecError, UsageError
from robustcodec.images import Picture, read_picture, write_picture


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: Codec, tiny_path: Path) -> Iterator[Path]:
    """A folder, the current one, with a picture and its file in three strips."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tiny_path))
    monkeypatch.setattr(codec_module, "STRIP_ABOVE", 1)
    monkeypatch.setattr(codec_module, "STRIP_ROWS", 64)
    pixels = sample(150, 90, 2)
    Path("a.png").write_bytes(write_picture(Picture(pixels=pixels), "PNG"))
    Path("a.rbc").write_bytes(codec.encode(Picture(pixels=pixels)).data)
    yield tmp_path
    assert not list(tmp_path.glob(".robustcodec*"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def decoded(name: str) -> np.ndarray:
    return read_picture(Path(name).read_bytes(), max_pixels=1 << 20).pixels


def test_a_region_is_decoded(here: Path, codec: Codec) -> None:
    done = run("decode", "a.rbc", "-o", "b.png", "--region", "10,70,50,9", "--json")
    assert done.exit_code == 0, done.output
    whole = codec.decode(Path("a.rbc").read_bytes()).pixels
    assert np.array_equal(decoded("b.png"), whole[70:79, 10:60])
    row = json.loads(done.stdout)
    assert (row["width"], row["height"]) == (50, 9)
    assert row["bpp"] == row["bytes"] * 8 / (90 * 150)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,0,1,1", "-1,0,1,1", "0,0,0,1", "1.5,0,1,1"])
def test_what_is_no_region_is_refused(here: Path, text: str) -> None:
    done = run("decode", "a.rbc", "--region", text)
    assert isinstance(done.exception, UsageError) and "is no region" in str(done.exception)


def test_options_that_do_not_go_together(here: Path) -> None:
    done = run("decode", "a.rbc", "--region", "0,0,1,1", "--salvage")
    assert isinstance(done.exception, UsageError) and "exclude each other" in str(done.exception)
    done = run("decode", "a.rbc", "--region", "0,0,91,1", "-o", "c.png")
    assert done.exit_code == 1 and "does not lie within the picture of 90x150" in done.stderr


def test_what_is_left_of_a_damaged_file(here: Path, codec: Codec) -> None:
    data = bytearray(Path("a.rbc").read_bytes())
    at = bytes(data).index(unpack(bytes(data)).payload[1])
    data[at + 30] ^= 4
    Path("bad.rbc").write_bytes(data)
    assert run("decode", "bad.rbc").exit_code == 1
    assert not Path("bad.png").exists()
    done = run("decode", "--salvage", "bad.rbc", "a.rbc", "--json", "-o", "out/")
    message = (
        "the file is damaged: rows 64 to 127 are lost and grey, and up to 32 beside them inexact; "
        "get another copy if you can"
    )
    assert done.exit_code == 1
    assert f"robustcodec: error: bad.rbc: {message}" in done.stderr.splitlines()
    bad, good = (json.loads(line) for line in done.stdout.splitlines())
    assert bad["error"] == message and "error" not in good
    assert (decoded("out/bad.png")[64:128] == 128).all()
    assert np.array_equal(decoded("out/a.png"), codec.decode(Path("a.rbc").read_bytes()).pixels)
    assert run("decode", "--salvage", "a.rbc", "-o", "c.png").exit_code == 0
    data[bytes(data).index(unpack(Path("a.rbc").read_bytes()).payload[2]) + 30] ^= 4
    Path("worse.rbc").write_bytes(data)
    assert "rows 64 to 149 are lost and grey" in run("decode", "--salvage", "worse.rbc", "-o", "c.png").stderr
    Path("longer.rbc").write_bytes(Path("a.rbc").read_bytes() + b"x")
    done = run("decode", "--salvage", "longer.rbc", "-o", "c.png")
    assert done.exit_code == 1 and "longer.rbc: its pixels are intact but the file should end after" in done.stderr


def test_memory_has_a_limit(here: Path, codec: Codec) -> None:
    data = Path("a.rbc").read_bytes()
    to_decode = memory.to_decode(unpack(data).header, len(data), codec.demand)
    to_encode = codec.memory_to_encode(90, 150)
    for command, needed, output in (("decode", to_decode, "b.png"), ("encode", to_encode, "b.rbc")):
        source = "a.rbc" if command == "decode" else "a.png"
        done = run(command, source, "-o", output, "--max-memory", str(needed - 1))
        assert done.exit_code == 1
        assert f"this may take {needed:,} bytes of memory but {needed - 1:,} are allowed" in done.stderr
        assert not Path(output).exists()
        assert run(command, source, "-o", output, "--max-memory", str(needed)).exit_code == 0
    done = run("info", "-v", "a.rbc")
    assert f"  memory to decode: at most {to_decode:,} bytes" in done.stdout.splitlines()
    work = memory.multiplications(90, 150, codec.demand)
    assert f"  work to decode: at most {work:,} multiplications" in done.stdout.splitlines()
    row = json.loads(run("info", "--json", "a.rbc").stdout)
    assert (row["memory"], row["multiplications"]) == (to_decode, work)


def test_the_bytes_of_a_file_are_memory_too(here: Path, codec: Codec) -> None:
    Path("long.png").write_bytes(Path("a.png").read_bytes().ljust(3_000_000, b"\0"))
    needed = codec.memory_to_encode(90, 150) + 3_000_000 - 3 * 90 * 150
    done = run("encode", "long.png", "-o", "b.rbc", "--max-memory", str(needed - 1))
    assert done.exit_code == 1
    assert f"this may take {needed:,} bytes of memory but {needed - 1:,} are allowed" in done.stderr
    assert run("encode", "long.png", "-o", "c.rbc", "--max-memory", str(needed)).exit_code == 0
    Path("small.webp").write_bytes(write_picture(Picture(pixels=np.zeros((150, 90, 3), np.uint8)), "WebP"))
    needed = codec.memory_to_encode(90, 150) + 12 * 90 * 150
    done = run("encode", "small.webp", "-o", "b.rbc", "--max-memory", str(needed - 1))
    assert f"this may take {needed:,} bytes of memory but {needed - 1:,} are allowed" in done.stderr
    Path("none.rbc").touch()
    for name in ("long.png", "none.rbc"):
        os.truncate(name, 300_000_000)  # which takes no place on a disk
    done = run("encode", "long.png", "-o", "b.rbc", "--max-memory", "200M")
    assert done.exit_code == 1
    assert f"long.png has more than {200_000_000 - (150 << 20)} bytes, the most that the limits allow" in done.stderr
    done = run("decode", "none.rbc", "-o", "b.png", "--max-memory", "200M")
    assert done.exit_code == 1
    assert "this is not a robustcodec file" in done.stderr
    assert not Path("b.rbc").exists() and not Path("b.png").exists()


def test_memory_is_limited_before_pixels_are_decoded(here: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    def admit(width: int, height: int) -> None:
        raise RobustcodecError(f"{width}x{height}")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    with pytest.raises(RobustcodecError, match=r"^90x150$"):
        read_picture(Path("a.png").read_bytes(), 1 << 20, admit=admit)
    assert Limits().max_memory is None

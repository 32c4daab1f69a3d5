"""The real command line on real files, each command a process of its own: what it does, and what bad input gets."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from robustcodec import container
from robustcodec.bundle import ANALYSIS, ENTROPY, LAB, MANIFEST, SYNTHESIS, manifest_document, open_bundle, write_bundle
from robustcodec.codec import Codec, _Prepared
from robustcodec.contract import VERSION
from robustcodec.images import Picture, read_picture, write_picture
from robustcodec.metrics import bits_per_pixel, psnr
from robustcodec.strips import Strip

ROOT = Path(__file__).parent.parent
MAX_PIXELS = 1 << 20
Pixels = NDArray[np.uint8]
Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="session")
def pixels(make_sample: Callable[..., Pixels]) -> Pixels:
    return make_sample(72, 104, 7)


@pytest.fixture(scope="session")
def png(pixels: Pixels) -> bytes:
    return write_picture(Picture(pixels=pixels), "PNG")


@pytest.fixture(scope="session")
def rbc(codec: Codec, pixels: Pixels) -> bytes:
    return codec.encode(Picture(pixels=pixels)).data


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, png: bytes) -> Iterator[Path]:
    """An empty folder, the current one, with a.png."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("a.png").write_bytes(png)
    yield folder
    assert not list(tmp_path.rglob(".robustcodec*"))  # nothing half written, ever


@pytest.fixture
def run(tmp_path: Path, tiny_path: Path) -> Run:
    """Runs `robustcodec ...` with the tiny model and an empty home."""

    def call(
        *arguments: str, input: bytes = b"", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "ROBUSTCODEC_MODELS": str(tiny_path.parent),
            "XDG_DATA_HOME": str(tmp_path / "home"),
            **(env or {}),
        }
        command = [sys.executable, "-m", "robustcodec", *arguments]
        return subprocess.run(command, input=input, capture_output=True, env=environment, timeout=120, check=False)

    return call


def errors(done: subprocess.CompletedProcess[bytes], code: int = 1) -> list[str]:
    """The lines of a command that failed, each of which must be an error of ours."""
    lines = done.stderr.decode().splitlines()
    assert done.returncode == code, lines
    start = "robustcodec: error: "
    found = [line.removeprefix(start) for line in lines if line.startswith(start)]
    rest = [line for line in lines if not line.startswith(start)]
    assert all("->" in line or " done (" in line for line in rest), lines
    return found


def rows(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


# What the commands do.


def test_separate_processes_give_the_encoder_s_reconstruction(
    here: Path, run: Run, codec: Codec, pixels: Pixels, rbc: bytes
) -> None:
    done = run("encode", "a.png", "-q", "4", "--psnr", "--json", "--threads", "2")
    assert (done.returncode, done.stderr) == (0, b"")
    (row,) = rows(done)
    expected = codec.encode(Picture(pixels=pixels), measure=True)
    assert expected.reconstruction is not None
    assert Path("a.rbc").read_bytes() == expected.data == rbc
    assert row.pop("seconds") > 0  # type: ignore[operator]
    assert row == {
        "input": "a.png",
        "output": "a.rbc",
        "width": 104,
        "height": 72,
        "bytes": len(rbc),
        "bpp": bits_per_pixel(len(rbc), 104, 72),
        "model": "hyper-tiny",
        "quality": 4.0,
        "step": 1.0,
        "guard": None,
        "psnr": psnr(pixels, expected.reconstruction),
    }
    (told,) = rows(run("info", "a.rbc", "--json"))
    assert all(told[name] == row[name] for name in ("width", "height", "bytes", "bpp", "step", "model", "quality"))
    assert f" {told['fingerprint']} (hyper-tiny), step 1.000 (quality 4), ".encode() in run("info", "a.rbc").stdout
    (other,) = rows(run("info", "a.rbc", "--json", env={"ROBUSTCODEC_MODELS": ""}))
    assert (other["model"], other["quality"], other["step"]) == (None, None, 1.0)
    done = run("decode", "a.rbc", "-o", "b.png", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rows(done)[0]["format"] == "PNG"
    assert np.array_equal(read_picture(Path("b.png").read_bytes(), MAX_PIXELS).pixels, expected.reconstruction)


def test_pipes_carry_the_same_bytes(here: Path, run: Run, png: bytes, rbc: bytes, codec: Codec) -> None:
    encoded = run("encode", "-", "-o", "-", input=png)
    assert encoded.stdout == rbc
    decoded = run("decode", "-", "-o", "-", "--format", "ppm", input=encoded.stdout)
    assert np.array_equal(read_picture(decoded.stdout, MAX_PIXELS).pixels, codec.decode(rbc).pixels)
    assert names() == ["a.png"]


def test_folders_in_several_processes(here: Path, run: Run, png: bytes, rbc: bytes) -> None:
    for name in ("album/1.png", "album/deep/2.png", "album/deep/3.png", "album/notes.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(png)
    Path("album/deep/3.png").write_bytes(png[:500])
    done = run("encode", "-r", "album", "-o", "small", "--jobs", "2", "--json")
    (error,) = errors(done)
    assert "album/deep/3.png: the PNG picture is damaged" in error
    found = {row["input"]: row.get("output", row.get("error")) for row in rows(done)}
    assert found.pop("album/deep/3.png") in error
    assert found == {"album/1.png": "small/1.rbc", "album/deep/2.png": "small/deep/2.rbc"}
    assert Path("small/1.rbc").read_bytes() == Path("small/deep/2.rbc").read_bytes() == rbc
    assert not Path("small/deep/3.rbc").exists()

    done = run("decode", "-r", "small", "-o", "big", "--jobs", "2", "--format", "webp")
    assert done.returncode == 0
    assert done.stderr.decode().splitlines()[-1].startswith("2 done (")
    assert sorted(map(str, Path("big").rglob("*.webp"))) == ["big/1.webp", "big/deep/2.webp"]
    again = run("decode", "-r", "small", "-o", "big", "--format", "webp")
    assert (again.returncode, again.stderr.count(b"exists already, skipped")) == (0, 2)


def test_shards_do_a_folder_among_them(here: Path, run: Run, png: bytes, rbc: bytes) -> None:
    for name in ("album/1.png", "album/deep/2.png", "album/deep/3.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(png)
    Path("album/deep/3.png").write_bytes(png[:500])
    parts = [run("encode", "-r", "album", "-o", "small", "--shard", f"{index}/4", "--json") for index in (1, 2, 3, 4)]
    assert [(done.returncode, len(rows(done))) for done in parts] == [(0, 1), (0, 1), (1, 1), (0, 0)]
    assert b"nothing to do: other shards have all there is (3 files)" in parts[3].stderr
    merged = [json.loads(line) for line in b"".join(done.stdout for done in parts).splitlines()]
    assert [row["input"] for row in merged] == ["album/1.png", "album/deep/2.png", "album/deep/3.png"]
    assert Path("small/1.rbc").read_bytes() == Path("small/deep/2.rbc").read_bytes() == rbc
    again = [run("encode", "-r", "album", "-o", "small", "--shard", f"{index}/2", "--json") for index in (1, 2)]
    assert [[row.get("skipped") for row in rows(done)] for done in again] == [[True, None], [True]]
    done = [run("decode", "-r", "small", "-o", "big", "--shard", f"{index}/2") for index in (1, 2)]
    assert [each.returncode for each in done] == [0, 0]
    assert sorted(map(str, Path("big").rglob("*.png"))) == ["big/1.png", "big/deep/2.png"]


def test_targets_and_dry_run(here: Path, run: Run, rbc: bytes) -> None:
    (row,) = rows(run("encode", "a.png", "--target-size", "280", "--json", "--dry-run"))
    assert 277 <= row["bytes"] <= 280  # type: ignore[operator]
    (row,) = rows(run("encode", "a.png", "--target-bpp", "0.25", "--json", "--dry-run"))
    assert 0.2475 <= row["bpp"] <= 0.25  # type: ignore[operator]
    (row,) = rows(run("encode", "a.png", "--target-psnr", "34", "--psnr", "--json", "--dry-run"))
    assert row["psnr"] == pytest.approx(34, abs=0.1)
    (row,) = rows(run("encode", "a.png", "--dry-run", "--json"))
    assert (row["bytes"], row["output"]) == (len(rbc), "a.rbc")
    done = run("encode", "a.png", "--dry-run")
    assert done.stderr.startswith(f"would write a.png -> a.rbc: 104x72, {len(rbc)} bytes, ".encode())
    (error,) = errors(run("encode", "a.png", "--target-size", "30"))
    assert "at least" in error
    assert names() == ["a.png"]


def test_models_are_added_used_and_removed(here: Path, run: Run, tiny_path: Path, rbc: bytes) -> None:
    fingerprint = container.read_header(rbc)[0].fingerprint.hex()
    no_models = {"ROBUSTCODEC_MODELS": ""}
    Path("a.rbc").write_bytes(rbc)
    (error,) = errors(run("decode", "a.rbc", "-o", "b.png", env=no_models))
    assert f"made with model {fingerprint}, which is not installed; add" in error
    (error,) = errors(run("encode", "a.png", "-m", "hyper-tiny", env=no_models))
    assert "robustcodec models list" in error
    assert names() == ["a.png", "a.rbc"]

    assert b"added as hyper-tiny" in run("models", "add", str(tiny_path), env=no_models).stderr
    listed = {row["id"]: row for row in rows(run("models", "list", "--json", env=no_models))}
    assert [row["id"] for row in listed.values() if row["default"]] == ["hyper-robust"]
    own = listed["hyper-tiny"]
    assert (own["architecture"], own["qualities"]) == ("hyper", [1, 2, 3, 4, 5, 6])
    lines = run("models", "list", env=no_models).stdout.decode().splitlines()
    assert [line.split()[0] for line in lines if ", default  " in line] == ["hyper-robust"]
    assert all("  hyper, " in line or "  cheng, " in line for line in lines)
    assert listed["hyper-tiny"]["fingerprint"] == fingerprint
    assert run("models", "verify", "hyper-tiny", env=no_models).stdout.startswith(b"hyper-tiny: in order (")
    assert run("decode", "a.rbc", "-o", "b.png", env=no_models).returncode == 0
    done = run("encode", "a.png", "-m", fingerprint[:6], "-o", "-", env=no_models)
    assert done.stdout == rbc
    assert run("models", "remove", "hyper-tiny", env=no_models).returncode == 0
    assert run("models", "verify", "hyper-tiny", env=no_models).returncode == 1


def test_the_sample_photograph(here: Path, run: Run) -> None:
    assert run("sample").returncode == 0
    picture = read_picture(Path("sample.png").read_bytes(), MAX_PIXELS)
    assert (picture.width, picture.height) == (768, 512)
    Path("sample.png").write_bytes(b"mine")
    assert b"exists already, skipped" in run("sample").stderr
    assert Path("sample.png").read_bytes() == b"mine"
    assert run("sample", "-o", "-").stdout == (ROOT / "robustcodec" / "data" / "sample.png").read_bytes()


# What bad input gets: one line that says what and what to do, the right code, no output, and the other files done.


def test_bad_pictures(here: Path, run: Run, png: bytes, rbc: bytes) -> None:
    bad = {
        "empty.png": (b"", "the file is empty; give a picture"),
        "text.png": (b"no picture at all", "no picture in a known format"),
        "cut.png": (
            png[: len(png) // 2],
            "the PNG picture is damaged (image file is truncated); get a whole copy",
        ),
        "short.jpg": (write_picture(read_picture(png, MAX_PIXELS), "JPEG")[:900], "the JPEG picture is damaged"),
        "already.png": (rbc, "robustcodec file already; decode reads it"),
        "floats.tif": (floats(), "32 bits per sample, whose range"),
        "bomb.ppm": (b"P6 65000 65000 255\n" + bytes(100), "65000 x 65000 pixels, more than the limit"),
        "name\x1b[31m.png": (b"x", r"name\x1b[31m.png: this is no picture"),
    }
    for name, (data, _) in bad.items():
        Path(name).write_bytes(data)
    found = errors(run("encode", *bad, "missing.png", "a.png", "-o", "out/"))
    assert len(found) == len(bad) + 1
    for line, (name, (_, message)) in zip(found, bad.items(), strict=False):
        assert message in line
        assert name.split("\x1b")[0] in line
    assert "missing.png cannot be read: No such file or directory" in found[-1]
    assert sorted(os.listdir("out")) == ["a.rbc"]  # noqa: PTH208
    assert Path("out/a.rbc").read_bytes() == rbc


def test_hostile_names(here: Path, run: Run, png: bytes, rbc: bytes) -> None:
    """Control characters, markup, a line feed and a byte that is no UTF-8: kept in files, never sent to a terminal."""
    stem = b"x\x1b[2J\xff[red]<b>\n$(id)"
    name = os.fsdecode(stem + b".png")
    Path("in").mkdir()
    Path("in", name).write_bytes(png)
    Path("in", f"bad{name}").write_bytes(b"x")
    done = run("encode", "-r", "in", "-o", "out", "--json")
    (said,) = errors(done)
    assert said.startswith(r"in/badx\x1b[2J\xff[red]<b>\x0a$(id).png: this is no picture")
    bad, good = rows(done)
    assert base64.b64decode(str(good["output_b64"])) == b"out/" + stem + b".rbc"
    assert good["input"] == "in/x\x1b[2J\\xff[red]<b>\n$(id).png" and "error" in bad
    assert b"\x1b" not in done.stdout + done.stderr
    assert Path("out", os.fsdecode(stem + b".rbc")).read_bytes() == rbc
    done = run("decode", "-r", "out")
    assert done.returncode == 0 and b"\x1b" not in done.stderr and done.stderr.count(b"\n") == 1
    assert Path("out", name).exists()


def test_links_that_lead_nowhere_or_round_in_circles(here: Path, run: Run, rbc: bytes) -> None:
    Path("in").mkdir()
    Path("in/b.png").symlink_to("../a.png")
    Path("in/gone.png").symlink_to("nowhere")
    Path("in/round.png").symlink_to("round.png")
    Path("in/up").symlink_to("..", target_is_directory=True)
    Path("loop").symlink_to("loop")
    done = run("encode", "-r", "in", "-o", "out")
    found = errors(done)
    assert found == [
        "in/gone.png cannot be read: No such file or directory",
        "in/round.png cannot be read: Too many levels of symbolic links",
    ]
    assert [path.name for path in Path("out").iterdir()] == ["b.rbc"]
    for arguments, code, message in (
        (("encode", "loop"), 1, "loop cannot be read: Too many levels of symbolic links"),
        (("encode", "loop/a.png"), 1, "loop/a.png cannot be read: Too many levels of symbolic links"),
        (("encode", "-r", "loop"), 1, "loop cannot be read: Too many levels of symbolic links"),
        (("encode", "a.png", "-o", "loop/a.rbc"), 1, "loop is no folder, which -o needs there; choose another name"),
        (("encode", "a.png", "-o", "loop/deep/a.rbc"), 1, "the folder loop/deep does not exist; make it first"),
    ):
        assert errors(run(*arguments), code) == [message], arguments
    assert run("encode", "a.png", "-o", "loop").returncode == 0
    assert Path("loop").read_bytes() == rbc and not Path("loop").is_symlink()
    Path("loop").unlink()


def test_a_folder_without_pictures(here: Path, run: Run) -> None:
    Path("in/deep").mkdir(parents=True)
    Path("in/notes.txt").write_bytes(b"text")
    for command in ("encode", "decode"):
        done = run(command, "-r", "in", "-o", "out", "--json")
        assert (done.returncode, done.stdout) == (0, b"")
        assert done.stderr == (
            b"nothing to do: no file has a known suffix; name files to take them whatever they are called\n"
        )
    assert not Path("out").exists()


def test_more_pixels_than_allowed(here: Path, run: Run, png: bytes, rbc: bytes) -> None:
    """104x72 pixels, 112x80 of them with padding, in both directions."""
    Path("b.png").write_bytes(png)
    Path("c.rbc").write_bytes(rbc)
    (said,) = errors(run("encode", "a.png", "--max-pixels", "7487"))
    assert "104 x 72 pixels, more than the limit of 7487" in said
    (said,) = errors(run("encode", "a.png", "--max-pixels", "8959"))
    assert "has 8960 pixels with padding but 8959 are allowed" in said
    (said,) = errors(run("decode", "c.rbc", "--max-pixels", "8959"))
    assert "8959" in said
    assert names() == ["a.png", "b.png", "c.rbc"]
    assert run("encode", "a.png", "b.png", "--max-pixels", "8960").returncode == 0
    assert run("decode", "c.rbc", "--max-pixels", "8960").returncode == 0


def test_a_huge_profile_is_refused_until_it_is_stripped(here: Path, run: Run) -> None:
    profile = bytearray(20_000_000)
    profile[16:20], profile[36:40] = b"RGB ", b"acsp"
    Image.new("RGB", (9, 9)).save("profile.tif", icc_profile=bytes(profile))
    (said,) = errors(run("encode", "profile.tif"))
    assert "carries 20000000 bytes of metadata but 16777216 are allowed; strip it" in said
    assert run("encode", "profile.tif", "--strip-all").returncode == 0
    Image.new("RGB", (9, 9)).save("unpacked.png", icc_profile=bytes(profile))
    (said,) = errors(run("encode", "unpacked.png"))
    assert "carries a colour profile or a text of more than 1 MiB, which is not unpacked; take it out" in said


def floats() -> bytes:
    file = BytesIO()
    Image.new("F", (3, 2)).save(file, "TIFF")
    return file.getvalue()


def test_grey_transparent_and_small_pictures_from_end_to_end(here: Path, run: Run, pixels: Pixels) -> None:
    samples = np.dstack([pixels[..., 0], pixels[..., 1]])
    Image.fromarray(samples).save("sticker.png")
    (made,) = rows(run("encode", "sticker.png", "--json"))
    said = run("info", "sticker.rbc").stdout.decode()
    assert said.endswith(", grey, alpha\n")
    assert run("decode", "sticker.rbc", "-o", "back.png").returncode == 0
    with Image.open("back.png") as back:
        assert back.mode == "LA"
        assert np.array_equal(np.asarray(back)[..., 1], samples[..., 1])
    flat = run("decode", "sticker.rbc", "-o", "flat.jpg", "--quality", "40", "--max-side", "20")
    assert b"laid on white; use PNG to keep it" in flat.stderr
    with Image.open("flat.jpg") as preview:
        assert (preview.mode, max(preview.size)) == ("L", 20)
    assert made["width"] == pixels.shape[1]
    assert b"--quality is for AVIF, JPEG, WebP; PNG keeps" in run("decode", "sticker.rbc", "--quality", "9").stderr


def test_bad_files(here: Path, run: Run, rbc: bytes, png: bytes, tiny_path: Path) -> None:
    middle = len(rbc) // 2
    huge = container.Header(
        width=1 << 27, height=64, payload=container.Payload.NETWORK, step=1024, fingerprint=b"12345678"
    )
    unknown = container.Header(
        width=16, height=16, payload=container.Payload.NETWORK, step=1024, fingerprint=b"12345678"
    )
    exact = container.Header(width=16, height=16, payload=container.Payload.LOSSLESS)
    strip = container.Chunk(container.ChunkType.STRIP, bytes(20))
    bad = {
        "empty": (b"", "an empty file is not a robustcodec file"),
        "foreign": (png, "not a robustcodec file, since it begins with 89 50 4e 47"),
        "cut": (rbc[:-1], f"truncated: {len(rbc) - 1} of {len(rbc)} bytes"),
        "header": (rbc[:20], "truncated"),
        "flipped": (rbc[:middle] + bytes([rbc[middle] ^ 4]) + rbc[middle + 1 :], "checksum of chunk 0 (strip)"),
        "size": (rbc[:9] + bytes([rbc[9] ^ 1]) + rbc[10:], "checksum of the header"),
        "extended": (rbc + b"\0", f"should end after {len(rbc)} bytes"),
        "text-mode": (rbc.replace(b"\n", b"\r\n", 1), "transfer in text mode"),
        "newer": (rbc[:4] + b"\x20" + rbc[5:], "made by a newer release of robustcodec"),
        "exact": (
            container.pack(exact, [container.Chunk(container.ChunkType.LOSSLESS, bytes(20))]),
            "its picture cannot be read",
        ),
        "unknown": (container.pack(unknown, [strip]), "model 3132333435363738, which is not installed; add"),
        "huge": (container.pack(huge, [strip]), "are allowed; raise the limit"),
        "latents": (not_finite(explosive(tiny_path, Path("explosive"))), "no finite picture"),
        "message": (repaired(rbc, middle), "get"),
    }
    for name, (data, _) in bad.items():
        Path(f"{name}.rbc").write_bytes(data)
    Path("good.rbc").write_bytes(rbc)
    files = [f"{name}.rbc" for name in bad]
    models = os.pathsep.join(map(str, (tiny_path.parent, Path())))
    found = errors(run("decode", *files, "good.rbc", "-o", "out/", env={"ROBUSTCODEC_MODELS": models}))
    assert len(found) == len(bad)
    for line, (name, (_, message)) in zip(found, bad.items(), strict=True):
        assert line.startswith(f"{name}.rbc: ")
        assert message in line
    assert sorted(os.listdir("out")) == ["good.png"]  # noqa: PTH208

    without_model = errors(run("info", *files))
    assert [line.split(".rbc")[0] for line in without_model] == [
        name for name in bad if name not in ("exact", "unknown", "latents", "message")
    ]


def explosive(model: Path, folder: Path) -> Codec:
    """The tiny model with a synthesis so steep that large latents exceed what a float can hold."""
    bundle = open_bundle(model)
    synthesis = {**bundle.synthesis, "g_s.0.weight": bundle.synthesis["g_s.0.weight"] * np.float16(100)}
    parts = {ANALYSIS: bundle.analysis, SYNTHESIS: synthesis, ENTROPY: bundle.entropy, LAB: bundle.lab}
    return Codec(write_bundle(folder, manifest_document(bundle.manifest), parts), threads=1)


def not_finite(codec: Codec) -> bytes:
    """A file, sound in all else, whose latents are as large as the format can say."""
    n, m = codec.bundle.manifest.sizes
    z = np.zeros((n, 1, 1), np.int32)
    strip = Strip(
        np.full((m, 2, 2), 1e9, np.float32), z, codec._architecture.conditions(z, 2, 2), codec._architecture.dead_zones
    )
    picture = Picture(pixels=np.zeros((32, 32, 3), np.uint8))
    return codec._code(_Prepared(picture, 0, (strip,)), container.MAX_STEP).data


def repaired(data: bytes, position: int) -> bytes:
    """A file with a wrong byte in its entropy-coded message and every checksum of the container made good."""
    file = container.unpack(data)
    start = data.index(file.payload[0])
    strip = bytearray(file.payload[0])
    strip[position - start] ^= 0x10
    return container.pack(file.header, [container.Chunk(container.ChunkType.STRIP, bytes(strip))])


@pytest.mark.parametrize(
    ("part", "command"),
    [
        ("manifest.json", "encode"),
        ("analysis.safetensors", "encode"),
        ("entropy.safetensors", "encode"),
        ("entropy.safetensors", "decode"),
        ("synthesis.safetensors", "decode"),
    ],
)
@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_damaged_models(
    here: Path, run: Run, tiny_path: Path, rbc: bytes, part: str, command: str, damage: str
) -> None:
    Path("a.rbc").write_bytes(rbc)
    shutil.copytree(tiny_path, "model/tiny")
    damaged = Path("model/tiny", part)
    if damage == "missing":
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:-9] + b"#" + damaged.read_bytes()[-8:])
    source, target = ("a.png", "out.rbc") if command == "encode" else ("a.rbc", "out.png")
    (error,) = errors(run(command, source, "-o", target, "-m", "model/tiny"))
    assert (
        f"model/tiny is {'no model, since it has' if part + damage == 'manifest.jsonmissing' else 'damaged ('}" in error
    )
    assert part in error
    assert error.endswith(("; install it again", "of a CompressAI checkpoint with --data"))
    assert not Path(target).exists()


def test_a_damaged_model_is_found_by_verify_and_does_not_hide_others(here: Path, run: Run, tiny_path: Path) -> None:
    for name in ("1-cut", "2-flipped", "3-good"):
        shutil.copytree(tiny_path, Path("models", name))
    Path("models/1-cut/manifest.json").write_bytes(b'{"format": 1')
    flipped = Path("models/2-flipped/lab.safetensors")
    flipped.write_bytes(bytes(flipped.stat().st_size))  # the one part that encode and decode do without
    weights = Path("models/2-flipped/synthesis.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    environment = {"ROBUSTCODEC_MODELS": "models"}
    done = run("models", "verify", env=environment)
    cut, bad = errors(done)
    assert cut.startswith("the model in models/1-cut is damaged (manifest.json is not JSON")
    assert bad.startswith("the model in models/2-flipped is damaged (synthesis.safetensors does not match")
    assert b"hyper-tiny: in order (models/3-good)" in done.stdout
    listed = run("models", "list", env=environment)
    assert [line.split(" is damaged")[0] for line in errors(listed)] == ["the model in models/1-cut"]
    assert listed.stdout.count(b"hyper-tiny") == 2
    assert run("encode", "a.png", "-m", "hyper-tiny", env=environment).returncode == 0
    (error,) = errors(run("models", "add", "models/2-flipped", env=environment))
    assert "damaged" in error


def test_models_that_are_not_exact_are_not_added(here: Path, run: Run, tiny_path: Path) -> None:
    bundle = open_bundle(tiny_path)
    entropy = {**bundle.entropy, "h_s.4.bias": bundle.entropy["h_s.4.bias"] + (1 << 53)}
    parts = {ANALYSIS: bundle.analysis, SYNTHESIS: bundle.synthesis, ENTROPY: entropy, LAB: bundle.lab}
    write_bundle(Path("inexact"), manifest_document(bundle.manifest), parts)
    (error,) = errors(run("models", "add", "inexact"))
    assert error.startswith("the model in inexact is damaged (h_s.4 can reach")


@pytest.mark.parametrize("part", [ANALYSIS, SYNTHESIS])
def test_models_whose_networks_have_other_shapes_are_not_in_order(
    here: Path, run: Run, tiny_path: Path, part: str
) -> None:
    bundle = open_bundle(tiny_path)
    parts = {ANALYSIS: bundle.analysis, SYNTHESIS: bundle.synthesis, ENTROPY: bundle.entropy, LAB: bundle.lab}
    name = next(name for name in parts[part] if name.endswith(".bias"))
    parts[part] = {**parts[part], name: parts[part][name][1:]}
    write_bundle(Path("short"), manifest_document(bundle.manifest), parts)
    for command in ("add", "verify"):
        (error,) = errors(run("models", command, f".{os.sep}short"))
        assert error.startswith(f"the model in short is damaged ({name} is float16")


def test_models_whose_contract_is_damaged_are_not_in_order(here: Path, run: Run, tiny_path: Path) -> None:
    shutil.copytree(tiny_path, "odd")
    manifest = Path("odd", MANIFEST)
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "contract": {"version": VERSION}}))
    for command in (["models", "add"], ["models", "verify"], ["scan", "a.png", "-m"], ["encode", "a.png", "-m"]):
        (error,) = errors(run(*command, f".{os.sep}odd"))
        assert error.removeprefix("a.png: ").startswith("the model in odd is damaged (the contract of its manifest")


def test_the_models_variable_may_name_a_model_itself(here: Path, run: Run, tiny_path: Path, rbc: bytes) -> None:
    itself = {"ROBUSTCODEC_MODELS": str(tiny_path)}
    assert run("encode", "a.png", "-m", "hyper-tiny", env=itself).returncode == 0
    assert Path("a.rbc").read_bytes() == rbc
    assert run("decode", "a.rbc", "-o", "b.png", env=itself).returncode == 0


def test_a_deleted_current_folder_is_said_in_a_line(tmp_path: Path) -> None:
    code = (
        "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); from robustcodec.cli import main; main()"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "encode", "a.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "robustcodec: error: the current folder has been deleted; change to one that exists\n",
    )


def test_outputs_that_cannot_be_written(here: Path, run: Run, png: bytes, rbc: bytes) -> None:
    Path("album/a.png").mkdir(parents=True)
    Path("album/a.png/b.png").write_bytes(png)
    Path("out").mkdir()
    Path("out/a.png").write_bytes(b"in the way")
    # the tree below out/ needs a folder where a file stands; the other file is done
    (error,) = errors(run("encode", "-r", "album", "a.png", "-o", "out"))
    assert "the folder out/a.png cannot be made: " in error
    assert Path("out/a.rbc").read_bytes() == rbc
    assert Path("out/a.png").read_bytes() == b"in the way"
    for arguments, code, message in (
        (("a.png", "-o", "nowhere/a.rbc"), 1, "the folder nowhere does not exist; make it first"),
        (("a.png", "-o", "a.png/b.rbc"), 1, "a.png is no folder, which -o needs there"),
        (("a.png", "-o", "a.png"), 2, "a.png is an input and would be overwritten; choose another name"),
        (("a.png", "out/a.png", "-o", "new/"), 2, "would both be written to new/a.rbc"),
    ):
        (error,) = errors(run("encode", *arguments), code)
        assert message in error
    assert Path("a.png").read_bytes() == png
    assert not Path("new").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk(here: Path, run: Run) -> None:
    (error,) = errors(run("encode", "a.png", "-o", "/dev/full"))
    assert error == "a.png: /dev/full cannot be written: No space left on device"
    command = [sys.executable, "-m", "robustcodec", "sample", "-o", "-"]
    with Path("/dev/full").open("wb") as full:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stderr.decode()) == (
        1,
        "robustcodec: error: standard output cannot be written: No space left on device\n",
    )

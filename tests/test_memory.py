"""The memory that is promised: never less than a process really takes, nor more than twice as much."""

import math
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from regenerate import sample

from robustcodec import graphs, memory
from robustcodec.architectures import cheng, hyper
from robustcodec.architectures.demands import USUAL, demand_of
from robustcodec.bundle import open_bundle
from robustcodec.codec import Codec, encode_plain
from robustcodec.container import Header, Limits, Payload, unpack
from robustcodec.details import added, block_errors, describe
from robustcodec.errors import LimitExceeded
from robustcodec.guard import memory_to_encode
from robustcodec.images import Picture, write_picture
from robustcodec.policy import Guard, OnViolation, Rung
from robustcodec.rate import FileSize, Psnr, Quality
from robustcodec.tiling import tiles

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from large import timed  # noqa: E402

TINY = ROOT / "tests" / "data" / "tiny"
MODELS = {
    "tiny": TINY / "hyper-tiny",
    "cheng": TINY / "cheng-tiny",
    "ordinary": ROOT / "weights" / "hyper-base",
    "dithering": ROOT / "weights" / "hyper-robust",
}
Pixels = NDArray[np.uint8]

on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@on_linux
@pytest.mark.parametrize(
    ("model", "height", "width"),
    [
        ("tiny", 16, 16),
        ("tiny", 2100, 2100),
        ("cheng", 16, 16),
        ("cheng", 2100, 1500),
        ("cheng", 40000, 16),
        ("ordinary", 40, 50),
        ("ordinary", 600, 400),
        ("dithering", 600, 400),
    ],
)
def test_the_formula_bounds_what_is_taken(tmp_path: Path, model: str, height: int, width: int) -> None:
    path = MODELS[model]
    codec = Codec(open_bundle(path), threads=1)
    picture, file, decoded = (str(tmp_path / name) for name in ("a.png", "a.rbc", "b.png"))
    Path(picture).write_bytes(write_picture(Picture(pixels=noise(height, width)), "PNG"))
    options = ("-m", str(path), "--threads", "2")
    for target, measure, extra in (
        (Quality(4), False, ("--on-violation", "off")),
        (FileSize(1 << 24), True, ("--psnr", "--target-size", str(1 << 24))),
    ):
        stated = codec.memory_to_encode(width, height, target, measure)
        assert stated / 2 < timed("encode", picture, "-o", file, *options, *extra)[1] < stated
    data = Path(file).read_bytes()
    stated = memory.to_decode(unpack(data).header, len(data), codec.demand)
    assert stated / 2 < timed("decode", file, "-o", decoded, *options)[1] < stated


@on_linux
@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("JPEG", {"progressive": True, "subsampling": 0}), ("WebP", {"lossless": True}), ("AVIF", {})],
)
def test_reading_takes_no_more_than_is_counted(tmp_path: Path, format: str, options: dict[str, Any]) -> None:
    """What large pictures of a format take until they are read, which is more than Pillow's own pixels."""
    side = 3000
    file = tmp_path / "picture"
    Image.new("RGB", (side, side), (90, 60, 30)).save(file, format, **options)
    program = f"""
from pathlib import Path
from robustcodec.images import read_picture

def peak():
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

data = Path({str(file)!r}).read_bytes()
before = peak()
read_picture(data, 1 << 28)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    counted = 10 * side**2 + memory.excess(format, file.stat().st_size, side, side)  # 10: source, picture, Pillow
    assert counted / 2 < int(done.stdout) < counted


@on_linux
@pytest.mark.parametrize("quality", [None, 80])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (2100, 2100)])
def test_files_without_a_model_are_bounded_too(
    tmp_path: Path, codec: Codec, quality: int | None, height: int, width: int
) -> None:
    encoded = encode_plain(Picture(pixels=noise(height, width)), quality)
    assert encoded is not None
    file, decoded = str(tmp_path / "a.rbc"), str(tmp_path / "b.png")
    Path(file).write_bytes(encoded.data)
    stated = memory.to_decode(unpack(encoded.data).header, len(encoded.data), codec.demand)
    # the formula is that of the hungriest of the formats, and of a process that holds a model
    assert stated / 4 < timed("decode", file, "-o", decoded, "-m", str(MODELS["tiny"]), "--threads", "2")[1] < stated


@pytest.mark.parametrize(("height", "width"), [(1, 200_000), (127, 12_000), (150_000, 1), (700, 700)])
def test_what_the_guard_looks_at_is_bounded_whatever_the_shape(height: int, width: int) -> None:
    """No more than the formula adds where the result is measured, which has the result's pixels too."""
    a, b = noise(height, width), np.zeros((height, width, 3), np.uint8)
    shows_nothing = replace(USUAL, shown=0)
    without, stated = (
        memory.to_encode(width, height, 0, shows_nothing, searches=False, measures=measures)
        for measures in (False, True)
    )
    tracemalloc.start()
    for look in (lambda: describe(a), lambda: added(a, b), lambda: block_errors(a, b)):
        tracemalloc.reset_peak()
        look()
        assert tracemalloc.get_traced_memory()[1] < stated - without - b.nbytes
    tracemalloc.stop()


def test_large_pictures_need_little_more_than_their_pixels() -> None:
    """100 megapixels in less than 2 GiB, whatever is asked for; wide ones too."""
    for width, height, rows in ((12_000, 8_400, 1024), (100_000, 1_000, 128), (1_000, 100_000, 1024)):
        header = Header(width=width, height=height, payload=Payload.NETWORK, step=8, strip_rows=rows)
        assert 500e6 < memory.to_decode(header, 100_000_000, USUAL) < 2**31
        for searches, measures in ((False, False), (True, False)):
            needed = memory.to_encode(width, height, rows, USUAL, searches=searches, measures=measures)
            assert 500e6 < needed < 2**31


def test_a_region_of_a_large_picture_takes_less() -> None:
    header = Header(width=20_000, height=13_000, payload=Payload.NETWORK, step=8, strip_rows=832)
    whole, part = (memory.to_decode(header, 1, USUAL, pixels) for pixels in (None, 1000))
    assert whole > 2.5e9 and part < 1.5e9


places = pytest.mark.parametrize(("width", "height"), [(1, 1), (90, 1000), (1024, 1025), (5000, 3000)])


def seen(width: int, height: int, halo: int) -> int:
    """Latents that the synthesis is given, tile by tile."""
    return sum(
        (tile.rows.stop - tile.rows.start) * (tile.columns.stop - tile.columns.start)
        for tile in tiles(-(-height // 16), -(-width // 16), 64, halo)
    )


@pytest.mark.parametrize("sizes", [(8, 12), (128, 192)])
@places
def test_work_is_counted_before_it_is_done(sizes: tuple[int, int], width: int, height: int) -> None:
    """Against every layer's weights, times the places where they are applied, in every tile."""
    synthesis = graphs.parameters("hyper", sizes, "synthesis")
    done = 0
    for layer, places in ((0, 1), (2, 4), (4, 16), (6, 64)):  # a transposed layer: all weights at each input
        done += math.prod(synthesis[f"g_s.{layer}.weight"]) * places
        if layer < 6:
            done += math.prod(synthesis[f"g_s.{layer + 1}.gamma"]) * 4 * places
    done *= seen(width, height, hyper.Hyper.synthesis_halo)
    for spec, places in zip(hyper.layer_specs(*sizes), (1, 4, 16), strict=True):
        done += spec.inputs * spec.outputs * spec.kernel**2 * places * -(-height // 64) * -(-width // 64)
    assert done <= memory.multiplications(width, height, demand_of("hyper", sizes)) < 1.3 * done


@pytest.mark.parametrize("n", [8, 128])
@places
def test_work_of_cheng_is_counted_too(n: int, width: int, height: int) -> None:
    done = 0
    for name, shape in graphs.parameters("cheng", (n, n), "synthesis").items():
        index = int(name.split(".")[1])
        # blocks 1, 3 and 5 double the size: what follows the doubling stands at four times the places
        level = index // 2 + (index % 2 and name.split(".")[2] in ("conv", "igdn"))
        if len(shape) == 4:
            done += math.prod(shape) * 4**level
    done *= seen(width, height, cheng.Cheng.synthesis_halo)
    latents, z = -(-height // 16) * -(-width // 16), -(-height // 64) * -(-width // 64)
    specs = cheng.layer_specs(n, n)
    for spec, places in zip(specs[:5], (1, 1, 4, 4, 16), strict=True):
        done += spec.inputs * spec.sums * spec.kernel**2 * places * z
    done += sum(spec.inputs * spec.outputs for spec in specs[5:]) * latents
    assert done <= memory.multiplications(width, height, demand_of("cheng", (n, n))) < 1.3 * done


def test_what_is_demanded_is_what_the_architectures_are() -> None:
    for kind, sizes in ((hyper.Hyper, (128, 192)), (cheng.Cheng, (128, 128))):
        demand = demand_of(kind.name, sizes)
        assert (demand.halo, demand.analysis_halo) == (kind.synthesis_halo, kind.analysis_halo)
        networks = sum(
            math.prod(shape)
            for network in ("analysis", "hyper_analysis", "synthesis")
            for shape in graphs.parameters(kind.name, sizes, network).values()
        )
        module = {"hyper": hyper, "cheng": cheng}[kind.name]
        integers = sum(spec.sums * spec.inputs * spec.kernel**2 for spec in module.layer_specs(*sizes))
        assert 0.9 * (networks + integers) < demand.weights < 1.3 * (networks + integers)


@pytest.mark.parametrize("model", ["tiny", "cheng"])
@pytest.mark.parametrize("target", [Quality(4), FileSize(3000), Psnr(26)])
def test_memory_is_refused_before_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, model: str, target: Quality | FileSize | Psnr
) -> None:
    codec = Codec(open_bundle(MODELS[model]), threads=1)
    picture = Picture(pixels=sample(128, 160, 3))
    needed = codec.memory_to_encode(160, 128, target)
    data = codec.encode(picture, target, limits=Limits(max_memory=needed)).data
    stated = memory.to_decode(unpack(data).header, len(data), codec.demand)
    assert codec.decode(data, Limits(max_memory=stated)).width == 160
    monkeypatch.setattr(codec, "_architecture", None)
    with pytest.raises(LimitExceeded, match=f"{needed:,} bytes of memory but {needed - 1:,} are allowed"):
        codec.encode(picture, target, limits=Limits(max_memory=needed - 1))
    for refused in (codec.decode, codec.salvage):
        with pytest.raises(LimitExceeded, match=f"{stated:,} bytes"):
            refused(data, Limits(max_memory=stated - 1))


def test_tall_pictures_that_are_coded_lying_are_counted_so(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec(open_bundle(MODELS["ordinary"]), threads=1)
    width, height = 16, 300_000
    tall, lying = codec.memory_to_encode(width, height), codec.memory_to_encode(height, width)
    assert lying > tall + 40 * width * height
    picture = Picture(pixels=np.zeros((height, width, 3), np.uint8))
    monkeypatch.setattr(codec, "_architecture", None)
    with pytest.raises(LimitExceeded, match=f"{lying:,} bytes"):
        codec.encode(picture, limits=Limits(max_memory=tall), transform=4)
    for rungs, needed in (((Rung.TRANSFORM,), (height, width)), ((Rung.STEP,), (width, height))):
        guard = Guard(on_violation=OnViolation.FALLBACK, rungs=rungs)
        stated = codec.memory_to_encode(*needed, measure=True)
        assert memory_to_encode(codec, width, height, Quality(4), guard) == stated

"""Latents are the same everywhere: golden files, threads, kernels, other arithmetic, other coders, other processors."""

import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import regenerate
from numpy.typing import NDArray
from regenerate import CHENG, GOLDEN, GOLDEN_CHENG, GOLDEN_DITHERED, TINY, digest, latents

from robustcodec import codec as codec_module
from robustcodec.architectures.hyper import EntropyParameters, layer_specs
from robustcodec.architectures.hyperprior import MAX_INPUT
from robustcodec.bundle import ENTROPY, Bundle, manifest_document, open_bundle, write_bundle
from robustcodec.codec import Codec
from robustcodec.container import unpack
from robustcodec.dither import key_of
from robustcodec.entropy import coder as coder_module
from robustcodec.errors import ModelDamaged
from robustcodec.exact import bound
from robustcodec.images import Picture
from robustcodec.rate import Quality
from robustcodec.strips import Strip, code_strip

ROOT = Path(__file__).parent.parent
FOLDERS = (GOLDEN, GOLDEN_CHENG, GOLDEN_DITHERED)
NAMES = sorted(path.stem for folder in FOLDERS for path in folder.glob("*.rbc"))
Sample = Callable[..., NDArray[np.uint8]]

try:
    import_module("robustcodec.entropy.native")
    CODERS = ["native", "pure"]
except ImportError:  # no constriction for this platform
    CODERS = ["pure"]

golden = pytest.mark.parametrize("name", NAMES)
models = pytest.mark.parametrize("path", [TINY, CHENG], ids=["hyper", "cheng"])


@pytest.fixture(params=CODERS)
def coder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the codec use one implementation of the range coder."""
    use(request.param, monkeypatch)
    name: str = request.param
    return name


def use(coder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coder_module, "backend", lambda: import_module(f"robustcodec.entropy.{coder}"))


def read(name: str) -> bytes:
    return (golden_folder(name) / f"{name}.rbc").read_bytes()


def golden_folder(name: str) -> Path:
    return next(folder for folder in FOLDERS if (folder / f"{name}.rbc").exists())


SCRATCH = tempfile.TemporaryDirectory()
"""Kept as long as the process: golden files are read before any fixture."""


@cache
def dithered_model() -> Path:
    return regenerate.dithered(Path(SCRATCH.name) / "hyper-dithered").path


def codec_of(name: str) -> Codec:
    path = {GOLDEN: TINY, GOLDEN_CHENG: CHENG}.get(golden_folder(name)) or dithered_model()
    return Codec(open_bundle(path), threads=1)


# --- golden files -------------------------------------------------------------------------------------------


def test_golden_files_decode_to_the_same_for_ever(coder: str) -> None:
    assert len(NAMES) == 19
    assert regenerate.check(GOLDEN) == []
    assert regenerate.check(GOLDEN_CHENG, CHENG) == []
    assert regenerate.check(GOLDEN_DITHERED, dithered_model()) == []


def test_golden_files_are_small_and_all_there() -> None:
    assert {path.stem for folder in FOLDERS for path in folder.glob("*.png")} == set(NAMES)
    assert sum(path.stat().st_size for path in regenerate.DATA.rglob("*") if path.is_file()) < 500_000


@golden
def test_latents_in_plain_integers(name: str) -> None:
    """The second decoder, written after docs/format.md, sees the same symbols."""
    codec = codec_of(name)
    strips = reference.decode_latents(read(name), codec.bundle.path)
    z, y = latents(codec, read(name))
    assert [reference.flat(strip.z) for strip in strips] == [each.ravel().tolist() for each in z]
    assert [reference.flat(strip.y) for strip in strips] == [each.ravel().tolist() for each in y]


@golden
def test_latents_have_only_one_file(name: str, coder: str) -> None:
    """Whatever the analysis makes of a picture elsewhere, the same latents are the same bytes."""
    data, codec = read(name), codec_of(name)
    file = unpack(data)
    for index, (strip, z) in enumerate(zip(file.payload, latents(codec, data)[0], strict=True)):
        y_hat = codec._read_strip(strip, index, file.header)
        conditions = codec._architecture.conditions(z, *y_hat.shape[1:], key_of(file.header.seed, index))
        y_real = (y_hat / 1024).astype(np.float32)
        coded = Strip(y_real, z, conditions, codec._architecture.dead_zones)
        assert code_strip(codec._architecture, coded, file.header.step)[0] == strip


@pytest.mark.parametrize("name", ["escapes", "cheng-escapes"])
def test_escapes_are_among_the_golden_files(name: str) -> None:
    codec = codec_of(name)
    (z,), (y,) = latents(codec, read(name))
    meant = [32767, -32767, 32000, -11520, 5120, -4224]
    # those of cheng are counted from their means, in steps of 8 / 1024
    assert y[:2, 0, 0].tolist() == meant[:2] and np.abs(y[2:6, 0, 0] - meant[2:]).max() < (name != "escapes") * 3000 + 1
    assert z[:3, 0, 0].tolist() == [40, -1000, 32767]
    for symbols, tables in ((y, codec._architecture.y_tables), (z, codec._architecture.z_tables)):
        assert np.abs(symbols).max() > max(table.minimum + table.escape for table in tables)


def test_metadata_of_a_golden_file(codec: Codec) -> None:
    picture = codec.decode(read("strips"))
    assert (picture.icc, picture.exif, picture.xmp) == (b"a profile", b"II*\x00" + bytes(8), b"<x:xmpmeta/>")
    assert picture.pixels.shape == (150, 40, 3)


def test_the_generator_writes_the_golden_files(tmp_path: Path) -> None:
    """All but the analysis is exact, and that can turn a rounding on another machine."""
    regenerate.write_golden(tmp_path / GOLDEN.name)
    regenerate.write_golden(tmp_path / GOLDEN_CHENG.name, CHENG)
    regenerate.write_golden(tmp_path / GOLDEN_DITHERED.name, dithered_model())
    for folder in FOLDERS:
        assert {path.name for path in (tmp_path / folder.name).iterdir()} == {path.name for path in folder.iterdir()}
    for name in NAMES:
        codec, kept = codec_of(name), golden_folder(name)
        anew = (tmp_path / kept.name / f"{name}.rbc").read_bytes()
        new, old = unpack(anew), unpack(read(name))
        assert new.header == old.header
        assert [chunk.type for chunk in new.chunks] == [chunk.type for chunk in old.chunks]
        written, committed = latents(codec, anew), latents(codec, read(name))
        for before, after in zip(itertools.chain(*committed), itertools.chain(*written), strict=True):
            assert np.abs(before - after).max() <= 1
            assert np.mean(before != after) <= 0.01


# --- threads, kernels, processors ---------------------------------------------------------------------------


@models
def test_threads_do_not_change_a_file(path: Path, make_sample: Sample) -> None:
    picture = Picture(pixels=make_sample(200, 264, 7))
    codec, two = (Codec(open_bundle(path), threads) for threads in (1, 2))
    written = [each.encode(picture, Quality(6), measure=True) for each in (codec, two)]
    assert written[0].data == written[1].data
    for one, other in itertools.product((codec, two), repeat=2):
        data = written[0].data if one is codec else written[1].data
        assert digest(latents(other, data)[1]) == digest(latents(one, data)[1])
        assert np.abs(other.decode(data).pixels.astype(int) - one.decode(data).pixels).max() <= 1


def check_elsewhere(*command: str, **environment: str) -> None:
    """Decode the golden files in another process."""
    done = subprocess.run(
        [*command, sys.executable, "-m", "tests.regenerate", "check"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def kernels() -> list[str]:
    """Names of OpenBLAS's kernels that this processor can run."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    needed = {"Nehalem": "sse4_2", "Sandybridge": "avx", "Haswell": "avx2", "Zen": "avx2", "SkylakeX": "avx512vl"}
    return [name for name, flag in needed.items() if flag in flags]


@pytest.mark.parametrize("kernel", kernels())
def test_other_blas_kernels_give_the_same(kernel: str) -> None:
    check_elsewhere(OPENBLAS_CORETYPE=kernel)


QEMU = shutil.which("qemu-x86_64")


@pytest.mark.skipif(QEMU is None or platform.machine() != "x86_64", reason="qemu-user is not installed")
def test_a_processor_without_avx_gives_the_same() -> None:
    assert QEMU is not None
    check_elsewhere(QEMU, "-cpu", "Nehalem")


# --- other arithmetic ---------------------------------------------------------------------------------------


def entropy_arrays(bundle: Bundle) -> dict[str, NDArray[Any]]:
    return {name: np.array(array) for name, array in bundle.entropy.items()}


def scales_in_plain_integers(arrays: dict[str, NDArray[Any]], z: NDArray[np.int32]) -> list[list[list[int]]]:
    """Hyper synthesis by the second decoder's code."""
    model = {name: array.tolist() for name, array in arrays.items()}
    medians = arrays["medians"].astype(object)[:, None, None]
    x = (z.astype(object) * 1024 + medians).tolist()
    for name in ("h_s.0", "h_s.2"):
        x = reference.transposed_layer(x, model, name)
    return reference.last_layer(x, model, "h_s.4")


def worst_arrays(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """Entropy parameters whose weights and medians are the largest that there are."""
    arrays = entropy_arrays(bundle)
    signs = np.random.default_rng(0)
    for spec in layer_specs(*bundle.manifest.sizes):
        weight = arrays[f"{spec.name}.weight"]
        weight[:] = np.where(signs.random(weight.shape) < 0.2, -32767, 32767)
        # the sums of the first layers stay within their clip for some outputs and leave it for others
        arrays[f"{spec.name}.shift"][:] = 0 if spec.clip is None else [30, 30, 29, 29, 28, 27, 12, 0]
    arrays["medians"][:] = 1 << 20
    arrays["medians"][1::2] *= -1
    return arrays


@pytest.mark.parametrize("sign", [1, -1])
def test_weights_and_activations_at_their_bounds(tiny: Bundle, sign: int) -> None:
    arrays = worst_arrays(tiny)
    z = np.full((8, 2, 1), 32767 * sign, np.int32)
    z[1::2] *= -1
    exact = EntropyParameters(arrays, *tiny.manifest.sizes).scales(z, 8, 4)
    expected = scales_in_plain_integers(arrays, z)
    assert exact.astype(np.int64).tolist() == expected
    assert max(abs(value) for value in reference.flat(expected)) > 1 << 30


def test_parameters_up_to_the_proof_are_accepted_and_exact(tiny: Bundle) -> None:
    """Biases that leave not one unit below 2^53, and one unit more."""
    arrays = worst_arrays(tiny)
    specs = layer_specs(*tiny.manifest.sizes)
    reached = MAX_INPUT
    for index, spec in enumerate(specs):
        biases = arrays[f"{spec.name}.bias"]
        biases[:] = 0
        free = (1 << 53) - 1 - bound(EntropyParameters(arrays, *tiny.manifest.sizes).layers[index], reached)
        # of the channel that comes nearest to the bound; a shift of zero counts the sum twice
        nearest = 7 if spec.clip is not None else 0
        biases[nearest] = free // 2 if spec.clip is not None else free
        reached = 65535
    parameters = EntropyParameters(arrays, *tiny.manifest.sizes)
    z = np.full((8, 1, 1), 32767, np.int32)
    assert parameters.scales(z, 4, 4).astype(np.int64).tolist() == scales_in_plain_integers(arrays, z)
    arrays["h_s.4.bias"][0] += 1
    with pytest.raises(ModelDamaged, match="exact only below"):
        EntropyParameters(arrays, *tiny.manifest.sizes)


def test_layers_on_torchs_side(tiny: Bundle) -> None:
    torch_layers = pytest.importorskip("torch_layers", exc_type=ImportError)
    for arrays in (entropy_arrays(tiny), worst_arrays(tiny)):
        torch_layers.check(EntropyParameters(arrays, *tiny.manifest.sizes).layers, {})


def test_scales_exactly_on_thresholds(tiny: Bundle, tmp_path: Path, make_sample: Sample) -> None:
    """Thresholds at scales that occur, at a step that makes both sides equal: t * 1024 = T * 1024."""
    picture = Picture(pixels=make_sample(80, 64, 5))
    codec = Codec(tiny, threads=1)
    scales = codec._prepare(picture).strips[0].conditions.scales  # type: ignore[attr-defined]
    arrays = entropy_arrays(tiny)
    count = arrays["thresholds"].shape[1]
    for channel, values in enumerate(scales):
        met = np.unique(values[values >= 0])[:count].astype(np.int64)
        arrays["thresholds"][channel, : met.size] = met
        arrays["thresholds"][channel, met.size :] = met[-1] + 1
    parts = {**{name: tiny._part(name) for name in tiny.manifest.parts}, ENTROPY: arrays}
    bundle = write_bundle(tmp_path / "on-thresholds", manifest_document(tiny.manifest), parts)
    data = Codec(bundle, threads=1).encode(picture, Quality(4)).data
    assert unpack(data).header.step == 1024
    (strip,) = reference.decode_latents(data, bundle.path)
    on = np.isin(scales, arrays["thresholds"]).mean()
    assert on > 0.9
    conditions = Codec(bundle, threads=1)._prepare(picture).strips[0].conditions
    group = next(conditions.schedule(1024))
    assert group.table.ravel().tolist() == reference.flat(strip.index)


# --- two coders ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(len(CODERS) < 2, reason="there is one coder on this platform")
@models
@pytest.mark.parametrize("quality", [1, 6])
def test_coders_write_the_same_files_and_read_each_others(
    path: Path, monkeypatch: pytest.MonkeyPatch, make_sample: Sample, quality: float
) -> None:
    bundle = open_bundle(path)
    monkeypatch.setattr(codec_module, "STRIP_ABOVE", 1)
    monkeypatch.setattr(codec_module, "STRIP_ROWS", 64)
    picture = Picture(pixels=make_sample(100, 90, 11))
    files, pictures = {}, []
    for name in CODERS:
        use(name, monkeypatch)
        files[name] = Codec(bundle, threads=1).encode(picture, Quality(quality)).data
    assert files["native"] == files["pure"]
    for name, other in (CODERS, CODERS[::-1]):
        use(name, monkeypatch)
        pictures.append(Codec(bundle, threads=1).decode(files[other]).pixels)
    assert np.array_equal(*pictures)


def test_the_checksum_of_a_strip_is_that_of_its_symbols(codec: Codec) -> None:
    """As docs/format.md has it; a decoder with other probabilities would be found out by it."""
    data = read("square")
    (content,) = unpack(data).payload
    (z,), (y,) = latents(codec, data)
    symbols = z.astype("<i2").tobytes() + y.astype("<i2").tobytes()
    assert struct.unpack_from("<I", content)[0] == reference.zlib.crc32(symbols)


@pytest.mark.parametrize(
    ("block", "name", "path"), [("latents", "one-pixel", TINY), ("cheng", "cheng-one-pixel", CHENG)]
)
def test_the_examples_of_the_format_page(block: str, name: str, path: Path) -> None:
    page = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    found = re.search(rf"```{block}\n(.*?)```", page, re.DOTALL)
    assert found is not None
    lines = {line.partition(" ")[0]: line.partition(" ")[2] for line in found[1].splitlines()}
    (content,) = unpack(read(name)).payload
    (strip,) = reference.decode_latents(read(name), path)
    assert bytes.fromhex(lines.pop("message")) == content[4:]
    planes = {"z": strip.z, "table": strip.index, "y": strip.y, "y_hat": strip.y_hat}
    assert {"z", "table", "y"} <= set(lines)
    for line, numbers in lines.items():
        assert [int(number) for number in numbers.split()] == reference.flat(planes[line])


def test_the_fingerprint_of_the_format_page(tiny: Bundle) -> None:
    manifest = json.loads((TINY / "manifest.json").read_text())
    line = (
        f'{{"architecture": "hyper", "entropy": "{manifest["parts"]["entropy.safetensors"]}", "format": 1, '
        f'"sizes": [8, 12], "synthesis": "{manifest["parts"]["synthesis.safetensors"]}"}}'
    )
    assert hashlib.sha256(line.encode()).digest()[:8] == tiny.fingerprint == read("square")[13:21]

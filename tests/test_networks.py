"""Networks of arrays: shapes, checks of what a bundle brings, pinned graphs, processors that may be used."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robustcodec import graphs, networks
from robustcodec.errors import ModelDamaged, ModelError
from robustcodec.networks import load, parameters

Tensors = dict[str, np.ndarray]  # type: ignore[type-arg]
SIZES = (8, 12)


@pytest.fixture
def tensors() -> Tensors:
    generator = np.random.default_rng(0)
    return {
        name: (generator.random(shape) * 0.1 + 0.01).astype(np.float16)
        for name, shape in parameters("hyper", SIZES).items()
    }


def test_shapes_of_latents_and_pictures(tensors: Tensors) -> None:
    model = load("hyper", SIZES, tensors, threads=1)
    y = model.analyse(np.zeros((3, 48, 80), np.float32))
    assert y.shape == (12, 3, 5) and y.dtype == np.float32
    assert model.hyper_analyse(y).shape == (8, 1, 2)
    assert model.synthesise(y).shape == (3, 48, 80)


def test_planes_need_not_be_contiguous(tensors: Tensors) -> None:
    model = load("hyper", SIZES, tensors, threads=1)
    y = np.random.default_rng(1).normal(size=(12, 6, 8)).astype(np.float32)
    part = y[:, 1:4, 2:7]
    assert np.array_equal(model.synthesise(part), model.synthesise(part.copy()))


def test_tiles_need_no_more_than_their_halo(tensors: Tensors) -> None:
    """Analysis sees 32 pixels before a tile and 16 behind it, synthesis 1 latent before and 2 behind."""
    model = load("hyper", SIZES, tensors, threads=1)
    generator = np.random.default_rng(1)
    x = generator.random((3, 16, 176), dtype=np.float32)
    whole, part = model.analyse(x), model.analyse(x[:, :, 32:144])
    assert np.abs(whole[:, :, 4:8] - part[:, :, 2:6]).max() < 1e-5 * np.abs(whole).max()
    y = generator.normal(size=(12, 1, 11)).astype(np.float32)
    whole, part = model.synthesise(y), model.synthesise(y[:, :, 3:10])
    assert np.abs(whole[:, :, 64:128] - part[:, :, 16:80]).max() < 1e-5 * np.abs(whole).max()


def test_pictures_must_be_padded(tensors: Tensors) -> None:
    with pytest.raises(ValueError, match="not padded to 16"):
        load("hyper", SIZES, tensors, threads=1).analyse(np.zeros((3, 16, 17), np.float32))


def test_decoding_needs_no_analysis(tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def record(architecture: str, sizes: tuple[int, int], network: str) -> bytes:
        opened.append(network)
        return read(architecture, sizes, network)

    read = graphs.read_graph
    monkeypatch.setattr(graphs, "read_graph", record)
    model = load("hyper", SIZES, tensors, threads=1)
    assert opened == []
    for _ in range(2):
        model.synthesise(np.zeros((12, 1, 1), np.float32))
    assert opened == ["synthesis"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("g_a.0.weight", np.zeros((8, 3, 5, 5), np.float64)),
        ("g_a.0.weight", np.zeros((3, 8, 5, 5), np.float32)),
        ("g_s.0.weight", np.full((12, 8, 5, 5), np.nan, np.float32)),
        ("h_a.4.bias", np.full(8, np.inf, np.float16)),
        ("g_a.1.beta", np.zeros(8, np.float32)),
        ("g_s.5.gamma", np.full((8, 8, 1, 1), -1e-3, np.float32)),
        ("g_s.6.bias", None),
        ("h_s.0.weight", np.zeros(1, np.float32)),
    ],
)
def test_unfit_tensors_are_refused(tensors: Tensors, name: str, value: np.ndarray | None) -> None:  # type: ignore[type-arg]
    tensors.pop(name, None)
    if value is not None:
        tensors[name] = value
    with pytest.raises(ModelDamaged, match=name):
        load("hyper", SIZES, tensors, threads=1)


@pytest.mark.parametrize(
    ("architecture", "sizes", "says"),
    [
        ("hyper", (128, 128), "no network hyper with channels 128,128; this release has 128,192 or "),
        ("other", (8, 12), "no architecture other; this release has hyper and cheng"),
    ],
)
def test_unknown_sizes_are_refused_by_name(architecture: str, sizes: tuple[int, int], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        load(architecture, sizes, {}, threads=1)


def test_altered_graphs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    name = graphs.file_name("hyper", SIZES, "synthesis")
    monkeypatch.setitem(graphs.DIGESTS, name, "0" * 64)
    with pytest.raises(ModelDamaged, match=name):
        graphs.read_graph("hyper", SIZES, "synthesis")


def test_parameters_are_compressais_transforms() -> None:
    shapes = parameters("hyper", (128, 192))
    limits = {name: shape for name, shape in shapes.items() if name.endswith(".limit")}
    assert limits == dict.fromkeys(("g_s.1.limit", "g_s.3.limit", "g_s.5.limit"), (128, 1, 1))
    assert len(shapes) == 34 + 3
    assert shapes["g_s.6.weight"] == (128, 3, 5, 5)
    assert shapes["g_a.1.gamma"] == (128, 128, 1, 1)
    assert shapes["h_a.0.weight"] == (128, 192, 3, 3)
    assert {name.split(".")[0] for name in shapes} == {"g_a", "g_s", "h_a"}


def test_what_multiplies_without_limit_is_as_if_its_limit_were_huge(tensors: Tensors) -> None:
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(".limit")}
    huge = {**tensors, **{name: np.full_like(tensors[name], 6e4) for name in tensors.keys() - plain.keys()}}
    y_hat = np.random.default_rng(1).normal(0, 3, (12, 2, 3)).astype(np.float32)
    pictures = [load("hyper", SIZES, each, threads=1).synthesise(y_hat) for each in (plain, huge)]
    assert np.array_equal(*pictures)
    low = {name: tensor * (1e-7 if name.endswith(".limit") else 1) for name, tensor in huge.items()}
    assert not np.array_equal(pictures[0], load("hyper", SIZES, low, threads=1).synthesise(y_hat))
    huge["g_s.3.limit"] = np.zeros_like(huge["g_s.3.limit"])
    with pytest.raises(ModelDamaged, match=r"g_s\.3\.limit"):
        load("hyper", SIZES, huge, threads=1)


STARVED = """
import resource, sys
import numpy as np
from robustcodec.networks import load, parameters
tensors = {name: np.full(shape, 0.1, np.float16) for name, shape in parameters("hyper", (8, 12)).items()}
model = load("hyper", (8, 12), tensors, threads=1)
model.analyse(np.zeros((3, 64, 64), np.float32))
x = np.zeros((3, 2048, 2048), np.float32)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20),) * 2)  # the first layer alone makes 32 MiB
try:
    model.analyse(x)
except MemoryError as error:
    print("MemoryError", error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs a limit on memory")
def test_too_little_memory_is_said_in_python_s_way() -> None:
    done = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("MemoryError [ONNXRuntimeError]")


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (RuntimeError("[ONNXRuntimeError] : 6 : std::bad_alloc"), MemoryError, "bad_alloc"),
        (MemoryError("none"), MemoryError, "none"),
        (Exception("[ONNXRuntimeError] : 2 :\n shapes"), ModelError, r"\(\[ONNXRuntimeError\] : 2 : shapes\); install"),
    ],
)
def test_what_onnx_runtime_raises_is_translated(
    tensors: Tensors, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception], message: str
) -> None:
    class Refusing:
        def run(self, *_: object) -> None:
            raise raised

    monkeypatch.setattr(networks.onnxruntime, "InferenceSession", lambda *_, **__: Refusing())
    with pytest.raises(expected, match=message):
        load("hyper", SIZES, tensors, threads=1).synthesise(np.zeros((12, 1, 1), np.float32))

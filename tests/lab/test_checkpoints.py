"""Checkpoints in every wrapping load, bundles become state dicts again, and what is hostile or broken is refused."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from robustcodec import networks  # noqa: E402
from robustcodec.architectures.hyper import EntropyParameters  # noqa: E402
from robustcodec.architectures.hyperprior import MAX_INPUT  # noqa: E402
from robustcodec.bundle import ANALYSIS, ENTROPY, LAB, SYNTHESIS, Bundle, manifest_document, write_bundle  # noqa: E402
from robustcodec.errors import ModelDamaged, TrainingError  # noqa: E402
from robustcodec.exact import quantise_last_layer, quantise_layer  # noqa: E402
from robustcodec.lab.checkpoints import fill, load_weights, network_of, weights_of_bundle  # noqa: E402
from robustcodec.lab.export import export  # noqa: E402
from robustcodec.lab.hyper import Hyper  # noqa: E402
from robustcodec.lab.networks import LIMIT, Gdn  # noqa: E402
from robustcodec.rate import STEP_UNIT  # noqa: E402

Document = dict[str, Any]


@pytest.fixture(scope="module")
def weights() -> Document:
    """A state dict with every parameter random."""
    generator = torch.Generator().manual_seed(1)
    state = Hyper(8, 12).state_dict()
    return {name: torch.rand(tensor.shape, generator=generator) for name, tensor in state.items()}


def with_tables(weights: Document) -> Document:
    """With what CompressAI keeps beside the parameters, of a size that no network of ours would have."""
    return {
        **weights,
        "entropy_bottleneck._quantized_cdf": torch.zeros(8, 77, dtype=torch.int32),
        "entropy_bottleneck._offset": torch.zeros(8, dtype=torch.int32),
        "entropy_bottleneck._cdf_length": torch.zeros(8, dtype=torch.int32),
        "gaussian_conditional._quantized_cdf": torch.zeros(64, 1333, dtype=torch.int32),
        "gaussian_conditional.scale_table": torch.rand(64),
        "g_a.1.beta_reparam.lower_bound.bound": torch.rand(1),
    }


def legacy(weights: Document) -> Document:
    """With the names that CompressAI gave the entropy bottleneck's parameters before version 1.2."""
    renamed = {}
    for name, tensor in weights.items():
        for new, old in (("matrices.", "_matrix"), ("biases.", "_bias"), ("factors.", "_factor")):
            name = name.replace(f"entropy_bottleneck.{new}", f"entropy_bottleneck.{old}")
        renamed[name] = tensor
    assert "entropy_bottleneck._matrix0" in renamed
    return renamed


def parallel(weights: Document) -> Document:
    """As DataParallel names them."""
    return {f"module.{name}": tensor for name, tensor in weights.items()}


WRAPPINGS: dict[str, Callable[[Document], Document]] = {
    "plain": lambda weights: weights,
    "with tables": with_tables,
    "state_dict": lambda weights: {"epoch": 3, "state_dict": weights, "optimizer": {"state": {}, "lr": 1e-4}},
    "network": lambda weights: {"network": with_tables(weights), "loss": torch.tensor(1.5)},
    "model_state_dict": lambda weights: {"model_state_dict": weights},
    "nested": lambda weights: {"state_dict": {"network": weights}},
    "parallel": parallel,
    "legacy": lambda weights: legacy(with_tables(weights)),
    "all at once": lambda weights: {"state_dict": parallel(legacy(with_tables(weights)))},
    "double precision": lambda weights: {name: tensor.double() for name, tensor in weights.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_every_wrapping_loads(weights: Document, tmp_path: Path, wrapping: str, zipped: bool) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(WRAPPINGS[wrapping](weights), path, _use_new_zipfile_serialization=zipped)
    network = network_of(load_weights(path), "it")
    assert (network.n, network.m) == (8, 12)
    assert_equal(network.state_dict(), weights)


@pytest.mark.parametrize("wrapping", ["plain", "with tables", "parallel", "legacy"])
def test_safetensors_load(weights: Document, tmp_path: Path, wrapping: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_file(WRAPPINGS[wrapping](weights), path)
    assert_equal(network_of(load_weights(path), "it").state_dict(), weights)


def test_what_is_left_aside_is_said_unless_every_checkpoint_has_it(weights: Document) -> None:
    constants = {"g_a.1.beta_reparam.pedestal": torch.zeros(1), "gaussian_conditional.scale_table": torch.ones(64)}
    others = {"context_prediction.weight": torch.zeros(2), "entropy_parameters.0.bias": torch.zeros(2)}
    said: list[str] = []
    network_of({**weights, **constants}, "it", said.append)
    assert said == []
    network_of({**weights, **constants, **others}, "it", said.append)
    assert said == ["it has 2 tensors that hyper does not use, context_prediction.weight among them"]


def assert_equal(state: Document, expected: Document) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == torch.float32 and torch.equal(state[name], tensor), name


@pytest.mark.parametrize("sizes", [(192, 320), (128, 192), (64, 96)])
def test_sizes_come_from_the_state_dict(sizes: tuple[int, int]) -> None:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Hyper(*sizes).state_dict().items()}
    network = network_of({name: torch.ones(()).expand(shape) for name, shape in shapes.items()}, "it")
    assert (network.n, network.m) == sizes
    assert network.g_s[0].weight.shape == (sizes[1], sizes[0], 5, 5)


class Touch:
    """Pickles as a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"# notes\n"])
def test_what_is_no_checkpoint_is_not_said_to_hold_code(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(TrainingError, match=r"is no checkpoint|cannot be read as a checkpoint"):
        load_weights(tmp_path / "other")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_a_pickle_that_would_run_code_is_refused(weights: Document, tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "checkpoint.pth", tmp_path / "trace"
    torch.save({"state_dict": weights, "hook": Touch(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(TrainingError, match="holds more than weights"):
        load_weights(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the file would have done it
    assert trace.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 100, b"PK\x03\x04 torn", b"\x80\x02}q\x00", b"\x89PNG\r\n\x1a\n", b"text\n"]
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=f"file{suffix}"):
        load_weights(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.99])
def test_truncated_files_are_refused(weights: Document, tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"checkpoint{suffix}"
    if suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(TrainingError):
        load_weights(path)


@pytest.mark.parametrize("document", [[], 3, {}, {"state_dict": {}}, {"state_dict": 5}, {"lr": 0.1}, torch.ones(3)])
def test_documents_without_a_state_dict_are_refused(tmp_path: Path, document: object) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(document, path)
    with pytest.raises(TrainingError, match="holds no state dict"):
        load_weights(path)


def test_missing_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="does not exist"):
        load_weights(tmp_path / "nowhere.pth")
    with pytest.raises(TrainingError, match="run folder"):
        load_weights(tmp_path)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("g_a.0.weight", (), "expected"),
        ("g_a.0.weight", (0, 3, 5, 5), "channels"),
        ("g_a.6.weight", (1 << 20, 1), "channels"),
        ("g_a.0.weight", (8,), "expected"),
        ("g_a.0.weight", (16, 3, 5, 5), "expected"),
        ("h_a.2.weight", (8, 8, 3, 3), "expected"),
        ("entropy_bottleneck.quantiles", (8, 3), "expected"),
    ],
)
def test_wrong_shapes_are_refused(weights: Document, name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        network_of({**weights, name: torch.zeros(shape)}, "it")


@pytest.mark.parametrize("name", ["g_a.0.weight", "g_a.6.weight", "h_s.4.bias", "entropy_bottleneck.matrices.0"])
def test_missing_tensors_are_named(weights: Document, name: str) -> None:
    with pytest.raises(TrainingError, match=name.replace(".", r"\.")):
        network_of({key: tensor for key, tensor in weights.items() if key != name}, "it")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(weights: Document, value: float) -> None:
    spoilt = weights["h_a.4.bias"].clone()
    spoilt[3] = value
    with pytest.raises(TrainingError, match=r"h_a\.4\.bias that are not finite"):
        fill(Hyper(8, 12), {**weights, "h_a.4.bias": spoilt}, "it")


def test_a_bundle_gives_the_transforms_that_it_runs(tiny: Bundle) -> None:
    network = network_of(load_weights(tiny.path), "the bundle")
    sizes = (network.n, network.m)
    assert sizes == tiny.manifest.sizes
    x = np.random.default_rng(1).random((3, 64, 128), dtype=np.float32)
    encoder = networks.load("hyper", sizes, tiny.analysis, 1, ("analysis", "hyper_analysis"))
    decoder = networks.load("hyper", sizes, tiny.synthesis, 1, ("synthesis",))
    y = encoder.analyse(x)
    with torch.no_grad():
        assert_close(network.analyse(torch.from_numpy(x)[None]), y)
        assert_close(network.h_a(torch.from_numpy(y)[None].abs()), encoder.hyper_analyse(y))
        assert_close(network.synthesise(torch.from_numpy(np.rint(y))[None]), decoder.synthesise(np.rint(y)))


def test_a_bundle_gives_the_scales_of_its_integers(tiny: Bundle) -> None:
    network = network_of(weights_of_bundle(tiny), "the bundle")
    entropy = EntropyParameters(tiny.entropy, network.n, network.m)
    z = np.random.default_rng(2).integers(-1, 2, (network.n, 3, 5)).astype(np.int32)
    z_hat = torch.from_numpy(z + entropy.medians[:, None, None] / STEP_UNIT).float()
    # the integers leave out the last ReLU, which no probability can tell
    scales = np.maximum(entropy.scales(z, 12, 20), 0) * tiny.lab["h_s.4.unit"].astype(np.float64)[:, None, None]
    with torch.no_grad():
        expected = network.h_s(z_hat[None])[0]
    assert expected.max() > 1
    # activations of 16 bits
    assert np.abs(scales - expected.numpy()).max() < 1e-3 * expected.max()


def test_rebuilt_layers_round_to_the_same_integers(tiny: Bundle) -> None:
    network = network_of(weights_of_bundle(tiny), "the bundle")
    entropy = EntropyParameters(tiny.entropy, network.n, network.m)
    units = [1 / STEP_UNIT, *(float(tiny.lab[name][0]) for name in ("h_s.0.unit", "h_s.2.unit"))]
    layers = [network.h_s[index] for index in (0, 2, 4)]
    real = [layer.weight.detach().double().numpy() for layer in layers]
    real = [real[0].swapaxes(0, 1), real[1].swapaxes(0, 1), real[2]]
    biases = [layer.bias.detach().double().numpy() for layer in layers]
    first, second, last = entropy.layers
    again = [
        quantise_layer(first.spec, real[0], biases[0], units[0], units[1], MAX_INPUT),
        quantise_layer(second.spec, real[1], biases[1], units[1], units[2], 65535),
        quantise_last_layer(last.spec, real[2], biases[2], units[2])[0],
    ]
    for layer, expected in zip(again, entropy.layers, strict=True):
        assert np.array_equal(layer.weight, expected.weight)
        assert np.array_equal(layer.shift, expected.shift)
        # float32 keeps 24 bits of a bias
        assert (np.abs(layer.bias - expected.bias) <= np.abs(expected.bias) * 2.0**-23 + 1).all()


def test_exported_weights_come_back_but_for_their_rounding(
    tiny: Bundle, tmp_path: Path, make_sample: Callable[..., np.ndarray[Any, Any]]
) -> None:
    generator = torch.Generator().manual_seed(4)
    weights = {
        name: tensor * (1 + 0.02 * torch.rand(tensor.shape, generator=generator))
        for name, tensor in weights_of_bundle(tiny).items()
        if not name.endswith(LIMIT)
    }
    weights["g_s.3.limit"] = 0.5 + torch.rand(weights["g_s.3.beta"].shape, generator=generator)
    pictures = [make_sample(64, 64, 1)]
    export(
        weights, tmp_path / "model", id="again", variant="base", provenance={},
        calibration=pictures, validation=pictures, announce=lambda _: None,
    )  # fmt: skip
    before, after = (network_of(each, "it") for each in (weights, load_weights(tmp_path / "model")))
    for name, tensor in after.state_dict().items():
        expected = before.state_dict()[name]
        error = (tensor - expected).abs()
        if name.startswith("h_s."):
            # a channel's weights share a unit; biases are whole numbers of a far smaller one
            dims = (0, 2, 3) if name in ("h_s.0.weight", "h_s.2.weight") else (1, 2, 3)
            unit = expected.abs().amax(dims, keepdim=True) * 2.0**-14 if name.endswith("weight") else 1e-4
            assert (error <= unit * 0.501).all(), name
        elif name.startswith("entropy_bottleneck.") and not name.endswith("quantiles"):
            assert torch.equal(tensor, expected), name
        elif not name.endswith(("beta", "gamma", "quantiles")):
            assert (error <= expected.abs() * 2.0**-11 + 2.0**-25).all(), name
    for ours, theirs in zip(before.modules(), after.modules(), strict=True):
        if isinstance(ours, Gdn) and isinstance(theirs, Gdn):
            for real, again in zip(ours.parameters_in_use(), theirs.parameters_in_use(), strict=True):
                assert ((real - again).abs() <= real * 2.0**-10 + 2.0**-24).all()


def test_a_bundle_keeps_the_prior(tiny: Bundle) -> None:
    weights = weights_of_bundle(tiny)
    prior = {name: array for name, array in tiny.lab.items() if name.startswith("entropy_bottleneck.")}
    assert len(prior) == 15
    for name, array in prior.items():
        assert np.array_equal(weights[name].numpy(), array)


def edit(tiny: Bundle, folder: Path, part: str, arrays: dict[str, Any]) -> Path:
    parts = {ANALYSIS: tiny.analysis, SYNTHESIS: tiny.synthesis, ENTROPY: tiny.entropy, LAB: tiny.lab}
    parts[part] = {name: array for name, array in {**parts[part], **arrays}.items() if array is not None}
    return write_bundle(folder / "edited", manifest_document(tiny.manifest), parts).path


@pytest.mark.parametrize(
    ("part", "arrays", "message"),
    [
        (LAB, {"h_s.0.unit": np.zeros(1, np.float32)}, "above zero"),
        (LAB, {"h_s.4.unit": None}, "h_s.4.unit"),
        (LAB, {"h_s.4.unit": np.ones(3, np.float32)}, "h_s.4.unit"),
        (LAB, {"surprise": np.ones(3, np.float32)}, "surprise"),
        (SYNTHESIS, {"g_s.1.beta": np.full(8, -1, np.float16)}, "negative"),
        (SYNTHESIS, {"g_s.0.weight": np.ones((2, 2), np.float16)}, "g_s.0.weight"),
        (ENTROPY, {"thresholds": None}, "thresholds"),
    ],
)
def test_odd_bundles_are_refused(tiny: Bundle, tmp_path: Path, part: str, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelDamaged, match=message):
        load_weights(edit(tiny, tmp_path, part, arrays))


def test_damaged_bundles_are_refused(tiny: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny.path, tmp_path / "copy")
    data = bytearray((folder / SYNTHESIS).read_bytes())
    data[-1] ^= 1
    (folder / SYNTHESIS).write_bytes(data)
    with pytest.raises(ModelDamaged, match="checksum"):
        load_weights(folder)


def assert_close(values: Any, expected: np.ndarray[Any, Any]) -> None:
    assert np.abs(values[0].numpy() - expected).max() < 1e-4 * np.abs(expected).max()

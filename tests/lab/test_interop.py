"""interop against CompressAI's own ScaleHyperprior: the same pictures, the same bits, files that it loads."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch deprecates what compressai does while it is imported
    compressai_models = pytest.importorskip("compressai.models")

from regenerate import sample  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from robustcodec.errors import MissingExtra, TrainingError, UsageError  # noqa: E402
from robustcodec.images import Picture, write_picture  # noqa: E402
from robustcodec.lab.checkpoints import load_weights, network_of  # noqa: E402
from robustcodec.lab.hyper import Hyper  # noqa: E402
from robustcodec.lab.interop import compressai_model, fold_step, write_for_compressai  # noqa: E402
from robustcodec.lab.networks import Coded, round_straight_through  # noqa: E402

FILES = ["network.pth.tar", "network.pt", "network.safetensors"]


@pytest.fixture(scope="module")
def network() -> Hyper:
    """A network with every parameter random, so that no error of place can hide behind a zero."""
    generator = torch.Generator().manual_seed(7)
    network = Hyper(8, 12).requires_grad_(False)
    for name, parameter in network.named_parameters():
        noise = torch.rand(parameter.shape, generator=generator)
        parameter.copy_(noise * 0.1 + 0.1 if name.endswith(("beta", "gamma")) else (noise - 0.5) * 0.25)
    network.g_a[6].weight.mul_(2)
    network.h_s[4].bias.add_(4.0)  # scales of the size of y: CompressAI's likelihoods stop at 1e-9, ours do not
    network.entropy_bottleneck.set_quantiles()
    return network


@pytest.fixture(scope="module")
def pictures():  # type: ignore[no-untyped-def]
    return torch.rand((2, 3, 128, 64), generator=torch.Generator().manual_seed(8))


def ours(network: Hyper, pictures, step: float) -> Coded:  # type: ignore[no-untyped-def]
    with torch.no_grad():
        steps = torch.full((pictures.shape[0],), step)
        return network(pictures, steps, round_straight_through, round_straight_through)


def assert_same(coded: Coded, theirs) -> None:  # type: ignore[no-untyped-def]
    assert (coded.x_hat - theirs["x_hat"]).abs().max() < 1e-4
    for bits, name in ((coded.y_bits, "y"), (coded.z_bits, "z")):
        expected = -theirs["likelihoods"][name].log2().sum((1, 2, 3))
        assert bits.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize("step", [0.52, 1.0, 2.7])
def test_a_folded_network_does_what_ours_does_at_its_step(network: Hyper, pictures, step: float) -> None:  # type: ignore[no-untyped-def]
    coded = ours(network, pictures, step)
    with torch.no_grad():
        theirs = compressai_model(network.state_dict(), step)(pictures)
    assert coded.y_bits.min() > 500  # latents that are all zero would prove nothing
    assert_same(coded, theirs)


def test_steps_differ(network: Hyper, pictures) -> None:  # type: ignore[no-untyped-def]
    fine, coarse = ours(network, pictures, 0.52), ours(network, pictures, 2.7)
    assert (fine.y_bits > coarse.y_bits + 100).all()
    assert (fine.x_hat - coarse.x_hat).abs().max() > 0.01


@pytest.mark.parametrize("name", FILES)
def test_compressai_loads_and_codes_with_what_is_written(network: Hyper, pictures, tmp_path: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / name
    write_for_compressai(network.state_dict(), 1.5, path)
    document = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    model = compressai_models.ScaleHyperprior.from_state_dict(document).eval()
    with torch.no_grad():
        assert_same(ours(network, pictures, 1.5), model(pictures))
        coded = model.compress(pictures)  # with the tables of the file: update() was not called
        shown = model.decompress(**coded)["x_hat"]
        expected = model(pictures)["x_hat"].clamp(0, 1)
    assert (shown - expected).abs().max() < 1e-4
    real = 8 * sum(len(string) for strings in coded["strings"] for string in strings)
    estimate = float(ours(network, pictures, 1.5).bits.sum())
    # four strings, each ended by a state of at most 64 bits; scales are those of a table
    assert 0.99 * estimate < real < 1.03 * estimate + 4 * 64


@pytest.mark.parametrize("name", FILES)
def test_what_is_written_loads_here_again(network: Hyper, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_for_compressai(network.state_dict(), 1.0, path)
    again = network_of(load_weights(path), name).state_dict()
    for key, tensor in network.state_dict().items():
        assert torch.equal(again[key], tensor), key


def test_a_checkpoint_of_compressai_computes_the_same_here(pictures) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(3)
    model = compressai_models.ScaleHyperprior(8, 12).eval().requires_grad_(False)
    model.g_a[6].weight.mul_(30)
    model.h_s[4].bias.add_(4.0)
    coded = ours(network_of(model.state_dict(), "theirs"), pictures, 1.0)
    assert coded.y_bits.min() > 100
    assert_same(coded, model(pictures))


def test_folding_leaves_its_argument_and_takes_back_itself(network: Hyper) -> None:
    weights = network.state_dict()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    folded = fold_step(weights, 4.0)
    assert {name for name in before if not torch.equal(folded[name], before[name])} == {
        "g_a.6.weight", "g_a.6.bias", "h_a.0.weight", "h_s.4.weight", "h_s.4.bias", "g_s.0.weight",
    }  # fmt: skip
    back = fold_step(folded, 0.25)
    assert all(torch.equal(back[name], before[name]) and torch.equal(weights[name], before[name]) for name in before)


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan")])
def test_a_step_is_above_zero(network: Hyper, step: float) -> None:
    with pytest.raises(ValueError, match="quantisation step"):
        fold_step(network.state_dict(), step)


def test_other_suffixes_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"network\.onnx must end in"):
        write_for_compressai({}, 1.0, tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


def test_what_is_no_network_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        write_for_compressai({}, 1.0, tmp_path / "network.pt")
    assert not list(tmp_path.iterdir())


def test_without_compressai_it_says_what_to_install(
    network: Hyper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "compressai", None)
    with pytest.raises(MissingExtra, match=r"robustcodec\[lab\]"):
        write_for_compressai(network.state_dict(), 1.0, tmp_path / "network.pt")


def test_the_benchmark_says_what_compressai_cannot_compress(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    picture = tmp_path / "a.png"
    picture.write_bytes(write_picture(Picture(pixels=sample(64, 72)), "PNG"))
    model = root / "tests" / "data" / "tiny" / "hyper-tiny"
    command = [sys.executable, root / "benchmarks" / "codec.py", "--bundle", model, "--pictures", picture]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)}, check=False
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and "a.png has 72x64 pixels" in line and "multiples of 64; crop it" in line

"""The graphs: the bytes are those that the code writes, the numbers those of CompressAI's networks."""

import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from robustcodec import graphs  # noqa: E402
from robustcodec.graphs.digests import DIGESTS  # noqa: E402
from robustcodec.lab.architectures import make_network  # noqa: E402
from robustcodec.lab.graphs import write_all  # noqa: E402
from robustcodec.lab.networks import LIMIT, Gdn  # noqa: E402
from robustcodec.networks import Networks, load, parameters  # noqa: E402

SIZES = {"hyper": (8, 12), "cheng": (8, 8)}


def test_committed_files_are_what_the_code_writes(tmp_path: Path) -> None:
    write_all(tmp_path)
    committed = Path(graphs.__file__).parent
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written.keys() == {*DIGESTS, "digests.py"}
    assert written.keys() == {path.name for path in committed.glob("*.onnx")} | {"digests.py"}
    for name, data in written.items():
        assert data == (committed / name).read_bytes(), name


def test_graphs_are_small_plain_and_name_no_tool() -> None:
    allowed = {"Conv", "Mul", "Div", "Sqrt", "Add", "Abs", "Relu", "LeakyRelu", "Concat", "DepthToSpace", "Min"}
    backward = {"Clip", "Sub", "SpaceToDepth", "Split", "Greater", "Less", "Where"}
    for name in DIGESTS:
        data = (Path(graphs.__file__).parent / name).read_bytes()
        model = onnx.load_model_from_string(data)
        assert len(data) < (12288 if "descent" in name else 8192)
        assert model.producer_name == "" and model.producer_version == ""
        operators = {node.op_type for node in model.graph.node}
        assert operators <= (allowed | backward if "descent" in name else allowed)
        inside = [each.name for each in model.graph.initializer if each.data_location != onnx.TensorProto.EXTERNAL]
        constants = {"hyper": ["zero", "one"], "cheng": ["zero", "one", "slope"]}[name.partition("-")[0]]
        assert inside == (constants if "descent" in name else [])


@pytest.fixture(scope="module", params=list(SIZES))
def arch(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def model(arch: str):  # type: ignore[no-untyped-def]
    """CompressAI's network with every parameter random, so that no error of place can hide behind a zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what compressai does while it is imported
        compressai_models = pytest.importorskip("compressai.models")
    generator = torch.Generator().manual_seed(1)
    if arch == "hyper":
        network = compressai_models.ScaleHyperprior(*SIZES[arch]).eval()
    else:
        network = compressai_models.Cheng2020Anchor(SIZES[arch][0]).eval()
    middle, span = (0.4, 0.3) if arch == "hyper" else (0.5, 0.25)  # such that pictures lie about [0, 1]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.rand(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.3 + 0.2 if name.endswith(("beta", "gamma")) else (noise - middle) * span)
    return network


@pytest.fixture(scope="module")
def networks(model, arch: str) -> Networks:  # type: ignore[no-untyped-def]
    tensors = {}
    for name in parameters(arch, SIZES[arch]):
        if name.endswith(LIMIT):
            continue
        layer = model.get_submodule(name.rpartition(".")[0])
        value = getattr(layer, name.rpartition(".")[2])
        if name.endswith("beta"):
            value = layer.beta_reparam(value)
        if name.endswith("gamma"):
            value = layer.gamma_reparam(value)[:, :, None, None]
        tensors[name] = value.detach().numpy()
    return load(arch, SIZES[arch], tensors, threads=1)


@pytest.mark.parametrize("size", [(16, 16), (16, 48), (64, 32), (80, 112)])
def test_pictures_pass_as_through_compressai(model, arch: str, networks: Networks, size: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    generator = np.random.default_rng(2)
    x = generator.random((3, *size), dtype=np.float32)
    y = networks.analyse(x)
    z = networks.hyper_analyse(y)
    y_hat = np.rint(4 * y)
    x_hat = networks.synthesise(y_hat)
    with torch.no_grad():
        _assert_close(y, model.g_a(torch.from_numpy(x)[None]))
        _assert_close(z, model.h_a(torch.from_numpy(np.abs(y) if arch == "hyper" else y)[None]))
        _assert_close(x_hat, model.g_s(torch.from_numpy(y_hat)[None]))


def _assert_close(values: np.ndarray, expected) -> None:  # type: ignore[no-untyped-def,type-arg]
    expected = expected[0].numpy()
    assert values.shape == expected.shape and values.dtype == np.float32
    assert np.abs(values - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (4, 2), (5, 7)])
def test_gradients_are_those_of_autograd(model, arch: str, networks: Networks, size: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    """Of half the weighted squared error; where the picture is beyond [0, 1], the error is that of the edge."""
    generator = np.random.default_rng(3)
    y_hat = generator.normal(0, 2, (SIZES[arch][1], *size)).astype(np.float32)
    height, width = 16 * size[0], 16 * size[1]
    target = generator.random((3, height, width), dtype=np.float32)
    weight = generator.random((1, height, width), dtype=np.float32)
    found = networks.descend(y_hat, target, weight)
    latents = torch.from_numpy(y_hat)[None].requires_grad_(True)
    shown = model.g_s(latents)
    error = (shown.detach().clamp(0, 1) - torch.from_numpy(target)[None]) * torch.from_numpy(weight)[None]
    assert 0.01 < float(((shown > 0) & (shown < 1)).float().mean()) < 0.99
    (expected,) = torch.autograd.grad(shown, latents, error)
    _assert_close(found, expected)


def test_limits_are_those_of_the_lab(model, arch: str) -> None:  # type: ignore[no-untyped-def]
    """Forward and back, with limits that two thirds of what is multiplied exceed."""
    network = make_network(arch, SIZES[arch]).requires_grad_(False)
    network.load_state_dict(
        {**network.state_dict(), **{k: v for k, v in model.state_dict().items() if k in network.state_dict()}}
    )
    gains: list[float] = []
    tensors: dict[str, np.ndarray] = {}  # type: ignore[type-arg]
    latents = torch.from_numpy(np.random.default_rng(4).normal(0, 2, (1, SIZES[arch][1], 3, 4)).astype(np.float32))

    def limit(layer: Gdn, inputs: tuple[torch.Tensor]) -> None:
        beta, gamma = layer.parameters_in_use()
        gain = torch.nn.functional.conv2d(inputs[0] ** 2, gamma[:, :, None, None], beta).sqrt()
        layer.limit.copy_(gain.amin((0, 2, 3)) + (gain.amax((0, 2, 3)) - gain.amin((0, 2, 3))) / 3)
        gains.append(float((gain > layer.limit[:, None, None]).float().mean()))

    inverse = [layer for layer in network.g_s.modules() if isinstance(layer, Gdn) and layer.inverse]
    hooks = [layer.register_forward_pre_hook(limit) for layer in inverse]
    network.synthesise(latents)
    for hook in hooks:
        hook.remove()
    assert len(gains) == 3 and all(0.1 < share < 0.9 for share in gains)
    for name in parameters(arch, SIZES[arch], ("synthesis",)):
        layer, part = network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        if isinstance(layer, Gdn):
            beta, gamma = layer.parameters_in_use()
            tensors[name] = {"beta": beta, "gamma": gamma[:, :, None, None], "limit": layer.limit[:, None, None]}[
                part
            ].numpy()
        else:
            tensors[name] = getattr(layer, part).numpy()
    networks = load(arch, SIZES[arch], tensors, threads=1, networks=("synthesis", "descent"))
    _assert_close(networks.synthesise(latents[0].numpy()), network.synthesise(latents))
    target, weight = torch.rand(3, 48, 64), torch.rand(1, 48, 64)
    moving = latents.clone().requires_grad_()
    shown = network.synthesise(moving)
    (expected,) = torch.autograd.grad(shown, moving, (shown.detach().clamp(0, 1) - target) * weight)
    _assert_close(networks.descend(latents[0].numpy(), target.numpy(), weight.numpy()), expected)

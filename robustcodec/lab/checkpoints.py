"""Weights from elsewhere: a run, a bundle, or a CompressAI checkpoint in any of the wrappings found in the wild."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from robustcodec.bundle import MANIFEST, Bundle, damage_named, find, floats, open_bundle
from robustcodec.errors import ModelDamaged, ModelNotFound, TrainingError, UsageError
from robustcodec.graphs import UNLIMITED, parameters, with_limits
from robustcodec.lab.architectures import untrained
from robustcodec.lab.entropy_models import FactorizedPrior
from robustcodec.lab.networks import LIMIT, Gdn, Network
from robustcodec.lab.runs import Run

_WRAPPINGS = ("state_dict", "network", "model_state_dict", "model", "net")
_LEGACY = {"_matrix": "matrices.", "_bias": "biases.", "_factor": "factors."}
_CONSTANTS = (
    ".bound",
    ".scale_bound",
    ".pedestal",
    ".target",
    ".scale_table",
    "._offset",
    "._quantized_cdf",
    "._cdf_length",
    "context_prediction.mask",
)
"""How the names of what CompressAI stores beside its parameters end; an export makes all of it anew."""

_PICKLED = (b"PK", b"\x80")
"""How torch's files begin: a zip archive, or a pickle of protocol 2 or later."""

Announce = Callable[[str], None]


def find_weights(name: str | None, arch: str | None = None, variant: str | None = None) -> Path:
    """Where weights to begin with are: an installed model's id or fingerprint, a path, or the ordinary hyper model.

    Without a name an architecture or a variant asks for another model. Raises UsageError, ModelError.
    """
    if name is None:
        return find(architecture=arch, variant=variant or "base").path
    if arch or variant:
        raise UsageError("weights to harden are named by --init or by --arch and --variant; give one of the two")
    if os.sep not in name:
        try:
            return find(name).path
        except ModelNotFound:
            if not Path(name).exists():
                raise
    return Path(name)


def load_weights(source: Path) -> dict[str, Tensor]:
    """Read a state dict (float32, on the CPU) from a run folder, a bundle, a safetensors file or a torch checkpoint.

    Of a run, the averaged weights are read. A torch checkpoint is read without executing what it may contain.
    Raises TrainingError, or ModelError for a bundle.
    """
    if (source / MANIFEST).is_file():
        bundle = open_bundle(source)
        with damage_named(source):
            return weights_of_bundle(bundle)
    if source.is_dir():
        state = Run(source).load()
        if state is None:
            raise TrainingError(f"{source} holds no trained state; give a run folder, a bundle or a checkpoint")
        return state.average
    try:
        if source.suffix == ".safetensors":
            document: Any = load_file(source)
        else:
            document = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainingError(f"{source} does not exist; give a run folder, a bundle or a checkpoint") from error
    except (
        OSError,
        SafetensorError,
        RuntimeError,
        ValueError,
        EOFError,
        AttributeError,
        ImportError,
    ) as error:
        raise TrainingError(f"{source} cannot be read as a checkpoint ({type(error).__name__})") from error
    except Exception as error:  # torch's unpickler raises its own classes for whatever it refuses
        with source.open("rb") as file:
            pickled = file.read(2).startswith(_PICKLED)
        if not pickled:
            raise TrainingError(f"{source} is no checkpoint; give a run folder, a bundle or a checkpoint") from error
        raise TrainingError(f"{source} is refused as a checkpoint: it holds more than weights") from error
    return unwrap(document, str(source))


def unwrap(document: Any, source: str) -> dict[str, Tensor]:
    """Find the state dict inside a checkpoint and give its tensors today's names."""
    for _ in range(3):
        inner = next((document[key] for key in _WRAPPINGS if isinstance(document, dict) and key in document), None)
        if inner is None:
            break
        document = inner
    if not isinstance(document, dict) or not any(isinstance(value, Tensor) for value in document.values()):
        raise TrainingError(f"{source} holds no state dict")
    return {
        _modern_name(name): value.float()
        for name, value in document.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def qualities_of(source: Path) -> tuple[float, float]:
    """The qualities that weights were trained for: what their run or bundle says, else quality 4 alone.

    A checkpoint from elsewhere has one step, which counts as that of quality 4.
    """
    if (source / MANIFEST).is_file():
        provenance = open_bundle(source).manifest.provenance
        with suppress(KeyError, TypeError, ValueError, OverflowError):  # a manifest may say anything there
            return float(provenance["recipe"]["quality_low"]), float(provenance["recipe"]["quality_high"])
    run = Run.behind(source)
    if run is not None:
        trained = run.settings().recipe
        return trained.quality_low, trained.quality_high
    return 4.0, 4.0


def network_in(weights: dict[str, Tensor], source: Path) -> tuple[str, tuple[int, int]]:
    """Architecture, N and M of weights. Raises TrainingError if they are no network's that can be hardened."""
    network = network_of(weights, str(source))
    return network.arch, (network.n, network.m)


def network_of(weights: dict[str, Tensor], source: str, announce: Announce = lambda _: None) -> Network:
    """Build the network whose architecture, sizes and weights a state dict holds; see `fill`."""
    network = untrained(weights, source)
    fill(network, weights, source, announce)
    return network


def fill(network: Network, weights: dict[str, Tensor], source: str, announce: Announce = lambda _: None) -> None:
    """Load weights into a network; what it does not use is left aside and, unless always stored, announced.

    Limits of normalisations, which only ours have, may be missing.
    """
    expected = network.state_dict()
    unlimited = {name: torch.full_like(tensor, UNLIMITED) for name, tensor in expected.items() if name.endswith(LIMIT)}
    weights = {**unlimited, **weights}
    for name, tensor in expected.items():
        if name not in weights:
            raise TrainingError(f"{source} lacks {name}, which the {network.arch} network needs")
        if weights[name].shape != tensor.shape:
            raise TrainingError(
                f"{source} has {name} of shape {tuple(weights[name].shape)}; expected {tuple(tensor.shape)}"
            )
        if not bool(torch.isfinite(weights[name]).all()):
            raise TrainingError(f"{source} has values in {name} that are not finite")
    network.load_state_dict({name: weights[name] for name in expected})
    unused = sorted(name for name in weights.keys() - expected.keys() if not name.endswith(_CONSTANTS))
    if unused:
        announce(f"{source} has {len(unused)} tensors that {network.arch} does not use, {unused[0]} among them")


def weights_of_bundle(bundle: Bundle) -> dict[str, Tensor]:
    """Rebuild the state dict that a bundle was made from, but for the rounding to float16 and to integers.

    Raises ModelError.
    """
    # only here: what trains on a GPU machine needs no ONNX Runtime
    from robustcodec.architectures.hyperprior import transforms_in
    from robustcodec.lab.integers import integers_of, unit_shapes

    architecture, sizes = bundle.manifest.architecture, bundle.manifest.sizes
    if len(sizes) != 2:
        raise ModelDamaged(f"{bundle.path} has {len(sizes)} sizes, but a model has two")
    n, m = sizes
    integers = integers_of(architecture)
    real: dict[str, NDArray[np.float32]] = {}
    for arrays, names in (
        (transforms_in(bundle.analysis), ("analysis", "hyper_analysis")),
        (bundle.synthesis, ("synthesis",)),
    ):
        shapes = {key: shape for name in names for key, shape in parameters(architecture, (n, m), name).items()}
        real |= floats(with_limits(arrays, shapes), shapes, "transforms")
    prior = {f"entropy_bottleneck.{name}": tensor for name, tensor in FactorizedPrior(n).state_dict().items()}
    units = unit_shapes(integers.specs(n, m))
    kept = floats(bundle.lab, {**{name: tuple(tensor.shape) for name, tensor in prior.items()}, **units}, "lab part")
    if not all((kept[name] > 0).all() for name in units):
        raise ModelDamaged(f"{bundle.path} has units of its integer layers that are not above zero")
    layers = integers.parameters(bundle.entropy, n, m).layers
    return {
        **{name: torch.from_numpy(array) for name, array in real.items()},
        **_normalisations(real),
        **integers.real(layers, {name: kept[name] for name in units}),
        **{name: torch.from_numpy(kept[name]) for name in prior},
    }


def _normalisations(real: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Give the parameters of the normalisations as they are stored, instead of effective."""
    result: dict[str, Tensor] = {}
    for layer in (name.removesuffix(".beta") for name in real if name.endswith(".beta")):
        beta, gamma = (torch.from_numpy(real[f"{layer}.{part}"]) for part in ("beta", "gamma"))
        if beta.min() < 0 or gamma.min() < 0:
            raise ModelDamaged(f"{layer} of the model has negative parameters, whose roots cannot be stored")
        normalisation = Gdn(beta.shape[0])
        normalisation.set_parameters(beta, gamma[:, :, 0, 0])
        result |= {f"{layer}.{name}": tensor for name, tensor in normalisation.state_dict().items()}
        if f"{layer}.limit" in real:
            result[f"{layer}.limit"] = torch.from_numpy(real[f"{layer}.limit"]).flatten()
    return result


def _modern_name(name: str) -> str:
    """Drop DataParallel's prefix and translate the entropy bottleneck's older names (_matrix0 -> matrices.0)."""
    name = name.removeprefix("module.")
    head, _, last = name.rpartition(".")
    for old, new in _LEGACY.items():
        if last.startswith(old) and last[len(old) :].isdigit():
            return f"{head}.{new}{last[len(old) :]}"
    return name

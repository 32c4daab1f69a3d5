"""Weights from elsewhere: a run, a bundle, or a CompressAI checkpoint in any of the wrappings found in the wild."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from robustcodec.bundle import MANIFEST, Bundle, damage_named, floats, open_bundle
from robustcodec.errors import ModelDamaged, TrainingError
from robustcodec.exact import Kind
from robustcodec.graphs import parameters
from robustcodec.lab.entropy_models import FactorizedPrior
from robustcodec.lab.networks import Gdn, Hyper
from robustcodec.lab.runs import Run
from robustcodec.rate import STEP_UNIT

if TYPE_CHECKING:
    from robustcodec.architectures.hyper import EntropyParameters

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
)
"""How the names of what CompressAI stores beside its parameters end; an export makes all of it anew."""

_MAX_CHANNELS = 1024

Announce = Callable[[str], None]


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


def network_of(weights: dict[str, Tensor], source: str, announce: Announce = lambda _: None) -> Hyper:
    """Build the network whose sizes and weights a state dict holds; see `fill`."""
    if "g_a.0.weight" not in weights or "g_a.6.weight" not in weights:
        raise TrainingError(f"{source} is no scale hyperprior (hyper): it lacks g_a.0.weight or g_a.6.weight")
    n, m = (weights[name].shape[:1].numel() for name in ("g_a.0.weight", "g_a.6.weight"))
    if not (1 <= n <= _MAX_CHANNELS and 1 <= m <= _MAX_CHANNELS):
        raise TrainingError(f"{source} has {n} and {m} channels; a network has 1 to {_MAX_CHANNELS} of each")
    network = Hyper(n, m)
    fill(network, weights, source, announce)
    return network


def fill(network: Hyper, weights: dict[str, Tensor], source: str, announce: Announce = lambda _: None) -> None:
    """Load weights into a network; what it does not use is left aside and, unless always stored, announced."""
    expected = network.state_dict()
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
    from robustcodec.architectures.hyper import EntropyParameters

    architecture, sizes = bundle.manifest.architecture, bundle.manifest.sizes
    if architecture != Hyper.arch or len(sizes) != 2:
        raise ModelDamaged(f"{bundle.path} is no hyper model with two sizes, which is all that can be read so far")
    n, m = sizes
    real: dict[str, NDArray[np.float32]] = {}
    for arrays, names in ((bundle.analysis, ("analysis", "hyper_analysis")), (bundle.synthesis, ("synthesis",))):
        shapes = {key: shape for name in names for key, shape in parameters(architecture, (n, m), name).items()}
        real |= floats(arrays, shapes, "transforms")
    prior = {f"entropy_bottleneck.{name}": tensor for name, tensor in FactorizedPrior(n).state_dict().items()}
    units = {"h_s.0.unit": (1,), "h_s.2.unit": (1,), "h_s.4.unit": (m,)}
    kept = floats(bundle.lab, {**{name: tuple(tensor.shape) for name, tensor in prior.items()}, **units}, "lab part")
    if not all((kept[name] > 0).all() for name in units):
        raise ModelDamaged(f"{bundle.path} has units of its integer layers that are not above zero")
    return {
        **{name: torch.from_numpy(array) for name, array in real.items()},
        **_normalisations(real),
        **_hyper_synthesis(EntropyParameters(bundle.entropy, n, m), kept),
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
    return result


def _hyper_synthesis(entropy: "EntropyParameters", units: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Undo `exact.quantise_layer`: integers times the units that were folded into them."""
    result: dict[str, Tensor] = {}
    inputs: NDArray[np.float64] = np.full(1, 1 / STEP_UNIT)
    for layer in entropy.layers:
        name = layer.spec.name
        outputs = units[f"{name}.unit"].astype(np.float64)
        unit = np.ldexp(outputs, -layer.shift.astype(np.int32))
        weight = layer.weight * (unit / inputs)[:, None, None, None]
        if layer.spec.kind is Kind.DECONV:
            weight = weight.swapaxes(0, 1)  # torch keeps a transposed convolution's inputs first
        result[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(weight, np.float32))
        result[f"{name}.bias"] = torch.from_numpy((layer.bias * unit).astype(np.float32))
        inputs = outputs
    return result


def _modern_name(name: str) -> str:
    """Drop DataParallel's prefix and translate the entropy bottleneck's older names (_matrix0 -> matrices.0)."""
    name = name.removeprefix("module.")
    head, _, last = name.rpartition(".")
    for old, new in _LEGACY.items():
        if last.startswith(old) and last[len(old) :].isdigit():
            return f"{head}.{new}{last[len(old) :]}"
    return name

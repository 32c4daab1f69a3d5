"""Weights from elsewhere: a run, a bundle, or a CompressAI checkpoint in any of the wrappings found in the wild."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from robustcodec.errors import TrainingError
from robustcodec.lab.networks import Hyper
from robustcodec.lab.runs import Run

_WRAPPINGS = ("state_dict", "network", "model_state_dict", "model", "net")
_LEGACY = {"_matrix": "matrices.", "_bias": "biases.", "_factor": "factors."}


def load_weights(source: Path) -> dict[str, Tensor]:
    """Read a state dict (float32, on the CPU) from a run folder, a safetensors file or a torch checkpoint.

    Of a run, the averaged weights are read. A torch checkpoint is read without executing what it may contain.
    """
    if source.is_dir():
        state = Run(source).load()
        if state is None:
            raise TrainingError(f"{source} holds no trained state; give a run folder, a bundle or a checkpoint.")
        return state.average
    try:
        if source.suffix == ".safetensors":
            document: Any = load_file(source)
        else:
            document = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainingError(f"{source} does not exist; give a run folder, a bundle or a checkpoint.") from error
    except (
        OSError,
        SafetensorError,
        RuntimeError,
        ValueError,
        EOFError,
        AttributeError,
        ImportError,
    ) as error:
        raise TrainingError(f"{source} cannot be read as a checkpoint ({type(error).__name__}).") from error
    except Exception as error:  # torch's unpickler raises its own classes for whatever it refuses
        raise TrainingError(f"{source} is refused as a checkpoint: it holds more than weights.") from error
    return unwrap(document, str(source))


def unwrap(document: Any, source: str) -> dict[str, Tensor]:
    """Find the state dict inside a checkpoint and give its tensors today's names."""
    for _ in range(3):
        inner = next((document[key] for key in _WRAPPINGS if isinstance(document, dict) and key in document), None)
        if inner is None:
            break
        document = inner
    if not isinstance(document, dict) or not any(isinstance(value, Tensor) for value in document.values()):
        raise TrainingError(f"{source} holds no state dict.")
    return {
        _modern_name(name): value.float()
        for name, value in document.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def network_of(weights: dict[str, Tensor], source: str) -> Hyper:
    """Build the network whose sizes and weights a state dict holds."""
    if "g_a.0.weight" not in weights or "g_a.6.weight" not in weights:
        raise TrainingError(f"{source} is no scale hyperprior (hyper): it lacks g_a.0.weight or g_a.6.weight.")
    network = Hyper(weights["g_a.0.weight"].shape[0], weights["g_a.6.weight"].shape[0])
    fill(network, weights, source)
    return network


def fill(network: Hyper, weights: dict[str, Tensor], source: str) -> None:
    """Load weights into a network; what a network does not use (tables, bounds) is left aside."""
    expected = network.state_dict()
    for name, tensor in expected.items():
        if name not in weights:
            raise TrainingError(f"{source} lacks {name}, which the {network.arch} network needs.")
        if weights[name].shape != tensor.shape:
            raise TrainingError(
                f"{source} has {name} of shape {tuple(weights[name].shape)}; expected {tuple(tensor.shape)}."
            )
        if not bool(torch.isfinite(weights[name]).all()):
            raise TrainingError(f"{source} has values in {name} that are not finite.")
    network.load_state_dict({name: weights[name] for name in expected})


def _modern_name(name: str) -> str:
    """Drop DataParallel's prefix and translate the entropy bottleneck's older names (_matrix0 -> matrices.0)."""
    name = name.removeprefix("module.")
    head, _, last = name.rpartition(".")
    for old, new in _LEGACY.items():
        if last.startswith(old) and last[len(old) :].isdigit():
            return f"{head}.{new}{last[len(old) :]}"
    return name

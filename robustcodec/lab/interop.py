"""Networks as CompressAI knows them; the only module that imports compressai.

CompressAI's ScaleHyperprior has no quantisation step: it rounds y itself. A network at step s is the same function
as a network without a step whose layers next to y work in units of s:

    last layer of the analysis            / s      y comes out as y / s
    first layer of the hyper analysis     * s      and is read as y
    last layer of the hyper synthesis     / s      scales are those of y / s
    first layer of the synthesis          * s      y_hat is read as s * round(y / s)
"""

import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from robustcodec.errors import MissingExtra, UsageError
from robustcodec.files import write_output
from robustcodec.lab.checkpoints import network_of

Weights = Mapping[str, Tensor]


def write_for_compressai(weights: Weights, step: float, path: Path) -> None:
    """Write a network at a quantisation step as a state dict that CompressAI's ScaleHyperprior loads.

    `weights` are our state dict (see `checkpoints.load_weights`), `step` is above zero, in units of y. The suffix
    of the path chooses the format: .safetensors, or .pth, .pt and .tar for torch's own.
    Raises UsageError for another suffix, TrainingError for weights that are no hyper network, MissingExtra without
    compressai, OutputError.
    """
    serialise = _format(path)
    write_output(path, serialise(scale_hyperprior(weights, step).state_dict()))


def scale_hyperprior(weights: Weights, step: float) -> Any:
    """Build CompressAI's ScaleHyperprior of a network at a quantisation step, in evaluation mode, tables updated."""
    network = network_of(dict(weights), "the network")
    network.entropy_bottleneck.set_quantiles()
    try:
        with warnings.catch_warnings():
            # torch deprecates what compressai does while it is imported
            warnings.simplefilter("ignore")
            from compressai.models import ScaleHyperprior
    except ImportError as error:
        raise MissingExtra(
            "this needs CompressAI, which has releases for Python up to 3.12; install it with: "
            "pip install 'robustcodec[lab]'"
        ) from error
    model = ScaleHyperprior(network.n, network.m)
    # what ours lacks are constants that it has made itself, and tables that update() makes
    model.load_state_dict({**model.state_dict(), **fold_step(network.state_dict(), step)})
    model.eval().requires_grad_(False).update(force=True)
    return model


def fold_step(weights: Weights, step: float) -> dict[str, Tensor]:
    """Give a state dict that does at step 1 what `weights` does at `step`, but for the unit of y."""
    if not step > 0:
        raise ValueError(f"a quantisation step of {step}")
    return {
        **weights,
        "g_a.6.weight": weights["g_a.6.weight"] / step,
        "g_a.6.bias": weights["g_a.6.bias"] / step,
        "h_a.0.weight": weights["h_a.0.weight"] * step,
        "h_s.4.weight": weights["h_s.4.weight"] / step,
        "h_s.4.bias": weights["h_s.4.bias"] / step,
        "g_s.0.weight": weights["g_s.0.weight"] * step,
    }


def _format(path: Path) -> Callable[[dict[str, Tensor]], bytes]:
    if path.suffix == ".safetensors":
        return lambda tensors: save({name: tensor.contiguous() for name, tensor in tensors.items()})
    if path.suffix in (".pth", ".pt", ".tar"):
        return _torch_file
    raise UsageError(f"{path.name} must end in .safetensors, .pth, .pt or .pth.tar to hold a CompressAI state dict")


def _torch_file(tensors: dict[str, Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()

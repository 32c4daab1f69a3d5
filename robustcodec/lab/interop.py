"""Networks as CompressAI knows them; the only module that imports compressai.

CompressAI's networks have no quantisation step: they round y itself. A network at step s is the same function as a
network without a step whose layers next to y work in units of s:

    last layer of the analysis            / s      y comes out as y / s
    first layer of the hyper analysis     * s      and is read as y
    last layer of scales (and means)      / s      they are those of y / s
    first layer of the synthesis          * s      y_hat is read as s * y_hat / s
    masked convolution, if there is one   * s      and so it is there

The synthesis of cheng begins with a residual block, whose identity cannot be scaled: there the block works in units
of s, which its activations leave as they are, and the layers after it read s times what it gives.
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
from robustcodec.graphs import UNLIMITED
from robustcodec.lab.architectures import kind_of
from robustcodec.lab.checkpoints import Announce, network_of
from robustcodec.lab.networks import LIMIT

Weights = Mapping[str, Tensor]


def write_for_compressai(weights: Weights, step: float, path: Path, warn: Announce = lambda _: None) -> None:
    """Write a network at a quantisation step as a state dict that CompressAI loads: ScaleHyperprior, Cheng2020Anchor.

    `weights` are our state dict (see `checkpoints.load_weights`), `step` is above zero, in units of y. The suffix
    of the path chooses the format: .safetensors, or .pth, .pt and .tar for torch's own. Limits of normalisations
    are left out, with a warning.
    Raises UsageError for another suffix, TrainingError for weights of no network that is known, MissingExtra without
    compressai, OutputError.
    """
    serialise = _format(path)
    if any(name.endswith(LIMIT) and bool((tensor < UNLIMITED).any()) for name, tensor in weights.items()):
        warn(
            "CompressAI has no limits of normalisations: attacks reach more there, and photographs may decode otherwise"
        )
    write_output(path, serialise(compressai_model(weights, step).state_dict()))


def compressai_model(weights: Weights, step: float) -> Any:
    """Build CompressAI's model of a network at a quantisation step, in evaluation mode, tables updated."""
    network = network_of(dict(weights), "the network")
    network.entropy_bottleneck.set_quantiles()
    try:
        with warnings.catch_warnings():
            # torch deprecates what compressai does while it is imported
            warnings.simplefilter("ignore")
            from compressai import models
    except ImportError as error:
        raise MissingExtra(
            "this needs CompressAI, which has releases for Python up to 3.12; install it with: "
            "pip install 'robustcodec[lab]'"
        ) from error
    model = network.in_compressai(models)
    # what ours lacks are constants that it has made itself, and tables that update() makes
    known = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(LIMIT)}
    model.load_state_dict({**model.state_dict(), **fold_step(known, step)})
    model.eval().requires_grad_(False).update(force=True)
    return model


def fold_step(weights: Weights, step: float) -> dict[str, Tensor]:
    """Give a state dict that does at step 1 what `weights` does at `step`, but for the unit of y."""
    if not step > 0:
        raise ValueError(f"a quantisation step of {step}")
    kind = kind_of(weights, "the network")
    divided = [f"{layer}.{part}" for layer in kind.DIVIDED for part in ("weight", "bias")]
    multiplied = [f"{layer}.weight" for layer in kind.MULTIPLIED]
    return {
        **weights,
        **{name: weights[name] / step for name in divided},
        **{name: weights[name] * step for name in multiplied},
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

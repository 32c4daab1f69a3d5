"""Keeps the mean of what a trained network decodes to that of the pictures.

Training in bfloat16 leaves an error of some tenths of a level, the same everywhere: what its rounding does to weights
and latents shifts the mean, training makes up for that, and in float32, in which the codec computes, the correction is
all that is left.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from robustcodec.lab.attacks.victim import NetworkVictim, code
from robustcodec.lab.checkpoints import network_of
from robustcodec.lab.data import centre_crops
from robustcodec.pixels import Pixels

_CROP = 256
_PICTURES = 24


def levelled(weights: Mapping[str, Tensor], pictures: Sequence[Pixels]) -> dict[str, Tensor]:
    """Give weights whose last bias is corrected by the mean error, of each colour, on pictures uint8 (H, W, 3).

    It is measured at quality 4, latents rounded, on the middles of a few of the pictures.
    """
    network = network_of(dict(weights), "the checkpoint").eval()
    name = [name for name, _ in network.named_parameters() if name.startswith("g_s.") and name.endswith(".bias")][-1]
    error = _mean_error(NetworkVictim(network, 1.0), pictures[:: max(1, len(pictures) // _PICTURES)])
    bias = weights[name]
    # where the last convolution gives the four pixels of a place as channels, those of a colour follow one another
    return {**weights, name: bias - error.repeat_interleave(bias.numel() // error.numel())}


@torch.no_grad()
def _mean_error(victim: NetworkVictim, pictures: Sequence[Pixels]) -> Tensor:
    """Mean (3,) of decoded minus given, in [0, 1]."""
    side = min(_CROP, max(min(picture.shape[:2]) for picture in pictures))
    crops = torch.split(centre_crops(pictures, side), 1)
    return torch.stack([(code(victim, crop, crop).x_hat - crop).mean((0, 2, 3)) for crop in crops]).mean(0)

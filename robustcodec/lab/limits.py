"""Sets the limits of inverse normalisations by what photographs need."""

import torch
import torch.nn.functional as F
from torch import Tensor

from robustcodec.lab.networks import Gdn, Network, round_straight_through

CROPS = 256
"""How many training crops limits are measured on."""
_AT_ONCE = 8


@torch.no_grad()
def limit_gains(network: Network, crops: Tensor, quantile: float) -> None:
    """Limit what each channel of an inverse normalisation multiplies by, in place.

    The limit is the quantile over crops (K, 3, H, W) in [0, 1] of the most it multiplies by in each of them, decoded at
    step 1; limits that there were still hold.
    """
    found: dict[Gdn, list[Tensor]] = {}

    def note(layer: Gdn, inputs: tuple[Tensor]) -> None:
        beta, gamma = layer.parameters_in_use()
        gain = F.conv2d(inputs[0].square(), gamma[:, :, None, None], beta).sqrt()
        found.setdefault(layer, []).append(gain.amax((2, 3)))

    inverse = [layer for layer in network.g_s.modules() if isinstance(layer, Gdn) and layer.inverse]
    hooks = [layer.register_forward_pre_hook(note) for layer in inverse]
    step = crops.new_ones(1, 1, 1, 1)
    try:
        for some in torch.split(crops, _AT_ONCE):
            network.synthesise(network.quantised(network.analyse(some), step, round_straight_through))
    finally:
        for hook in hooks:
            hook.remove()
    for layer, gains in found.items():
        layer.limit.copy_(torch.minimum(layer.limit, torch.cat(gains).quantile(quantile, dim=0)))

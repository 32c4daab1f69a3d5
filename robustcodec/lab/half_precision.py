"""A network's transforms as they are shipped: float16, and GDN's parameters as they act."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from robustcodec.lab.checkpoints import network_of
from robustcodec.lab.integers import Arrays
from robustcodec.lab.networks import Convolution, Gdn, Network


def half_precision(weights: Mapping[str, Tensor], announce: Callable[[str], None]) -> Network:
    """Build the network with its transforms rounded to float16, as they are shipped, and its quantiles set."""
    network = network_of(dict(weights), "the checkpoint", announce).eval().requires_grad_(False)
    for _, layer in layers(network):
        if isinstance(layer, Gdn):
            beta, gamma = layer.parameters_in_use()
            layer.set_parameters(beta.half().float().clamp(min=2.0**-14), gamma.half().float())
            if layer.limited:
                layer.limit.copy_(layer.limit.clamp(max=torch.finfo(torch.half).max).half())
        else:
            for parameter in layer.parameters():
                parameter.copy_(parameter.half().float())
    network.entropy_bottleneck.set_quantiles()
    return network


def transform_arrays(network: Network) -> tuple[Arrays, Arrays]:
    """Arrays of the analysis part (g_a, h_a) and the synthesis part (g_s): float16, GDN's parameters as they act."""

    def arrays(*transforms: str) -> Arrays:
        result: Arrays = {}
        for name, layer in layers(network, *transforms):
            if isinstance(layer, Gdn):
                beta, gamma = layer.parameters_in_use()
                # float16 of a value that is float16 but for the last bits of its square root
                result[f"{name}.beta"] = beta.half().numpy()
                result[f"{name}.gamma"] = gamma.half().numpy()[:, :, None, None]
                if layer.limited:
                    result[f"{name}.limit"] = layer.limit.half().numpy()[:, None, None]
            else:
                for key, parameter in layer.named_parameters():
                    result[f"{name}.{key}"] = parameter.half().numpy()
        return result

    return arrays("g_a", "h_a"), arrays("g_s")


def layers(network: Network, *transforms: str) -> Iterator[tuple[str, Gdn | Convolution]]:
    """Go through the layers of some of the transforms, by default of all."""
    for transform in transforms or ("g_a", "h_a", "g_s"):
        for name, layer in network.get_submodule(transform).named_modules(prefix=transform):
            if isinstance(layer, Gdn | torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                yield name, layer

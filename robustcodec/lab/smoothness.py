"""smooth_loss of the paper (equation 1): how strongly the rate and the latents answer to a change of the picture.

Both terms count noise by its root mean square over the samples of a crop, as budgets do, so a weight means the same
for crops of any size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcodec.lab.losses import Batch
from robustcodec.lab.networks import Network


@dataclass(frozen=True)
class Smoothness:
    """Both terms for each crop, (B,), differentiable in the network's parameters; a term not asked for is zero.

    bpp: norm of the gradient of bpp_main, the bits of y alone per pixel: by how many bits per pixel the worst noise
    raises it, to first order, per unit of the noise's root mean square.
    latents: root of the energy that y gains per sample of white noise of unit variance; for an orthonormal transform
    that keeps all it is 1.
    """

    bpp: Tensor
    latents: Tensor


def smoothness(network: Network, batch: Batch, *, bpp: bool = True, latents: bool = True) -> Smoothness:
    """Differentiate the bits of y, and y itself, with respect to the batch's crops.

    The Jacobian of y is not formed: for v of independent standard normals the mean of ||v dy/dx||^2 is its squared
    Frobenius norm, and one v a crop and step, from the batch's generator, estimates it (Hoffman 2019).
    """
    x = batch.x.detach().requires_grad_()
    y = network.analyse(x)
    zero = torch.zeros_like(batch.step)
    of_bpp = of_latents = zero
    if bpp:
        y_bits, _ = network.code_length(y, batch.step, batch.quantisers()[0])
        # bpp = bits / (H W), and a unit of root mean square is a length of (3 H W)^(1/2)
        of_bpp = _gradient_norm(y_bits.sum(), x) * (math.sqrt(x[0].numel()) / (x.shape[2] * x.shape[3]))
    if latents:
        v = batch.random(torch.randn, y.shape).to(y)
        of_latents = _gradient_norm((v * y).sum(), x) / math.sqrt(x[0].numel())
    return Smoothness(of_bpp, of_latents)


def _gradient_norm(value: Tensor, x: Tensor) -> Tensor:
    """Norm (B,) of each crop's part of the gradient, to be differentiated once more."""
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    norm: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return norm

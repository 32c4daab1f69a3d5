"""The arithmetic of generalised divisive normalisation, with a backward pass of its own.

Half of a network's values pass through it, and plain autograd keeps four copies of them and walks over them some
thirty times a step. Here two copies are kept, and each is read and written a few times: on a CPU in blocks that stay
in its cache, on a GPU without falling back to float32 for the root, as autocast would.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK_BYTES = 2**20
"""What a CPU works on at a time; a quarter or four times as much is no faster."""


def normalise(x: Tensor, beta: Tensor, gamma: Tensor, exponent: float, ceiling: Tensor | None = None) -> Tensor:
    """Give x * norm ** exponent with norm = beta + gamma x^2, for x (B, C, H, W) and an exponent of 1/2 or -1/2.

    With a ceiling (C,) a larger norm counts as that, and has no gradient. All have one type. The result is in
    channels-last order.
    """
    if not torch.is_grad_enabled():
        return _like(_normalised(_rows(x), beta, gamma, exponent, ceiling), x)
    result: Tensor = _Normalise.apply(x, beta, gamma, exponent, ceiling)
    return result


def _plain(x: Tensor, beta: Tensor, gamma: Tensor, exponent: float, ceiling: Tensor | None) -> Tensor:
    """The same by operations that autograd knows."""
    norm = F.conv2d(x * x, gamma[:, :, None, None], beta)
    if ceiling is not None:
        most = ceiling[:, None, None]
        norm = torch.where(norm < most, norm, most)
    return x * _power(norm, exponent)


def _normalised(
    values: Tensor, beta: Tensor, gamma: Tensor, exponent: float, ceiling: Tensor | None, norm: Tensor | None = None
) -> Tensor:
    """Normalise rows (n, C), block by block, and leave their norm in `norm` where somebody wants it."""
    result = torch.empty_like(values)
    for rows in _blocks(values):
        block = torch.empty_like(values[rows]) if norm is None else norm[rows]
        torch.addmm(beta, values[rows].square(), gamma.T, out=block)
        if ceiling is not None:
            torch.minimum(block, ceiling, out=block)
        torch.mul(values[rows], _power(block, exponent), out=result[rows])
    return result


class _Normalise(torch.autograd.Function):
    """With e the exponent, n the norm, t = g n^e and d = t x / n: dx = t + 2e x (d gamma), dn = e d.

    Where n is at its ceiling d is 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor, gamma: Tensor, exponent: float, ceiling: Tensor | None) -> Tensor:
        values = _rows(x)
        norm = torch.empty_like(values)
        result = _normalised(values, beta, gamma, exponent, ceiling, norm)
        ctx.save_for_backward(x, beta, gamma, norm, ceiling)
        ctx.exponent = exponent
        return _like(result, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, beta, gamma, norm, ceiling = ctx.saved_tensors
        (grad,) = grads
        with torch.autocast(x.device.type, enabled=False):
            if torch.is_grad_enabled():  # somebody will differentiate this again
                needed = ctx.needs_input_grad[:3]
                inputs = [tensor for tensor, wanted in zip((x, beta, gamma), needed, strict=True) if wanted]
                plain = _plain(x, beta, gamma, ctx.exponent, ceiling)
                found = iter(torch.autograd.grad(plain, inputs, grad, create_graph=True))
                return *(next(found) if wanted else None for wanted in needed), None, None
            of_parameters = any(ctx.needs_input_grad[1:3])
            return *_gradients(x, gamma, norm, grad, ctx.exponent, ceiling, of_parameters), None, None


def _gradients(
    x: Tensor,
    gamma: Tensor,
    norm: Tensor,
    grad: Tensor,
    exponent: float,
    ceiling: Tensor | None,
    of_parameters: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of x, beta and gamma; the last two, which cost as much as the first, only if they are wanted."""
    values, arriving = _rows(x), _rows(grad)
    result = torch.empty_like(values)
    beta_grad = torch.zeros(gamma.shape[0], device=x.device)
    gamma_grad = torch.zeros(gamma.shape, device=x.device)
    signed = gamma * (2 * exponent)
    for rows in _blocks(values):
        block, block_norm = values[rows], norm[rows]
        direct = arriving[rows] * _power(block_norm, exponent)
        reduced = (direct * block).div_(block_norm)
        if ceiling is not None:  # a factor of type bool would be converted, which takes six times as long
            reduced *= torch.lt(block_norm, ceiling, out=torch.empty_like(reduced))
        torch.addcmul(direct, block, reduced @ signed, out=result[rows])
        if of_parameters:
            beta_grad = beta_grad + reduced.sum(0)
            gamma_grad = gamma_grad + reduced.T @ block.square()
    if not of_parameters:
        return _like(result, x), None, None
    return _like(result, x), (beta_grad * exponent).to(x.dtype), (gamma_grad * exponent).to(x.dtype)


def _power(norm: Tensor, exponent: float) -> Tensor:
    return norm.sqrt() if exponent > 0 else norm.rsqrt()


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B*H*W, C), without a copy if x is in channels-last order."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _like(rows: Tensor, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _blocks(rows: Tensor) -> list[slice]:
    """Cut rows into blocks that a CPU's cache holds; a GPU takes all at once."""
    count = rows.shape[0]
    size = count if rows.is_cuda else max(1, _BLOCK_BYTES // (rows.shape[1] * rows.element_size()))
    return [slice(start, start + size) for start in range(0, count, size)]

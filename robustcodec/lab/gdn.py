"""Generalised divisive normalisation with a backward pass of its own.

Half of a network's values pass through it, and plain autograd walks over them some thirty times a step: more than
a third of a training step on a CPU. Here each value is read and written a handful of times; on a CPU in blocks that
stay in its cache.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustcodec.lab.entropy_models import lower_bound

_BLOCK_BYTES = 2**20


class Gdn(nn.Module):
    """Generalised divisive normalisation, or its inverse (Ballé 2016, equation 3 with exponents 2 and 1/2).

    `beta` and `gamma` hold the square roots of the real parameters plus 2**-36, as CompressAI stores them.
    """

    _PEDESTAL = 2.0**-36
    _BETA_MIN = 1e-6

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.empty(channels))
        self.gamma = nn.Parameter(torch.empty(channels, channels))
        self.set_parameters(torch.ones(channels), 0.1 * torch.eye(channels))

    def parameters_in_use(self) -> tuple[Tensor, Tensor]:
        """Give the real beta (C,) and gamma (C, C), out of the stored square roots."""
        beta = lower_bound(self.beta, (self._BETA_MIN + self._PEDESTAL) ** 0.5) ** 2 - self._PEDESTAL
        gamma = lower_bound(self.gamma, self._PEDESTAL**0.5) ** 2 - self._PEDESTAL
        return beta, gamma

    @torch.no_grad()
    def set_parameters(self, beta: Tensor, gamma: Tensor) -> None:
        """Store real, non-negative beta (C,) and gamma (C, C)."""
        self.beta.copy_((beta + self._PEDESTAL).sqrt())
        self.gamma.copy_((gamma + self._PEDESTAL).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W)."""
        beta, gamma = self.parameters_in_use()
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):
            return normalise(x.to(dtype), beta.to(dtype), gamma.to(dtype), 0.5 if self.inverse else -0.5)


def normalise(x: Tensor, beta: Tensor, gamma: Tensor, exponent: float) -> Tensor:
    """Give x * norm ** exponent with norm = beta + gamma x^2, for x (B, C, H, W) and an exponent of 1/2 or -1/2.

    All have one type. The result is in channels-last order.
    """
    result: Tensor = _Normalise.apply(x, beta, gamma, exponent)  # type: ignore[no-untyped-call]
    return result


def _plain(x: Tensor, beta: Tensor, gamma: Tensor, exponent: float) -> Tensor:
    """The same by operations that autograd knows."""
    norm = F.conv2d(x * x, gamma[:, :, None, None], beta)
    return x * _power(norm, exponent)


class _Normalise(torch.autograd.Function):
    """With e the exponent, n the norm, t = g n^e and d = t x / n: dx = t + 2e x (d gamma), dn = e d."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor, gamma: Tensor, exponent: float) -> Tensor:  # noqa: D102
        values = _rows(x)
        norm, result = torch.empty_like(values), torch.empty_like(values)
        for rows in _blocks(values):
            torch.addmm(beta, values[rows].square(), gamma.T, out=norm[rows])
            torch.mul(values[rows], _power(norm[rows], exponent), out=result[rows])
        ctx.save_for_backward(x, beta, gamma, norm)
        ctx.exponent = exponent
        return _like(result, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, beta, gamma, norm = ctx.saved_tensors
        (grad,) = grads
        exponent = ctx.exponent
        if torch.is_grad_enabled():  # somebody will differentiate this again
            inputs = [tensor for tensor, needed in zip((x, beta, gamma), ctx.needs_input_grad, strict=False) if needed]
            found = iter(torch.autograd.grad(_plain(x, beta, gamma, exponent), inputs, grad, create_graph=True))
            return (*(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None)
        values, arriving = _rows(x), _rows(grad)
        result = torch.empty_like(values)
        of_parameters = any(ctx.needs_input_grad[1:3])
        beta_grad = torch.zeros_like(beta, dtype=torch.float32)
        gamma_grad = torch.zeros_like(gamma, dtype=torch.float32)
        signed = gamma * (2 * exponent)
        for rows in _blocks(values):
            block, block_norm = values[rows], norm[rows]
            direct = arriving[rows] * _power(block_norm, exponent)
            reduced = (direct * block).div_(block_norm)
            if of_parameters:
                beta_grad += reduced.sum(0, dtype=torch.float32)
                gamma_grad += reduced.T @ block.square()
            torch.addcmul(direct, block, reduced @ signed, out=result[rows])
        parameter_grads = (
            ((beta_grad * exponent).to(beta.dtype), (gamma_grad * exponent).to(gamma.dtype))
            if of_parameters
            else (None, None)
        )
        return (_like(result, x), *parameter_grads, None)


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

"""Differentiable code lengths: the Gaussian conditional of y and the factorised prior of z.

Both give bits through an unfloored logarithm. CompressAI floors likelihoods at 1e-9, which gives a saturated
latent the gradient zero: harmless in training, but a rate attack must see it.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE_MIN = 0.11
"""Smallest scale of y's Gaussians, as in CompressAI (and in the integer tables)."""

SCALES = tuple(np.exp(np.linspace(math.log(SCALE_MIN), math.log(256.0), 64)).tolist())
"""Scales that the tables of y stand for, as in CompressAI; a latent takes the nearest in the logarithm."""

SCALE_MIDDLES = np.sqrt(np.array(SCALES[:-1]) * np.array(SCALES[1:]))
"""Where one table ends and the next begins."""

_ESCAPE_BITS = 22.0
"""Bits of an escape symbol, which the tables give a probability near 2^-20, and of the sign and end of its value."""

_LN2 = math.log(2.0)


class _LowerBound(torch.autograd.Function):
    """max(x, bound) whose gradient still pulls values below the bound upwards (Ballé 2018)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound  # type: ignore[attr-defined]
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        (grad,) = grads
        passes = (x >= ctx.bound) | (grad < 0)  # type: ignore[attr-defined]
        return grad * passes, None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """Give max(x, bound), with gradients that may still raise what lies below the bound."""
    result: Tensor = _LowerBound.apply(x, bound)
    return result


def gaussian_bits(values: Tensor, scales: Tensor) -> Tensor:
    """Bits of each value under a zero-mean Gaussian convolved with a unit box.

    `values` and `scales` have one shape and are in units of the quantisation step; scales below `SCALE_MIN`
    count as `SCALE_MIN`. Ballé 2018, equation 9 with a mean of zero.
    """
    scales = lower_bound(scales, SCALE_MIN)
    magnitude = values.abs()
    upper = torch.special.log_ndtr((0.5 - magnitude) / scales)
    lower = torch.special.log_ndtr((-0.5 - magnitude) / scales)
    bits: Tensor = -(upper + _log1m_exp(upper - lower)) / _LN2
    return bits


def escaped(bits: Tensor, symbols: Tensor) -> Tensor:
    """Bits of each symbol when one whose probability is tiny takes an escape code instead.

    A Gaussian's code length grows without bound, and a search that believed it would put all its budget into a few
    latents which a real file codes in some thirty bits. The probabilities of both ways add up, which leaves a
    gradient until the escape is really cheaper.
    """
    escape = _ESCAPE_BITS + 2 * torch.log2(1 + symbols.abs())
    return -torch.logaddexp2(-bits, -escape)


Price = Callable[[Tensor, Tensor], Tensor]
"""Gives bits of each symbol from the symbols and their scales, both in units of the quantisation step."""


def gaussian_price(symbols: Tensor, scales: Tensor) -> Tensor:
    """Bits of each symbol in a file whose tables are Gaussians: at most what an escape code takes."""
    return escaped(gaussian_bits(symbols, scales), symbols)


def _log1m_exp(difference: Tensor) -> Tensor:
    """log(1 - exp(-difference)); the floor only guards against float32 cancelling a difference to zero."""
    return torch.log(-torch.expm1(-difference.clamp(min=1e-9)))


class FactorizedPrior(nn.Module):
    """The factorised prior of z (Ballé 2018, appendix 6.1), with CompressAI's parameter names.

    One univariate density per channel, given by its cumulative function: a small monotone network.
    `quantiles` (C, 1, 3) holds the lower tail, the median and the upper tail; they are found by bisection when a
    model is exported or validated, so training needs no auxiliary optimiser.
    """

    quantiles: Tensor
    _WIDTHS = (1, 3, 3, 3, 3, 1)

    def __init__(self, channels: int, init_scale: float = 3.0, tail_mass: float = 1e-9) -> None:
        super().__init__()
        widths = self._WIDTHS
        layers = len(widths) - 1
        spread = init_scale ** (1 / layers)
        self.matrices = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.factors = nn.ParameterList()
        for index in range(layers):
            start = math.log(math.expm1(1 / spread / widths[index + 1]))
            self.matrices.append(nn.Parameter(torch.full((channels, widths[index + 1], widths[index]), start)))
            self.biases.append(nn.Parameter(torch.rand(channels, widths[index + 1], 1) - 0.5))
            if index < layers - 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, widths[index + 1], 1)))
        self.register_buffer("quantiles", torch.tensor([[[-init_scale, 0.0, init_scale]]]).repeat(channels, 1, 1))
        self._tail_logit = math.log(2 / tail_mass - 1)

    def logits(self, values: Tensor) -> Tensor:
        """Logit of the cumulative function at `values` (C, 1, n)."""
        logits = values
        for index, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            logits = torch.matmul(F.softplus(matrix), logits) + bias
            if index < len(self.factors):
                logits = logits + torch.tanh(self.factors[index]) * torch.tanh(logits)
        return logits

    def bits(self, z: Tensor) -> Tensor:
        """Bits of each element of z (B, C, h, w), at unit step."""
        batch, channels, height, width = z.shape
        values = z.transpose(0, 1).reshape(channels, 1, -1)
        lower = self.logits(values - 0.5)
        upper = self.logits(values + 0.5)
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), whose logarithm never saturates
        log_likelihood = F.logsigmoid(upper) + F.logsigmoid(-lower) + _log1m_exp(upper - lower)
        return (-log_likelihood / _LN2).reshape(channels, batch, height, width).transpose(0, 1)

    def medians(self) -> Tensor:
        """Medians (1, C, 1, 1) around which z is rounded."""
        return self.quantiles[:, 0, 1].reshape(1, -1, 1, 1)

    @torch.no_grad()
    def set_quantiles(self) -> None:
        """Find both tails and the median of every channel by bisection."""
        for index, target in enumerate((-self._tail_logit, 0.0, self._tail_logit)):
            low = torch.full_like(self.quantiles[:, :, :1], -1e5)
            high = -low
            for _ in range(60):
                middle = (low + high) / 2
                below = self.logits(middle) < target
                low = torch.where(below, middle, low)
                high = torch.where(below, high, middle)
            self.quantiles[:, :, index : index + 1] = (low + high) / 2

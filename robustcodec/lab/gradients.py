"""The gradients of a training step: computed eagerly, or on a GPU replayed as one recorded CUDA graph.

An eager step launches several hundred kernels, which takes a CPU about as long as the GPU needs to run them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from robustcodec.lab.losses import Batch, Loss
from robustcodec.lab.networks import Network
from robustcodec.lab.precision import Precision, in_bfloat16

Gradients = Callable[[Batch], dict[str, Tensor]]
"""Leaves a batch's gradients in the network's parameters, instead of any before, and gives the loss's figures."""

_WARM_UPS = 3
_TOLERANCE = 0.05
"""Relative difference allowed between recorded and eager gradients: bfloat16 sums in another order."""


def gradients_of(
    network: Network, loss: Loss, precision: Precision, announce: Callable[[str], None], *, record: bool = True
) -> Gradients:
    """Choose how the network's gradients are computed; why a GPU does not replay them is announced."""
    eager = _eager(network, loss, precision)
    on_gpu = next(network.parameters()).is_cuda
    return _recording(network, eager, announce) if on_gpu and record else eager


def use_fast_kernels(device: torch.device) -> None:
    """On a GPU, let training use TensorFloat-32 where it is not in bfloat16, and the fastest convolutions."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def _eager(network: Network, loss: Loss, precision: Precision) -> Gradients:
    parameters = list(network.parameters())
    device = parameters[0].device
    rough = in_bfloat16(precision, device)

    def compute(batch: Batch) -> dict[str, Tensor]:
        for parameter in parameters:
            parameter.grad = None
        with torch.autocast(device.type, torch.bfloat16, enabled=rough):
            terms = loss(network, batch)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        return {name: figure.detach() for name, figure in terms.figures.items()}

    return compute


def _recording(network: Network, eager: Gradients, announce: Callable[[str], None]) -> Gradients:
    """Record one graph for each kind of batch as it comes, and check it against the eager computation."""
    parameters = list(network.parameters())
    kind: tuple[object, ...] | None = None
    compute = eager

    def record_or_replay(batch: Batch) -> dict[str, Tensor]:
        nonlocal kind, compute
        if batch.strength < 1:  # while attacks grow, each step would have to be recorded
            return eager(batch)
        found = (batch.x.shape, batch.rounding, *(parameter.requires_grad for parameter in parameters))
        if found != kind:
            kind, compute = found, eager
            try:
                recorded = _record(parameters, eager, batch)
                difference = _difference(parameters, eager, recorded, batch)
            except RuntimeError as error:
                announce(f"the step could not be recorded and is computed eagerly: {str(error).splitlines()[0]}")
            else:
                if difference <= _TOLERANCE:
                    compute = recorded
                else:
                    announce(f"the recorded step differs by {difference:.3g} and is computed eagerly")
        return compute(batch)

    return record_or_replay


def _record(parameters: list[torch.nn.Parameter], eager: Gradients, batch: Batch) -> Gradients:
    """Record the computation on fixed buffers, into which later batches are copied."""
    generator = torch.Generator(batch.x.device)
    x, step, lagrangian = batch.x.clone(), batch.step.clone(), batch.lagrangian.clone()
    fixed = Batch(x, step, lagrangian, generator, batch.rounding, batch.strength, batch.part)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            eager(fixed)
    torch.cuda.current_stream().wait_stream(side)
    # gradients made outside would be freed while the graph still writes to them
    for parameter in parameters:
        parameter.grad = None
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        figures = eager(fixed)
    gradients = [parameter.grad for parameter in parameters]

    def replay(batch: Batch) -> dict[str, Tensor]:
        fixed.x.copy_(batch.x)
        fixed.step.copy_(batch.step)
        fixed.lagrangian.copy_(batch.lagrangian)
        generator.set_state(batch.generator.get_state())
        graph.replay()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return figures

    return replay


def _difference(parameters: list[torch.nn.Parameter], eager: Gradients, recorded: Gradients, batch: Batch) -> float:
    """Compare both computations on one batch and its random numbers: ||recorded - eager|| / ||eager||, or infinity."""
    state = batch.generator.get_state()
    eager(batch)
    expected = [parameter.grad for parameter in parameters]
    batch.generator.set_state(state)
    recorded(batch)
    batch.generator.set_state(state)
    error = norm = 0.0
    for parameter, gradient in zip(parameters, expected, strict=True):
        if gradient is not None and parameter.grad is not None:
            error += float((parameter.grad - gradient).square().sum())
            norm += float(gradient.square().sum())
        elif gradient is not parameter.grad:
            return float("inf")
    ratio = (error / norm) ** 0.5 if norm else float("inf")
    return ratio if ratio == ratio else float("inf")

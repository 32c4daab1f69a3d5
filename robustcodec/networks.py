"""Runs the real-valued networks in ONNX Runtime, which no other module imports: arrays in, arrays out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from robustcodec import graphs
from robustcodec.errors import ModelDamaged, ModelError

Float32 = NDArray[np.float32]

STRIDE = 16
"""Pixels of the picture per latent, in each direction."""

_MEMORY_SIGNS = ("Failed to allocate memory", "bad_alloc")
"""What ONNX Runtime's messages about too little memory have in them."""


class Networks:
    """The networks of a model; each one's session is made when it is first used.

    A call raises MemoryError where there is too little memory, and ModelError for what else ONNX Runtime refuses.

    One call at a time computes on `threads` threads. Memory stays at the most that a call has needed (with
    N=128: 0.3 GB per megapixel of the call): callers cut large pictures into tiles.
    """

    def __init__(self, architecture: str, sizes: tuple[int, int], tensors: Mapping[str, Float32], threads: int) -> None:
        """Hold checked parameters; see `load`."""
        self._architecture = architecture
        self._sizes = sizes
        self._tensors = tensors
        self._threads = threads

    def analyse(self, x: Float32) -> Float32:
        """Give latents y (M, H/16, W/16) of a picture x (3, H, W) in [0, 1]; H and W are multiples of 16."""
        if x.shape[1] % STRIDE or x.shape[2] % STRIDE:
            raise ValueError(f"a picture of {x.shape[2]}x{x.shape[1]} is not padded to {STRIDE}")
        return self._analysis.run(x)

    def hyper_analyse(self, y: Float32) -> Float32:
        """Give side information z (N, h/4, w/4), rounded up, of latents y (M, h, w)."""
        return self._hyper_analysis.run(y)

    def synthesise(self, y_hat: Float32) -> Float32:
        """Give a picture (3, 16h, 16w) of latents y_hat (M, h, w).

        It is not clipped to [0, 1], and hostile latents can make it infinite or not a number.
        """
        return self._synthesis.run(y_hat)

    def descend(self, y_hat: Float32, target: Float32, weight: Float32) -> Float32:
        """Give the gradient (M, h, w) of half the sum of weight * (x_hat - target)^2 with respect to y_hat (M, h, w).

        `target` is (3, 16h, 16w) in [0, 1], `weight` (1, 16h, 16w). x_hat is clipped to [0, 1]; what was beyond counts
        as if it had been at the edge.
        """
        return self._descent.run(y_hat, target=target, weight=weight)

    @cached_property
    def _analysis(self) -> "_Session":
        return self._session("analysis")

    @cached_property
    def _hyper_analysis(self) -> "_Session":
        return self._session("hyper_analysis")

    @cached_property
    def _synthesis(self) -> "_Session":
        return self._session("synthesis")

    @cached_property
    def _descent(self) -> "_Session":
        return self._session("descent")

    def _session(self, network: str) -> "_Session":
        names = graphs.parameters(self._architecture, self._sizes, network)
        return _Session(
            graphs.read_graph(self._architecture, self._sizes, network),
            graphs.initialisers(self._architecture, network, {name: self._tensors[name] for name in names}),
            self._threads,
        )


def parameters(
    architecture: str, sizes: tuple[int, int], networks: Sequence[str] = graphs.NETWORKS
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters of some of a model's networks; see `graphs.parameters`."""
    return {
        name: shape for network in networks for name, shape in graphs.parameters(architecture, sizes, network).items()
    }


def load(
    architecture: str,
    sizes: tuple[int, int],
    tensors: Mapping[str, NDArray[Any]],
    threads: int,
    networks: Sequence[str] = graphs.NETWORKS,
) -> Networks:
    """Make networks out of a model's tensors, all or those named. Raises what `checked` does."""
    return Networks(architecture, sizes, checked(architecture, sizes, tensors, networks), threads)


def checked(
    architecture: str, sizes: tuple[int, int], tensors: Mapping[str, NDArray[Any]], networks: Sequence[str]
) -> dict[str, Float32]:
    """Give a model's tensors (float16 or float32), those of the networks named, as they can be computed with.

    Raises ModelError for sizes without graphs, ModelDamaged for tensors that are missing, unknown, of another
    shape or type, not finite, or that could make a normalisation divide by zero.
    """
    shapes = parameters(architecture, sizes, networks)
    tensors = graphs.with_limits(tensors, shapes)
    if tensors.keys() != shapes.keys():
        odd = sorted(tensors.keys() ^ shapes.keys())
        raise ModelDamaged(f"its tensors are not those of {architecture}: {odd[0]} is missing or unknown")
    return {name: _checked(name, tensors[name], shapes[name]) for name in shapes}


def _checked(name: str, tensor: NDArray[np.generic], shape: tuple[int, ...]) -> Float32:
    if tensor.dtype not in (np.float16, np.float32) or tensor.shape != shape:
        raise ModelDamaged(f"{name} is {tensor.dtype} {tensor.shape}, but this network needs float {shape}")
    values = tensor.astype(np.float32)
    if not np.isfinite(values).all():
        raise ModelDamaged(f"{name} holds values that are not finite")
    if (name.endswith((".beta", ".limit")) and values.min() <= 0) or (name.endswith(".gamma") and values.min() < 0):
        raise ModelDamaged(f"{name} holds {values.min()}, which may make its network divide by zero")
    return values


class _Session:
    """One graph with its weights."""

    def __init__(self, graph: bytes, weights: Mapping[str, Float32], threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4  # errors become exceptions; they need not be printed, too
        # planning memory for the whole graph costs twice the memory and gains no time; so does no arena cost
        # a quarter more time (every large array is then new to the kernel)
        options.enable_mem_pattern = False
        # threads that wait by spinning take the cores away from numpy's, and gain nothing measurable here
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # held as long as the session, which may read weights where they are
        with _refusals_translated():
            self._weights = [onnxruntime.OrtValue.ortvalue_from_numpy(weight) for weight in weights.values()]
            options.add_external_initializers(list(weights), self._weights)
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(self, values: Float32, **more: Float32) -> Float32:
        inputs = {name: np.ascontiguousarray(each[None]) for name, each in {"input": values, **more}.items()}
        with _refusals_translated():
            outputs = self._session.run(["output"], inputs)
        result: Float32 = outputs[0][0]
        return result


@contextmanager
def _refusals_translated() -> Iterator[None]:
    """Turn ONNX Runtime's exceptions, which have no class in common, into Python's and ours."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        if any(sign in reason for sign in _MEMORY_SIGNS):
            raise MemoryError(reason) from error
        raise ModelError(
            f"ONNX Runtime cannot run the model ({reason[:200]}); install the model and onnxruntime again"
        ) from error

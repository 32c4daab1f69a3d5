"""Layers in exact integer arithmetic, and the table of each symbol by what they give: the same bits everywhere.

Activations, weights and sums are integers held in float64. Sums of integers below 2**53 are exact in float64
in whatever order a matrix product adds them, so the result depends on no CPU, library or number of threads.
That no sum gets there is proved from the weights (`check_bounds`) when a model is exported and again when it
is loaded.

A layer computes, with a = W x + b for each output channel and its shift s,

    y = clip(floor(a * 2**-s + 1/2))

where a leaky layer first replaces a negative a by a * 41 * 2**-12 (a slope of 0.01001), without rounding in
between. A ReLU is a clip from below at zero. The last layer of a chain may leave out this step and give
its a.
"""

import enum
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcodec.errors import ModelDamaged

Float64 = NDArray[np.float64]

U16 = (0, 65535)
"""Clip of a layer with ReLU."""
S16 = (-32768, 32767)
"""Clip of a layer without, or with leaky ReLU."""

LEAKY_NUMERATOR, LEAKY_BITS = 41, 12
MAX_SHIFT = 30
"""Enough for weights of any use; keeps the rounding term far below 2**53."""
MAX_THRESHOLD = 1 << 47
MAX_THRESHOLDS = 255
"""Per channel, so that a table's index is a byte."""
MAX_STEP = 65535
STEP_UNIT = 1024
"""A quantisation step of R stands for R / 1024."""

_EXACT = 1 << 53
_MAX_WEIGHT = 32767
_MIN_RAW_UNIT = 2.0**-36
"""Keeps thresholds of scales up to 2**10 below MAX_THRESHOLD, however small a channel's weights are."""
_POSITIONS = 1024
"""Positions per matrix product: bounds the memory of the columns, and keeps them in the cache."""


class Kind(enum.Enum):
    """How a layer moves over the plane; both see zeros beyond the border."""

    CONV = "conv"
    """Stride 1, odd kernel, padded to keep the size."""
    DECONV = "deconv"
    """Transposed convolution, 5x5, stride 2, padding 2, output padding 1: doubles the size."""
    SUBPEL = "subpel"
    """As CONV, with four sums for each output: 4 c + 2 i + j goes to row 2 r + i, column 2 k + j. Doubles the size."""


@dataclass(frozen=True)
class LayerSpec:
    """The shape of a layer, which its architecture fixes.

    `clip` holds the smallest and largest output, or is None for a last layer, whose sums are given as they
    are.
    """

    name: str
    kind: Kind
    inputs: int
    outputs: int
    kernel: int
    clip: tuple[int, int] | None
    leaky: bool = False

    def __post_init__(self) -> None:
        if self.kind is Kind.DECONV and self.kernel != 5:
            raise ValueError(f"{self.name}: a transposed convolution has a 5x5 kernel, not {self.kernel}")
        if self.kernel % 2 != 1 or self.inputs < 1 or self.outputs < 1:
            raise ValueError(f"{self.name}: the kernel must be odd and the channel counts positive")
        if self.clip is None and self.leaky:
            raise ValueError(f"{self.name}: a layer whose sums are given as they are has no activation")

    @property
    def sums(self) -> int:
        """Rows of the weight: sums for each position of the input."""
        return 4 * self.outputs if self.kind is Kind.SUBPEL else self.outputs


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A layer with its numbers; one that exists has the right types, shapes and shifts.

    weight: int16 (sums, inputs, kernel, kernel), for a transposed convolution too (torch has inputs
    first).
    bias: int64 (sums,), in units of the sums. shift: uint8 (sums,), 0 to MAX_SHIFT; 0 where clip is
    None.
    Raises ModelDamaged.
    """

    spec: LayerSpec
    weight: NDArray[np.int16]
    bias: NDArray[np.int64]
    shift: NDArray[np.uint8]

    def __post_init__(self) -> None:
        spec = self.spec
        _check_array(
            f"{spec.name}.weight",
            self.weight,
            np.int16,
            (spec.sums, spec.inputs, spec.kernel, spec.kernel),
        )
        _check_array(f"{spec.name}.bias", self.bias, np.int64, (spec.sums,))
        _check_array(f"{spec.name}.shift", self.shift, np.uint8, (spec.sums,))
        largest = 0 if spec.clip is None else MAX_SHIFT
        if int(self.shift.max()) > largest:
            raise ModelDamaged(f"{spec.name}.shift holds {self.shift.max()}, but the limit is {largest}")

    @cached_property
    def phases(self) -> tuple["Phase", ...]:
        """What `apply` multiplies with; made once, since that takes a fifth of its time for a thumbnail."""
        return tuple(_phases(self))

    @cached_property
    def transposed(self) -> Float64:
        """The matrix of a CONV as `apply_at` multiplies with: for few positions a third faster than the other way."""
        return np.ascontiguousarray(self.phases[0].matrix.T)


@dataclass(frozen=True, eq=False)
class Phase:
    """What makes the outputs at the rows and columns of one remainder, row and column, modulo a layer's stride.

    `matrix` (outputs, taps * inputs) multiplies the taps `used`; `bias` and `scale`, 2**-shift, are (outputs, 1).
    """

    row: int
    column: int
    matrix: Float64
    used: slice
    bias: Float64
    scale: Float64


def _check_array(name: str, array: NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ModelDamaged(f"{name} is {array.dtype} {array.shape}, but this network needs {np.dtype(dtype)} {shape}")


def layers_from_arrays(specs: Sequence[LayerSpec], arrays: Mapping[str, NDArray[Any]]) -> tuple[IntegerLayer, ...]:
    """Build layers from the arrays `<name>.weight`, `<name>.bias` and `<name>.shift` of each spec.

    Other arrays are left alone. Raises ModelDamaged if one is missing or of another type or shape. The bounds
    are not checked: call `check_bounds`.
    """
    for spec in specs:
        for part in ("weight", "bias", "shift"):
            if f"{spec.name}.{part}" not in arrays:
                raise ModelDamaged(f"{spec.name}.{part} is missing")
    return tuple(
        IntegerLayer(spec, arrays[f"{spec.name}.weight"], arrays[f"{spec.name}.bias"], arrays[f"{spec.name}.shift"])
        for spec in specs
    )


def layers_to_arrays(layers: Sequence[IntegerLayer]) -> dict[str, NDArray[np.generic]]:
    """Give the arrays that `layers_from_arrays` reads."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for layer in layers:
        arrays[f"{layer.spec.name}.weight"] = layer.weight
        arrays[f"{layer.spec.name}.bias"] = layer.bias
        arrays[f"{layer.spec.name}.shift"] = layer.shift
    return arrays


def bound(layer: IntegerLayer, max_input: int) -> int:
    """Largest magnitude that a value inside the layer can reach on inputs of magnitude up to `max_input`.

    The arithmetic is exact if it is below 2**53. Values are counted in the unit of the last rounding, half a
    step of which is 2**(s-1), or 2**(s+11) after the leaky slope.
    """
    spec = layer.spec
    weights = np.abs(layer.weight.astype(np.int64)).sum((1, 2, 3)).tolist()
    # magnitudes in Python, since that of -2**63 does not fit an int64
    biases = [abs(value) for value in layer.bias.tolist()]
    largest = 0
    for weight, bias, shift in zip(weights, biases, layer.shift.tolist(), strict=True):
        total = weight * max_input + bias
        if spec.leaky:
            total = LEAKY_NUMERATOR * total + (1 << (shift + LEAKY_BITS - 1))
        elif spec.clip is not None:
            # a half counts as a whole: without a shift, 1/2 must still find its place below the sum
            total = 2 * total + 1 if shift == 0 else total + (1 << (shift - 1))
        largest = max(largest, total)
    return largest


def check_bounds(layers: Sequence[IntegerLayer], max_input: int) -> None:
    """Prove that a chain of layers is exact on integers of magnitude up to `max_input`.

    Raises ModelDamaged if it may not be.
    """
    for layer, following in itertools.zip_longest(layers, layers[1:]):
        reached = bound(layer, max_input)
        if reached >= _EXACT:
            raise ModelDamaged(f"{layer.spec.name} can reach {reached}, but its arithmetic is exact only below 2**53")
        if following is None:
            return
        if layer.spec.clip is None or layer.spec.outputs != following.spec.inputs:
            raise ValueError(f"{following.spec.name} cannot follow {layer.spec.name}")
        max_input = max(abs(limit) for limit in layer.spec.clip)


def apply(layer: IntegerLayer, x: Float64) -> Float64:
    """Apply a layer to integers x (inputs, H, W): (outputs, H, W), or (outputs, 2H, 2W) for a DECONV or SUBPEL.

    Exact for inputs within the range that `check_bounds` was given. Products run on the BLAS threads of the
    process.
    """
    spec = layer.spec
    if x.ndim != 3 or x.shape[0] != spec.inputs or x.dtype != np.float64:
        raise ValueError(f"{spec.name} takes float64 ({spec.inputs}, H, W), not {x.dtype} {x.shape}")
    height, width = x.shape[1:]
    stride = 1 if spec.kind is Kind.CONV else 2
    taps = _DECONV_TAPS if spec.kind is Kind.DECONV else _conv_taps(spec.kernel)
    margin = max(dy for dy, _ in taps)
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    result = np.empty((spec.outputs, height * stride, width * stride))
    for top, left, rows, columns in _tiles(height, width):
        window = np.empty((len(taps), spec.inputs, rows, columns))
        for index, (dy, dx) in enumerate(taps):
            row, column = top + margin + dy, left + margin + dx
            window[index] = padded[:, row : row + rows, column : column + columns]
        for phase in layer.phases:
            sums = phase.matrix @ window[phase.used].reshape(phase.matrix.shape[1], rows * columns)
            result[
                :,
                top * stride + phase.row : (top + rows) * stride : stride,
                left * stride + phase.column : (left + columns) * stride : stride,
            ] = _finish(spec, phase, sums).reshape(spec.outputs, rows, columns)
    return result


def apply_at(layer: IntegerLayer, x: Float64) -> Float64:
    """Apply a CONV of kernel 1 to integers x (n, inputs) of n positions: (n, outputs)."""
    (phase,) = layer.phases
    return _finish(layer.spec, phase, (x @ layer.transposed).T).T


def _finish(spec: LayerSpec, phase: Phase, sums: Float64) -> Float64:
    """Turn products W x (outputs, n) into the layer's outputs in place: bias, activation, shift, clip."""
    sums += phase.bias
    if spec.clip is None:
        return sums
    sums *= phase.scale
    if spec.leaky:
        np.multiply(sums, LEAKY_NUMERATOR * 2.0**-LEAKY_BITS, out=sums, where=sums < 0)
    sums += 0.5
    np.floor(sums, out=sums)
    return np.clip(sums, *spec.clip, out=sums)


# Each of the four phases of a transposed convolution's output reads 3x3, 3x2, 2x3 or 2x2 inputs around its
# own position. In this order of the nine, every phase's inputs stand side by side, so that all share one
# matrix.
_DECONV_TAPS: tuple[tuple[int, int], ...] = (
    (-1, -1),
    (-1, 0),
    (-1, 1),
    (0, 0),
    (0, 1),
    (1, 0),
    (1, 1),
    (0, -1),
    (1, -1),
)
_DECONV_USED = {(0, 0): slice(0, 9), (0, 1): slice(1, 7), (1, 0): slice(3, 9), (1, 1): slice(3, 7)}


def _conv_taps(kernel: int) -> tuple[tuple[int, int], ...]:
    margin = kernel // 2
    offsets = range(-margin, margin + 1)
    return tuple((dy, dx) for dy in offsets for dx in offsets)


def _phases(layer: IntegerLayer) -> Iterator[Phase]:
    """Yield what makes each phase of the output."""
    spec = layer.spec
    bias, scale = layer.bias.astype(np.float64)[:, None], np.ldexp(1.0, -layer.shift.astype(np.int32))[:, None]
    if spec.kind is Kind.DECONV:
        for (row, column), used in _DECONV_USED.items():
            # output 2r + p sums weight[k] * input[r + d] over k = p + 2 - 2d
            kernels = [layer.weight[:, :, row + 2 - 2 * dy, column + 2 - 2 * dx] for dy, dx in _DECONV_TAPS[used]]
            yield Phase(row, column, _matrix(kernels), used, bias, scale)
        return
    taps = _conv_taps(spec.kernel)
    margin = spec.kernel // 2
    matrix = _matrix([layer.weight[:, :, dy + margin, dx + margin] for dy, dx in taps])
    if spec.kind is Kind.CONV:
        yield Phase(0, 0, matrix, slice(0, len(taps)), bias, scale)
        return
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        own = slice(2 * row + column, None, 4)
        yield Phase(
            row, column, np.ascontiguousarray(matrix[own]), slice(0, len(taps)), bias[own].copy(), scale[own].copy()
        )


def _matrix(kernels: Sequence[NDArray[np.int16]]) -> Float64:
    return np.concatenate(kernels, axis=1).astype(np.float64)


def _tiles(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (top, left, rows, columns) of tiles of at most _POSITIONS that cover the plane."""
    columns = min(width, _POSITIONS)
    rows = max(1, _POSITIONS // columns)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield top, left, min(rows, height - top), min(columns, width - left)


def check_thresholds(thresholds: NDArray[Any], channels: int, count: int) -> NDArray[np.int64]:
    """Give thresholds back if they are int64 (channels, count), rising (weakly) from 0 to below 2**47.

    `count` is 1 to 255. Raises ModelDamaged otherwise.
    """
    if not 1 <= count <= MAX_THRESHOLDS:
        raise ModelDamaged(f"the model has {count} thresholds per channel, but 1 to {MAX_THRESHOLDS} are possible")
    _check_array("thresholds", thresholds, np.int64, (channels, count))
    if int(thresholds.min()) < 0 or int(thresholds.max()) >= MAX_THRESHOLD:
        raise ModelDamaged(f"thresholds run from {thresholds.min()} to {thresholds.max()}, outside 0 to 2**47 - 1")
    if not (thresholds[:, 1:] >= thresholds[:, :-1]).all():
        raise ModelDamaged("thresholds fall within a channel, but must rise")
    return thresholds


def scale_index(t: Float64, thresholds: NDArray[np.int64], step: int) -> NDArray[np.uint8]:
    """Count for each t of (M, h, w) the thresholds T of its channel (M, K) with t * 1024 >= T * step.

    `t` holds integers below 2**53, `thresholds` passed `check_thresholds`, K is at most 255, `step` 1 to
    65535.
    """
    result = np.empty(t.shape, np.uint8)
    for channel, limit in enumerate(limits_at(thresholds, step)):
        result[channel] = limit.searchsorted(t[channel], side="right")
    return result


def limits_at(thresholds: NDArray[np.int64], step: int) -> Float64:
    """Give whole numbers L of the thresholds' shape such that t >= L is t * 1024 >= T * step, for whole t."""
    if not 1 <= step <= MAX_STEP or thresholds.shape[1] > MAX_THRESHOLDS:
        raise ValueError(f"step {step} or {thresholds.shape[1]} thresholds are out of range")
    # the product is below 2**63, the ceiling of the quotient below 2**53, so that it stays exact as a float64
    return (-(-thresholds * step // STEP_UNIT)).astype(np.float64)


def index_at(t: Float64, limits: Float64) -> NDArray[np.uint8]:
    """Count for each t of (n, M) the limits of its channel (M, K) that it reaches: `scale_index` of few positions."""
    count: NDArray[np.uint8] = (t[:, :, None] >= limits).sum(axis=2, dtype=np.uint8)
    return count


def quantise_layer(
    spec: LayerSpec,
    weight: Float64,
    bias: Float64,
    input_unit: float | Float64,
    output_unit: float,
    max_input: int,
) -> IntegerLayer:
    """Round a real layer to integers: inputs count in `input_unit`, one for all or (inputs,), outputs in `output_unit`.

    weight (sums, inputs, k, k) and bias (sums,) are real. The units are folded into the weights, and each channel
    gets the largest shift with which its weights fit 16 bits and no sum of inputs up to `max_input` leaves half of the
    range in which it is exact to the bias. Raises ModelDamaged if none does.
    """
    weight = weight * np.reshape(np.asarray(input_unit) / output_unit, (-1, 1, 1))
    most = _EXACT // 2 // (LEAKY_NUMERATOR if spec.leaky else 2) // max_input
    magnitudes = np.abs(weight)
    peaks = np.maximum(magnitudes.max((1, 2, 3)), magnitudes.sum((1, 2, 3)) * (_MAX_WEIGHT / most)).tolist()
    shifts = [_largest_shift(spec.name, peak) for peak in peaks]
    scales = np.ldexp(1.0, np.array(shifts, np.int32))
    return IntegerLayer(
        spec,
        np.rint(weight * scales[:, None, None, None]).astype(np.int16),
        _whole_bias(spec.name, bias / output_unit * scales),
        np.array(shifts, np.uint8),
    )


def quantise_last_layer(
    spec: LayerSpec, weight: Float64, bias: Float64, input_unit: float
) -> tuple[IntegerLayer, Float64]:
    """Round the real last layer of a chain (clip None); also give the unit (outputs,) of its sums."""
    weight = weight * input_unit
    units = np.maximum(np.abs(weight).max((1, 2, 3)) / _MAX_WEIGHT, _MIN_RAW_UNIT)
    layer = IntegerLayer(
        spec,
        np.rint(weight / units[:, None, None, None]).astype(np.int16),
        _whole_bias(spec.name, bias / units),
        np.zeros(spec.outputs, np.uint8),
    )
    return layer, units


def _largest_shift(name: str, peak: float) -> int:
    fitting = [shift for shift in range(MAX_SHIFT + 1) if round(peak * 2**shift) <= _MAX_WEIGHT]
    if not fitting:
        raise ModelDamaged(f"{name} has weights too large for 16 bits ({peak:g} in units of its output)")
    return fitting[-1]


def _whole_bias(name: str, bias: Float64) -> NDArray[np.int64]:
    if not (np.abs(bias) < _EXACT).all():
        raise ModelDamaged(f"{name} has biases too large to be exact")
    return np.rint(bias).astype(np.int64)

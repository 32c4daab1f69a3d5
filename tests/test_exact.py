"""Exact layers against integers computed another way, at their bounds, and with other CPUs' kernels."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from robustcodec.errors import ModelDamaged
from robustcodec.exact import (
    MAX_SHIFT,
    S16,
    U16,
    IntegerLayer,
    Kind,
    LayerSpec,
    apply,
    apply_at,
    bound,
    check_bounds,
    check_thresholds,
    layers_from_arrays,
    layers_to_arrays,
    quantise_last_layer,
    quantise_layer,
    scale_index,
)

Int64 = NDArray[np.int64]
LIMIT = 1 << 53
ROOT = Path(__file__).parent.parent


def reference(layer: IntegerLayer, x: Int64) -> Int64:
    """The layer by its definition: inputs are scattered to the outputs they touch; Python integers round."""
    spec = layer.spec
    weight = layer.weight.astype(np.int64)
    height, width = x.shape[1:]
    stride = 2 if spec.kind is Kind.DECONV else 1
    margin = spec.kernel // 2
    reach = spec.kernel + stride
    full = np.zeros((len(layer.weight), height * stride + reach, width * stride + reach), np.int64)
    for ky, kx in np.ndindex(spec.kernel, spec.kernel):
        # a convolution gathers what a transposed one with the mirrored kernel scatters
        tap = (ky, kx) if spec.kind is Kind.DECONV else (spec.kernel - 1 - ky, spec.kernel - 1 - kx)
        product = np.einsum("oi,ihw->ohw", weight[:, :, tap[0], tap[1]], x)
        full[:, ky : ky + height * stride : stride, kx : kx + width * stride : stride] += product
    sums = full[:, margin : margin + height * stride, margin : margin + width * stride]
    result = np.empty_like(sums)
    for index in np.ndindex(*sums.shape):
        value = int(sums[index]) + int(layer.bias[index[0]])
        if spec.clip is not None:
            shift = int(layer.shift[index[0]])
            if spec.leaky and value < 0:
                value, shift = value * 41, shift + 12
            low, high = spec.clip
            value = min(max((2 * value + (1 << shift)) >> (shift + 1), low), high)
        result[index] = value
    if spec.kind is not Kind.SUBPEL:
        return result
    shuffled = np.empty((spec.outputs, 2 * height, 2 * width), np.int64)
    for row, column in np.ndindex(2, 2):
        shuffled[:, row::2, column::2] = result[2 * row + column :: 4]
    return shuffled


def sample_layer(spec: LayerSpec, seed: int, weight_limit: int = 32767, shift: int = 12) -> IntegerLayer:
    generator = np.random.default_rng(seed)
    shape = (spec.sums, spec.inputs, spec.kernel, spec.kernel)
    return IntegerLayer(
        spec,
        generator.integers(-weight_limit, weight_limit + 1, shape).astype(np.int16),
        generator.integers(-(10**7), 10**7, spec.sums),
        np.full(spec.sums, 0 if spec.clip is None else shift, np.uint8),
    )


def single(
    weight: int, bias: int, shift: int = 0, clip: tuple[int, int] | None = None, leaky: bool = False
) -> IntegerLayer:
    """A 1x1 layer from one channel to one."""
    return IntegerLayer(
        LayerSpec("one", Kind.CONV, 1, 1, 1, clip, leaky),
        np.full((1, 1, 1, 1), weight, np.int16),
        np.array([bias], np.int64),
        np.array([shift], np.uint8),
    )


@given(
    form_of=st.sampled_from([(Kind.CONV, 1), (Kind.CONV, 3), (Kind.CONV, 5), (Kind.DECONV, 5), (Kind.SUBPEL, 3)]),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    form=st.sampled_from([(U16, False), (S16, False), (S16, True), (None, False)]),
    shift=st.sampled_from([0, 1, 9, 20, MAX_SHIFT]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_layers_equal_integer_arithmetic(
    form_of: tuple[Kind, int],
    inputs: int,
    outputs: int,
    size: tuple[int, int],
    form: tuple[tuple[int, int] | None, bool],
    shift: int,
    seed: int,
) -> None:
    kind, kernel = form_of
    layer = sample_layer(LayerSpec("layer", kind, inputs, outputs, kernel, *form), seed, shift=shift)
    x = np.random.default_rng(seed).integers(-32768, 32768, (inputs, *size))
    result = apply(layer, x.astype(np.float64))
    assert result.dtype == np.float64
    assert np.array_equal(result, reference(layer, x))
    if kernel == 1:
        at_places = apply_at(layer, x.reshape(inputs, -1).T.astype(np.float64))
        assert np.array_equal(at_places.T.reshape(result.shape), result)


@pytest.mark.parametrize("size", [(35, 61), (2, 1100), (1100, 2)])
@pytest.mark.parametrize("kind", list(Kind))
def test_planes_larger_than_a_tile(size: tuple[int, int], kind: Kind) -> None:
    layer = sample_layer(LayerSpec("layer", kind, 1, 1, 5, None), 3)
    x = np.random.default_rng(4).integers(0, 65536, (1, *size))
    assert np.array_equal(apply(layer, x.astype(np.float64)), reference(layer, x))


@pytest.mark.parametrize("clip", [None, (-(1 << 62), 1 << 62)])
@pytest.mark.parametrize("kind", list(Kind))
def test_extreme_weights_and_inputs_at_full_fan_in(kind: Kind, clip: tuple[int, int] | None) -> None:
    """192 channels of the largest latents in fixed point, with the largest weights of both signs."""
    spec = LayerSpec("layer", kind, 192, 2, 5, clip)
    weight = np.full((spec.sums, 192, 5, 5), 32767, np.int16)
    weight[1] = -32768
    layer = IntegerLayer(spec, weight, np.arange(spec.sums) * 4321, np.zeros(spec.sums, np.uint8))
    x = np.full((192, 3, 3), (1 << 24) - 1)
    check_bounds([layer], int(x.max()))
    assert np.array_equal(apply(layer, x.astype(np.float64)), reference(layer, x))
    with pytest.raises(ModelDamaged, match=r"layer can reach .* exact only below"):
        check_bounds([layer], 1 << 26)


@pytest.mark.parametrize(
    ("shift", "clip", "leaky", "largest"),
    [
        (0, None, False, LIMIT - 1),
        (0, U16, False, (1 << 52) - 1),
        (7, S16, False, LIMIT - 1 - 2**6),
        (0, S16, True, (LIMIT - 1 - 2**11) // 41),
        (9, S16, True, (LIMIT - 1 - 2**20) // 41),
    ],
)
def test_bounds_hold_to_the_last_unit(shift: int, clip: tuple[int, int] | None, leaky: bool, largest: int) -> None:
    bias = largest - 300 * 65535
    fits, fails = (single(-300, value, shift, clip, leaky) for value in (-bias, -bias - 1))
    assert bound(fits, 65535) < LIMIT <= bound(fails, 65535)
    check_bounds([fits], 65535)
    with pytest.raises(ModelDamaged):
        check_bounds([fails], 65535)


def test_rounding_is_exact_up_to_the_bound() -> None:
    """Without a shift, one half is added to sums of almost 2**52, where a float64 has just that one bit."""
    wide = (-LIMIT, LIMIT)
    layer = single(1, (1 << 52) - 2, clip=wide)
    check_bounds([layer], 1)
    assert apply(layer, np.ones((1, 1, 1)))[0, 0, 0] == (1 << 52) - 1
    with pytest.raises(ModelDamaged):
        check_bounds([single(1, (1 << 52) - 1, clip=wide)], 1)


def test_halves_round_up_and_the_slope_rounds_once() -> None:
    values = np.array([[[-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]]])
    assert apply(single(1, 0, 1, S16), values).tolist() == [[[-1, -1, 0, 0, 1, 1, 2]]]
    assert apply(single(1, 0, 1, U16), values).tolist() == [[[0, 0, 0, 0, 1, 1, 2]]]
    # -12800 * 41 / 4096 = -128.125, and / 256 = -0.5005 rounds to -1; rounding twice would give 0
    assert apply(single(1, 0, 8, S16, leaky=True), np.full((1, 1, 1), -12800.0)).item() == -1
    assert apply(single(1, 0, 0, S16), np.array([[[-40000.0, 40000.0]]])).tolist() == [[[-32768, 32767]]]


def test_chain_uses_the_clip_as_the_next_range() -> None:
    first = single(1, 0, clip=U16)
    last = single(1, LIMIT - 1 - 65535)
    check_bounds([first, last], 1)
    with pytest.raises(ModelDamaged, match="one can reach"):
        check_bounds([single(1, 0, clip=(0, 65536)), last], 1)
    with pytest.raises(ValueError, match="cannot follow"):
        check_bounds([last, first], 1)


def test_smallest_int64_bias_is_refused() -> None:
    with pytest.raises(ModelDamaged):
        check_bounds([single(0, -(1 << 63))], 1)


SPECS = (
    LayerSpec("h_s.0", Kind.DECONV, 2, 3, 5, U16),
    LayerSpec("h_s.2", Kind.CONV, 3, 4, 3, None),
)


def test_arrays_round_trip() -> None:
    layers = [sample_layer(spec, seed) for seed, spec in enumerate(SPECS)]
    arrays = layers_to_arrays(layers)
    again = layers_from_arrays(SPECS, {**arrays, "other": np.zeros(1)})
    assert [layer.spec for layer in again] == list(SPECS)
    for name, array in layers_to_arrays(again).items():
        assert np.array_equal(array, arrays[name])


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("h_s.0.weight", np.zeros((3, 2, 5, 5), np.int32)),
        ("h_s.0.weight", np.zeros((2, 3, 5, 5), np.int16)),
        ("h_s.0.weight", np.zeros((3, 2, 5, 5), ">i2")),
        ("h_s.2.bias", np.zeros(4, np.float64)),
        ("h_s.2.bias", np.zeros(3, np.int64)),
        ("h_s.0.shift", np.zeros(3, np.int8)),
        ("h_s.0.shift", np.full(3, MAX_SHIFT + 1, np.uint8)),
        ("h_s.2.shift", np.ones(4, np.uint8)),
        ("h_s.2.shift", None),
    ],
)
def test_unfit_arrays_are_refused(name: str, array: NDArray[np.generic] | None) -> None:
    arrays = layers_to_arrays([sample_layer(spec, 0) for spec in SPECS])
    del arrays[name]
    if array is not None:
        arrays[name] = array
    with pytest.raises(ModelDamaged, match=name):
        layers_from_arrays(SPECS, arrays)


def test_wrong_inputs_are_refused() -> None:
    layer = sample_layer(SPECS[0], 0)
    for x in (np.zeros((3, 4, 4)), np.zeros((2, 4)), np.zeros((2, 4, 4), np.float32)):
        with pytest.raises(ValueError, match=r"h_s\.0 takes"):
            apply(layer, x)


@given(st.integers(1, 65535), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_scale_index_counts_thresholds(step: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    thresholds = np.sort(generator.integers(0, 1 << int(generator.integers(1, 48)), (3, 7)), axis=1)
    thresholds[:, 3] = thresholds[:, 2]
    # on each threshold, one below, and anywhere
    near = [-(-int(value) * step // 1024) + offset for value in thresholds[0] for offset in (-1, 0)]
    t = np.array([near, near, generator.integers(-(1 << 53) + 1, 1 << 53, len(near)).tolist()])
    result = scale_index(t[:, None, :].astype(np.float64), check_thresholds(thresholds, 3, 7), step)
    assert result.dtype == np.uint8
    for channel, values in enumerate(t.tolist()):
        limits = thresholds[channel].tolist()
        expected = [sum(value * 1024 >= limit * step for limit in limits) for value in values]
        assert result[channel, 0].tolist() == expected


def test_scale_index_at_its_limits() -> None:
    thresholds = check_thresholds(np.array([[(1 << 47) - 1]]), 1, 1)
    threshold = -(-((1 << 47) - 1) * 65535 // 1024)
    t = np.array([[[threshold - 1, threshold, LIMIT - 1]]], np.float64)
    assert scale_index(t, thresholds, 65535).tolist() == [[[0, 1, 1]]]
    # equality itself: t * 1024 = T * R with R = 1024 is t = T
    exact = np.array([[[(1 << 47) - 2, (1 << 47) - 1]]], np.float64)
    assert scale_index(exact, thresholds, 1024).tolist() == [[[0, 1]]]
    with pytest.raises(ValueError, match="out of range"):
        scale_index(t, thresholds, 65536)


@pytest.mark.parametrize(
    "thresholds",
    [
        np.array([[1.0, 2.0]]),
        np.array([[1, 2]], np.int32),
        np.array([[1, 2, 3]]),
        np.array([[2, 1]]),
        np.array([[-1, 1]]),
        np.array([[1, 1 << 47]]),
    ],
)
def test_unfit_thresholds_are_refused(thresholds: NDArray[np.generic]) -> None:
    with pytest.raises(ModelDamaged):
        check_thresholds(thresholds, 1, 2)


@pytest.mark.parametrize("count", [0, 256])
def test_too_few_or_too_many_thresholds_are_refused(count: int) -> None:
    with pytest.raises(ModelDamaged, match="1 to 255"):
        check_thresholds(np.zeros((1, count), np.int64), 1, count)
    assert check_thresholds(np.zeros((1, 255), np.int64), 1, 255).shape == (1, 255)


def test_quantised_layers_come_close_to_the_real_ones() -> None:
    """A chain of a transposed convolution with ReLU and a convolution, in the units they were given."""
    generator = np.random.default_rng(5)
    real = [generator.laplace(0, 0.05, (spec.outputs, spec.inputs, spec.kernel, spec.kernel)) for spec in SPECS]
    real[1][2] *= 1e-3
    biases = [generator.normal(0, 0.1, spec.outputs) for spec in SPECS]
    unit_in, unit = 2.0**-10, 5 / 65535
    first = quantise_layer(SPECS[0], real[0], biases[0], unit_in, unit, 1 << 25)
    last, units = quantise_last_layer(SPECS[1], real[1], biases[1], unit)
    # no channel wastes a bit of its weights
    peaks = np.abs(first.weight.astype(np.int64)).max((1, 2, 3))
    assert (peaks <= 32767).all() and (peaks > 16383).all()
    # but in the weakest, whose unit is held up so that its thresholds stay below 2**47
    peaks = np.abs(last.weight.astype(np.int64)).max((1, 2, 3))
    assert (peaks[[0, 1, 3]] == 32767).all() and 1000 < peaks[2] < 32767 and units[2] == 2.0**-36
    check_bounds([first, last], 1 << 25)

    x = generator.integers(-4096, 4096, (2, 4, 4))
    result = apply(last, apply(first, x.astype(np.float64))) * units[:, None, None]
    expected = _real_chain(real, biases, x * unit_in)
    errors = np.abs(result - expected).max((1, 2)) / np.abs(expected).max((1, 2))
    assert errors.max() < 1e-3


def _real_chain(
    weights: list[NDArray[np.float64]], biases: list[NDArray[np.float64]], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    hidden = np.zeros((3, 13, 13))
    for ky, kx in np.ndindex(5, 5):
        hidden[:, ky : ky + 8 : 2, kx : kx + 8 : 2] += np.einsum("oi,ihw->ohw", weights[0][:, :, ky, kx], x)
    hidden = np.maximum(hidden[:, 2:10, 2:10] + biases[0][:, None, None], 0)
    padded = np.pad(hidden, ((0, 0), (1, 1), (1, 1)))
    result = np.zeros((4, 8, 8)) + biases[1][:, None, None]
    for ky, kx in np.ndindex(3, 3):
        result += np.einsum("oi,ihw->ohw", weights[1][:, :, ky, kx], padded[:, ky : ky + 8, kx : kx + 8])
    return result


def test_weights_beyond_16_bits_are_refused() -> None:
    spec = LayerSpec("layer", Kind.CONV, 1, 1, 1, U16)
    weight, bias = np.full((1, 1, 1, 1), 32767.0), np.zeros(1)
    assert quantise_layer(spec, weight, bias, 1.0, 1.0, 65535).shift.tolist() == [0]
    with pytest.raises(ModelDamaged, match="too large for 16 bits"):
        quantise_layer(spec, weight + 1, bias, 1.0, 1.0, 65535)
    with pytest.raises(ModelDamaged, match="biases too large"):
        quantise_layer(spec, weight / 32767, np.array([2.0**50]), 1.0, 1.0, 65535)


@pytest.mark.parametrize("leaky", [False, True])
def test_weights_keep_as_many_bits_as_the_proof_allows(leaky: bool) -> None:
    """Weights of one magnitude, 1152 to a sum of inputs with 25 bits: as full 16 bits their sums could overflow."""
    spec = LayerSpec("layer", Kind.CONV, 128, 2, 3, S16, leaky=leaky)
    weight = np.stack([np.full((128, 3, 3), 0.9), np.full((128, 3, 3), 0.01)])
    layer = quantise_layer(spec, weight, np.zeros(2), 1 / 1024, 1 / 1024, 1 << 25)
    check_bounds([layer], 1 << 25)
    doubled = IntegerLayer(spec, layer.weight * np.int16(2), layer.bias, layer.shift + np.uint8(1))
    if leaky:
        assert bound(doubled, 1 << 25) > LIMIT // 2
    else:
        assert layer.weight.max() > 16383


def test_inputs_in_several_units() -> None:
    spec = LayerSpec("layer", Kind.CONV, 2, 1, 1, S16)
    weight = np.array([3.0, 5.0]).reshape(1, 2, 1, 1)
    layer = quantise_layer(spec, weight, np.zeros(1), np.array([1 / 4, 1 / 64]), 1 / 256, 32768)
    assert apply_at(layer, np.array([[4.0, 0.0], [0.0, 64.0]])).tolist() == [[3 * 256], [5 * 256]]


def test_channels_of_zeros_can_be_quantised() -> None:
    spec = LayerSpec("layer", Kind.CONV, 1, 1, 1, None)
    layer, units = quantise_last_layer(spec, np.zeros((1, 1, 1, 1)), np.array([0.25]), 1.0)
    assert apply(layer, np.ones((1, 1, 1))).item() * units.item() == 0.25


def golden_digest() -> str:
    """Digest of a chain's sums on inputs and weights made by arithmetic alone."""

    def numbers(count: int, start: int, modulus: int) -> Int64:
        return (np.arange(start, start + count) * 2654435761 % (1 << 32)) % modulus - modulus // 2

    specs = (LayerSpec("a", Kind.DECONV, 24, 40, 5, U16), LayerSpec("b", Kind.CONV, 40, 24, 3, None))
    x = numbers(24 * 7 * 9, 0, 65536).reshape(24, 7, 9).astype(np.float64)
    for index, spec in enumerate(specs):
        shape = (spec.outputs, spec.inputs, spec.kernel, spec.kernel)
        layer = IntegerLayer(
            spec,
            numbers(int(np.prod(shape)), index, 65535).reshape(shape).astype(np.int16),
            numbers(spec.outputs, index, 1 << 20),
            np.full(spec.outputs, 0 if spec.clip is None else 20, np.uint8),
        )
        x = apply(layer, x)
    return hashlib.sha256(x.astype("<i8").tobytes()).hexdigest()


GOLDEN = "5701989aaf4e828291c4ce389e5c64e85c3e5e15a37ed833f1a6fd57cf6205be"


def test_golden_sums() -> None:
    assert golden_digest() == GOLDEN


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_matter(threads: int) -> None:
    with threadpool_limits(threads, user_api="blas"):
        assert golden_digest() == GOLDEN


def _kernels() -> list[str]:
    """OpenBLAS kernels that this processor can run."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return []
    needs = {"Nehalem": "sse4_2", "Haswell": "avx2", "Zen": "avx2", "SkylakeX": "avx512bw"}
    return [kernel for kernel, flag in needs.items() if flag in flags]


@pytest.mark.skipif(
    not any(library.get("internal_api") == "openblas" for library in threadpool_info()) or len(_kernels()) < 2,
    reason="needs OpenBLAS with kernels to choose from",
)
def test_other_processors_kernels_give_the_same() -> None:
    used = set()
    for kernel in _kernels():
        done = subprocess.run(
            [sys.executable, __file__],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OPENBLAS_CORETYPE": kernel,
                "OPENBLAS_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            check=True,
        )
        architecture, digest = done.stdout.split()
        used.add(architecture)
        assert digest == GOLDEN, kernel
    assert len(used) > 1, "the kernels were not switched, so this shows nothing"


if __name__ == "__main__":
    print(threadpool_info()[0]["architecture"], golden_digest())

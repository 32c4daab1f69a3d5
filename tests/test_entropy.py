"""The entropy coder: exact bytes, two implementations as one, and only what an encoder writes is accepted."""

import math
import statistics
import sys
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from robustcodec.entropy import (
    COIN,
    LARGEST_VALUE,
    TOTAL,
    Table,
    TableSet,
    backend,
    decode_group,
    encode_group,
    gaussian_tables,
    ideal_bits,
    make_decoder,
    make_encoder,
    pure,
    quantise,
)
from robustcodec.errors import CorruptFile, ModelDamaged

try:
    from robustcodec.entropy import native
except ImportError:  # no constriction for this platform
    BACKENDS: list[ModuleType] = [pure]
else:
    BACKENDS = [native, pure]

both = pytest.mark.parametrize("coder", BACKENDS, ids=lambda module: module.__name__.rpartition(".")[2])
quick = settings(max_examples=60, deadline=None, derandomize=True)

Array: TypeAlias = NDArray[Any]

RARE_FIRST = Table(0, np.array([1, TOTAL - 1]))
RARE_LAST = Table(0, np.array([TOTAL - 1, 1]))
THREE = Table(-1, np.array([5592407, 5592405, 5592404]))
UNEVEN = Table(-3, quantise(np.array([0.01, 0.09, 0.2, 0.4, 0.2, 0.09, 1e-9, 0.01])))
FULL = Table(-LARGEST_VALUE, quantise(np.ones(2 * LARGEST_VALUE + 2)))
LOWEST = Table(-LARGEST_VALUE, np.array([TOTAL - 1, 1]))
HIGHEST = Table(LARGEST_VALUE, np.array([TOTAL - 1, 1]))
TABLES = TableSet((RARE_FIRST, UNEVEN, FULL, RARE_LAST, THREE, COIN, LOWEST, HIGHEST))

Message = list[tuple[Table, list[int]]]


def write(coder: ModuleType, message: Message) -> bytes:
    encoder = coder.Encoder()
    for table, symbols in message:
        encoder.put(np.array(symbols, np.int32), table)
    data: bytes = encoder.finish()
    return data


def read(coder: ModuleType, data: bytes, plan: list[tuple[Table, int]]) -> list[list[int]] | None:
    """The symbols of an accepted message, None for a refused one; any other error is a failure."""
    try:
        decoder = coder.Decoder(data)
        symbols = [decoder.take(count, table).tolist() for table, count in plan]
        decoder.finish()
    except CorruptFile:
        return None
    return symbols


def naive(message: Message) -> bytes:
    """The documented rule in unlimited integers: no words, no carries, the lower end as one number."""
    lower, width, words = 0, 2**64 - 1, 2
    if not any(symbols for _, symbols in message):
        return b""
    for table, symbols in message:
        for symbol in symbols:
            scale = width // 2**24
            lower += scale * int(table.frequencies[:symbol].sum())
            width = scale * int(table.frequencies[symbol])
            if width < 2**32:
                lower, width, words = lower * 2**32, width * 2**32, words + 1
    point = (lower + 2**32 - 1) // 2**32
    big_endian = point.to_bytes(4 * (words - 1), "big")
    if (lower + width) // 2**32 == point:
        big_endian += bytes(4)
    return b"".join(big_endian[i : i + 4][::-1] for i in range(0, len(big_endian), 4))


def words_of(data: bytes) -> list[int]:
    return [int(word) for word in np.frombuffer(data, "<u4")]


@st.composite
def table(draw: st.DrawFn) -> Table:
    weights = draw(
        st.lists(st.sampled_from([0.0, 1e-9, 1e-6, 0.01, 0.5, 1.0, 1e6]), min_size=2, max_size=12).filter(any)
    )
    return Table(draw(st.integers(-9, 9)), quantise(np.array(weights)))


@st.composite
def message(draw: st.DrawFn) -> Message:
    chosen = table() | st.sampled_from([RARE_FIRST, RARE_LAST, THREE, COIN])
    runs = []
    for item in draw(st.lists(chosen, max_size=5)):
        runs.append((item, draw(st.lists(st.integers(0, item.escape), max_size=40))))
    return runs


# --- the range coder ----------------------------------------------------------------------------------------


PINNED: list[tuple[Message, list[int]]] = [
    ([], []),
    ([(COIN, [])], []),
    ([(COIN, [0])], [0x00000000]),
    ([(COIN, [1])], [0x80000000]),
    ([(COIN, [1, 0])], [0x80000000]),
    ([(RARE_FIRST, [0, 0])], [0x00000000, 0x00000000]),
    ([(RARE_FIRST, [0]), (COIN, [0]), (UNEVEN, [7])], [0x0000007F, 0x00000000]),
    ([(UNEVEN, [0, 1, 2, 3, 4, 5, 6, 7, 3, 3])], [0x00143A35, 0x132AEE6B]),
    ([(RARE_LAST, [1]), (THREE, [2, 0, 1]), (COIN, [1, 0, 1, 1, 0, 1])], [0xFFFFFFBA, 0xCD6184BC]),
]


@both
@pytest.mark.parametrize(("written", "words"), PINNED)
def test_messages_have_exactly_these_words(coder: ModuleType, written: Message, words: list[int]) -> None:
    data = write(coder, written)
    assert words_of(data) == words
    assert naive(written) == data


@given(message())
@quick
def test_backends_write_the_documented_message_and_read_each_other(written: Message) -> None:
    expected = naive(written)
    plan = [(item, len(symbols)) for item, symbols in written]
    for coder in BACKENDS:
        assert write(coder, written) == expected
        assert read(coder, expected, plan) == [symbols for _, symbols in written]


@pytest.mark.parametrize("item", [THREE, UNEVEN, COIN])
def test_carries_run_through_many_words(item: Table) -> None:
    # Symbols that keep a word boundary within the interval, so that only a last symbol decides for one side.
    symbols = pure.Decoder(np.array([0x80000000, *[0] * 40], "<u4").tobytes()).take(120, item).tolist()
    seen = set()
    for count in range(0, len(symbols), 7):
        for last in range(item.escape + 1):
            written = [(item, [*symbols[:count], last])]
            expected = naive(written)
            seen.add(tuple(words_of(expected)[:3]))
            for coder in BACKENDS:
                assert write(coder, written) == expected
                assert read(coder, expected, [(item, count + 1)]) == [written[0][1]]
    assert (0x80000000, 0, 0) in seen
    if item is not COIN:  # whose intervals begin at the boundary
        assert (0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF) in seen


@both
@given(message(), st.data())
@quick
def test_only_the_canonical_message_is_accepted(coder: ModuleType, written: Message, data: st.DataObject) -> None:
    """A damaged message is refused, or is what the encoder writes for the other symbols it decodes to."""
    whole = write(coder, written)
    plan = [(item, len(symbols)) for item, symbols in written]
    damaged = [whole + bytes(4), whole[:-4], whole[4:], whole + b"\xff\xff\xff\xff"]
    for _ in range(8 if whole else 0):
        changed = bytearray(whole)
        changed[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        damaged.append(bytes(changed))
    for other in damaged:
        symbols = read(coder, other, plan)
        if symbols is not None and other != whole:
            assert symbols != [given for _, given in written]
            assert naive([(item, s) for (item, _), s in zip(plan, symbols, strict=True)]) == other


@given(
    st.binary(max_size=24) | st.binary(max_size=6).map(lambda b: b * 4),
    st.lists(table(), max_size=4),
    st.data(),
)
@quick
def test_hostile_bytes_give_the_same_outcome_everywhere(data: bytes, tables: list[Table], draw: st.DataObject) -> None:
    plan = [(item, draw.draw(st.integers(0, 9))) for item in tables]
    outcomes = [read(coder, data, plan) for coder in BACKENDS]
    assert all(outcome == outcomes[0] for outcome in outcomes)
    if outcomes[0] is not None:
        assert naive([(item, s) for (item, _), s in zip(plan, outcomes[0], strict=True)]) == data


def test_hostile_words_decode_to_the_same_symbols_before_the_end() -> None:
    def outcome(decoder: pure.Decoder, item: Table) -> list[int] | str:
        try:
            symbols: list[int] = decoder.take(9, item).tolist()
        except CorruptFile as error:
            return str(error)
        return symbols

    rng = np.random.default_rng(1)
    for _ in range(50):
        data = rng.integers(0, 1 << 32, 60, dtype=np.uint32).astype("<u4").tobytes()
        decoders = [coder.Decoder(data) for coder in BACKENDS]
        for item in TABLES:
            outcomes = [outcome(decoder, item) for decoder in decoders]
            assert all(other == outcomes[0] for other in outcomes)
            if isinstance(outcomes[0], str):
                break


@both
@pytest.mark.parametrize("size", [1, 2, 3, 5, 4097])
def test_incomplete_words_are_refused(coder: ModuleType, size: int) -> None:
    with pytest.raises(CorruptFile, match=f"has {size} bytes"):
        coder.Decoder(bytes(size))


@both
def test_an_empty_message_holds_no_symbol(coder: ModuleType) -> None:
    decoder = coder.Decoder(b"")
    assert decoder.take(0, COIN).size == 0
    decoder.finish()
    with pytest.raises(CorruptFile, match="ends before"):
        decoder.take(1, COIN)


@both
def test_symbols_are_not_taken_past_the_end(coder: ModuleType) -> None:
    with pytest.raises(CorruptFile, match="ends before"):
        coder.Decoder(bytes(8)).take(1000, COIN)


@both
def test_a_message_must_end_with_its_last_symbol(coder: ModuleType) -> None:
    data = write(coder, [(COIN, [0, 1] * 50)])
    for count, accepted in ((100, True), (99, False), (60, False), (101, True), (200, False)):
        # The number of symbols is the caller's knowledge: one more 0 has this message, too.
        assert (read(coder, data, [(COIN, count)]) is not None) is accepted


@both
@pytest.mark.parametrize("words", [[0x7F], [0x7F, 1], [0x7F, 0xFF], [0x7F, 0, 0]])
def test_a_final_zero_word_has_no_other_spelling(coder: ModuleType, words: list[int]) -> None:
    plan = [(RARE_FIRST, 1), (COIN, 1), (UNEVEN, 1)]
    assert read(coder, np.array([0x7F, 0], "<u4").tobytes(), plan) == [[0], [0], [7]]
    assert read(coder, np.array(words, "<u4").tobytes(), plan) is None


@both
def test_a_point_that_belongs_to_no_symbol_is_refused(coder: ModuleType) -> None:
    with pytest.raises(CorruptFile, match="damaged"):
        coder.Decoder(b"\xff" * 8).take(1, COIN)


@both
@pytest.mark.parametrize("symbol", [-1, 2])
def test_symbols_outside_the_table_are_a_mistake_of_the_caller(coder: ModuleType, symbol: int) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        coder.Encoder().put(np.array([symbol], np.int32), COIN)


@pytest.mark.skipif(len(BACKENDS) == 1, reason="needs constriction")
def test_a_panic_becomes_an_error_and_other_exits_pass() -> None:
    class PanicException(BaseException):
        """Named as the class that Rust panics arrive in."""

    class Broken:
        def __init__(self, error: type[BaseException]) -> None:
            self.error = error

        def decode(self, model: object, count: int) -> None:
            raise self.error

    decoder = native.Decoder(bytes(4))
    decoder._coder = Broken(PanicException)
    with pytest.raises(CorruptFile):
        decoder.take(1, COIN)
    decoder._coder = Broken(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        decoder.take(1, COIN)


@both
def test_nothing_is_printed(coder: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert read(coder, write(coder, [(UNEVEN, [1, 2])]), [(UNEVEN, 2)]) == [[1, 2]]
    assert capfd.readouterr() == ("", "")


def test_the_pure_coder_stands_in_where_constriction_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend() is BACKENDS[0]
    monkeypatch.setitem(sys.modules, "constriction", None)
    monkeypatch.delitem(sys.modules, "robustcodec.entropy.native", raising=False)
    assert backend() is pure
    encoder = make_encoder()
    encoder.put(np.array([1, 0], np.int32), COIN)
    decoder = make_decoder(encoder.finish())
    assert isinstance(decoder, pure.Decoder)
    assert decoder.take(2, COIN).tolist() == [1, 0]


# --- groups and escapes -------------------------------------------------------------------------------------


def group_bytes(coder: ModuleType, values: Array, index: Array, tables: TableSet) -> bytes:
    encoder = coder.Encoder()
    encode_group(encoder, values, index, tables)
    data: bytes = encoder.finish()
    return data


def group_message(values: list[int], index: list[int], tables: TableSet) -> Message:
    """What the docstring of `coder` says, value by value."""
    symbols: dict[int, list[int]] = {}
    escaped = []
    for v, i in zip(values, index, strict=True):
        low, high = tables[i].minimum, tables[i].minimum + len(tables[i].frequencies) - 2
        symbols.setdefault(i, []).append(v - low if low <= v <= high else high - low + 1)
        if not low <= v <= high:
            escaped.append((int(v < low), low - v if v < low else v - high))
    planes = [[sign for sign, _ in escaped]]
    for r in range(1, 16):
        planes.append([int(e.bit_length() > r) for _, e in escaped if e.bit_length() >= r])
    for p in range(14, -1, -1):
        planes.append([e >> p & 1 for _, e in escaped if e.bit_length() > p + 1])
    return [(tables[i], symbols[i]) for i in sorted(symbols)] + [(COIN, bits) for bits in planes]


any_value = (
    st.integers(-6, 6)
    | st.integers(-LARGEST_VALUE, LARGEST_VALUE)
    | st.sampled_from([-LARGEST_VALUE, LARGEST_VALUE, -LARGEST_VALUE + 1])
)


@given(st.lists(st.tuples(any_value, st.integers(0, len(TABLES) - 1)), max_size=60))
@quick
def test_groups_survive_in_the_documented_order(pairs: list[tuple[int, int]]) -> None:
    values = np.array([v for v, _ in pairs], np.int32)
    index = np.array([i for _, i in pairs], np.uint8)
    expected = naive(group_message(values.tolist(), index.tolist(), TABLES))
    for coder in BACKENDS:
        assert group_bytes(coder, values, index, TABLES) == expected
        decoder = coder.Decoder(expected)
        assert decode_group(decoder, index, TABLES).tolist() == values.tolist()
        decoder.finish()


@both
def test_every_length_of_distance_survives(coder: ModuleType) -> None:
    ends = np.array([2**n + d for n in range(1, 16) for d in (-1, 0, 1)])
    values = np.concatenate([-ends, [0], ends]).clip(-LARGEST_VALUE, LARGEST_VALUE).astype(np.int32)
    for i in range(len(TABLES)):
        index = np.full(values.size, i, np.uint16)
        decoder = coder.Decoder(group_bytes(coder, values, index, TABLES))
        assert np.array_equal(decode_group(decoder, index, TABLES), values)
        decoder.finish()


@both
def test_shape_order_and_index_type_do_not_matter(coder: ModuleType) -> None:
    rng = np.random.default_rng(2)
    values = rng.integers(-9, 10, (5, 4, 3)).astype(np.int32)
    index = rng.integers(0, len(TABLES), (5, 4, 3))
    data = group_bytes(coder, values, index, TABLES)
    for kind in (np.uint8, np.uint16, np.int64):
        decoder = coder.Decoder(data)
        decoded = decode_group(decoder, np.asfortranarray(index.astype(kind)), TABLES)
        assert decoded.dtype == np.int32
        assert np.array_equal(decoded, values)
    assert group_bytes(coder, np.asfortranarray(values), np.asfortranarray(index), TABLES) == data


@both
def test_groups_share_a_message(coder: ModuleType) -> None:
    encoder = coder.Encoder()
    groups = [np.array([9000, 0, -1]), np.array([], np.int64), np.array([2])]
    for values in groups:
        encode_group(encoder, values.astype(np.int32), np.full(values.shape, 4), TABLES)
    decoder = coder.Decoder(encoder.finish())
    for values in groups:
        assert decode_group(decoder, np.full(values.shape, 4), TABLES).tolist() == values.tolist()
    decoder.finish()


@both
@pytest.mark.parametrize("sign", [0, 1])
def test_values_beyond_the_limit_are_refused(coder: ModuleType, sign: int) -> None:
    # One value of THREE (low -1, high 0) whose distance has 16 bits, all ones: 65535 beyond the table.
    data = write(coder, [(THREE, [2]), (COIN, [sign]), (COIN, [1] * 15), (COIN, [1] * 15)])
    with pytest.raises(CorruptFile, match="beyond ±32767"):
        decode_group(coder.Decoder(data), np.array([4]), TABLES)


@pytest.mark.parametrize(
    ("values", "index", "found"),
    [
        ([32768], [0], "beyond ±32767"),
        ([-32768], [0], "beyond ±32767"),
        ([0], [8], r"outside 0\.\.7"),
        ([0], [-1], r"outside 0\.\.7"),
        ([0, 0], [1], "2 values for 1"),
    ],
)
def test_the_callers_mistakes(values: list[int], index: list[int], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        encode_group(pure.Encoder(), np.array(values, np.int32), np.array(index), TABLES)
    with pytest.raises(ValueError, match=found):
        ideal_bits(np.array(values, np.int32), np.array(index), TABLES)


def test_ideal_bits_of_values_and_escapes() -> None:
    values = np.array([[0, 1, 5], [-32767, 32767, 4]], np.int32)
    index = np.array([[5, 4, 5], [7, 6, 1]])
    # COIN is 0 and escape; THREE escapes 1 (distance 1); 5 is 5 beyond COIN, 3 bits; the extremes are 65534
    # beyond, 16 bits; UNEVEN covers -3..3, 4 is 1 beyond.
    third, uneven = math.log2(TOTAL / 5592404), math.log2(TOTAL / int(UNEVEN.frequencies[-1]))
    expected = [[1, third + 2, 1 + 1 + 3 + 2], [24 + 1 + 15 + 15, 24 + 1 + 15 + 15, uneven + 2]]
    assert np.allclose(ideal_bits(values, index, TABLES), expected, rtol=1e-12)


def test_entropies_are_the_mean_of_ideal_bits() -> None:
    """Over values that are drawn as a table says; an escape counts as the symbol that it is."""
    assert TABLES.entropies[5] == pytest.approx(1)
    three = THREE.frequencies / TOTAL
    assert TABLES.entropies[4] == pytest.approx(float(-(three * np.log2(three)).sum()))
    scales = [0.3, 2.0, 40.0]
    tables = gaussian_tables(scales)
    for index, scale in enumerate(scales):
        values = np.rint(np.random.default_rng(index).normal(scale=scale, size=50000)).astype(np.int32)
        bits = ideal_bits(values, np.full(values.size, index), tables).mean()
        assert tables.entropies[index] == pytest.approx(bits, rel=0.02)


@pytest.mark.parametrize("mean_level", [3, 25])
def test_real_size_is_close_to_ideal(mean_level: int) -> None:
    """The coder may waste a word or two at the end, and 0.0002 bits of a symbol in rounding the interval."""
    tables = gaussian_tables(list(np.geomspace(0.11, 256, 64)))
    rng = np.random.default_rng(3)
    index = np.minimum(rng.geometric(1 / mean_level, 40000), 63).astype(np.uint8)
    values = np.rint(rng.normal(size=index.size) * np.geomspace(0.11, 256, 64)[index]).astype(np.int32)
    values[:20] = rng.integers(-LARGEST_VALUE, LARGEST_VALUE, 20)
    ideal = ideal_bits(values, index, tables).sum()
    data = group_bytes(BACKENDS[0], values, index, tables)
    assert -1 < len(data) * 8 - ideal < 64 + 0.0002 * index.size
    decoder = pure.Decoder(data)
    assert np.array_equal(decode_group(decoder, index, tables), values)
    decoder.finish()


# --- tables -------------------------------------------------------------------------------------------------


def test_quantise_by_hand() -> None:
    assert quantise(np.array([1.0, 1.0])).tolist() == [TOTAL // 2, TOTAL // 2]
    assert quantise(np.array([3.0, 0.0])).tolist() == [TOTAL - 1, 1]
    # 2^24 - 3 shared by three leaves 1 over: to the first of equal remainders.
    assert quantise(np.array([0.2, 0.2, 0.2])).tolist() == [5592406, 5592405, 5592405]
    assert quantise(np.array([1e308, 1e308])).tolist() == [TOTAL // 2, TOTAL // 2]
    assert quantise(np.array([5e-324, 0.0])).tolist() == [TOTAL - 1, 1]


@given(npst.arrays(np.float64, st.integers(2, 300), elements=st.floats(0, 1e300)).filter(np.any))
@quick
def test_quantise_is_exact_and_proportional(p: Array) -> None:
    frequencies = quantise(p)
    assert frequencies.dtype == np.int64
    assert frequencies.min() >= 1
    assert int(frequencies.sum()) == TOTAL
    exact = p / p.max() / (p / p.max()).sum() * (TOTAL - p.size) + 1
    assert np.abs(frequencies - exact).max() <= 1.000001


@pytest.mark.parametrize("p", [[1.0], [], [[1.0, 1.0]], [-1.0, 2.0], [0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_quantise_refuses_what_is_no_distribution(p: list[float]) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        quantise(np.array(p))


@pytest.mark.parametrize("scale", [0.11, 0.5, 1.0, 7.3, 256.0])
def test_gaussian_tables_hold_the_gaussian(scale: float) -> None:
    (item,) = gaussian_tables([scale])
    gaussian = statistics.NormalDist(0, scale)
    k = -item.minimum
    assert item.escape == 2 * k + 1
    values = range(-k, k + 1)
    mass = [gaussian.cdf(v + 0.5) - gaussian.cdf(v - 0.5) for v in values]
    assert np.abs(item.frequencies[:-1] / TOTAL - mass).max() < 2 * (2 * k + 2) / TOTAL
    # Mirror images may differ by the one unit that a tie of remainders gives to the earlier.
    assert np.abs(item.frequencies[:-1] - item.frequencies[-2::-1]).max() <= 1
    assert 2 * gaussian.cdf(-k - 0.5) <= 2.0**-20
    assert k == 1 or 2 * gaussian.cdf(-k + 0.5) > 2.0**-20
    assert item.frequencies[-1] <= 18


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, 7000.0])
def test_gaussian_tables_refuse_scales(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        gaussian_tables([scale])


def test_tables_survive_a_bundle() -> None:
    arrays = TABLES.to_arrays()
    assert {name: array.dtype for name, array in arrays.items()} == dict.fromkeys(
        ("frequencies", "lengths", "minimums"), np.dtype(np.int32)
    )
    copies = TableSet.from_arrays(**arrays)
    assert len(copies) == len(TABLES)
    for copy, original in zip(copies, TABLES, strict=True):
        assert copy.minimum == original.minimum
        assert np.array_equal(copy.frequencies, original.frequencies)
        assert not copy.frequencies.flags.writeable


def int32(*numbers: int) -> Array:
    return np.array(numbers, np.int32)


HALF = TOTAL // 2


@pytest.mark.parametrize(
    ("frequencies", "lengths", "minimums", "found"),
    [
        (int32(HALF, HALF).astype(np.int64), int32(2), int32(0), "frequencies of type int64"),
        (int32(HALF, HALF), int32(2).astype(np.float32), int32(0), "lengths of type float32"),
        (int32(HALF, HALF), int32(2), int32(0).reshape(1, 1), "minimums of type int32 with 2"),
        (int32(HALF, HALF), int32(2), int32(0, 0), "1 lengths for 2 minimums"),
        (int32(), int32(), int32(), "a set of 0 tables"),
        (int32(HALF, HALF), np.full(65537, 2, np.int32), np.zeros(65537, np.int32), "a set of 65537"),
        (int32(HALF, HALF, TOTAL), int32(2, 1), int32(0, 0), "lengths that do not divide 3"),
        (int32(HALF, HALF), int32(2, 2), int32(0, 0), "lengths that do not divide 2"),
        (int32(HALF, HALF), int32(-2, 4), int32(0, 0), "lengths that do not divide"),
        (int32(HALF, HALF), int32(2**31 - 1), int32(0), "lengths that do not divide"),
        (int32(HALF, HALF, 0), int32(3), int32(0), r"outside 1\.\.2\^24"),
        (int32(-1, TOTAL, 1), int32(3), int32(0), r"outside 1\.\.2\^24"),
        (int32(TOTAL + 1, 1), int32(2), int32(0), r"outside 1\.\.2\^24"),
        (int32(HALF, HALF - 1), int32(2), int32(0), "sum to 16777215"),
        (int32(HALF, HALF + 1), int32(2), int32(0), "sum to 16777217"),
        (int32(HALF, HALF), int32(2), int32(32768), "from 32768, beyond"),
        (int32(HALF, HALF), int32(2), int32(-32768), "from -32768, beyond"),
        (int32(HALF, HALF - 1, 1), int32(3), int32(32767), "from 32767, beyond"),
        (int32(HALF, HALF), int32(2), int32(-(2**31)), "beyond"),
    ],
)
def test_damaged_tables_are_refused(frequencies: Array, lengths: Array, minimums: Array, found: str) -> None:
    with pytest.raises(ModelDamaged, match=found):
        TableSet.from_arrays(frequencies, lengths, minimums)


@pytest.mark.parametrize(
    "frequencies",
    [np.array([TOTAL]), np.array([0.5, 0.5]), np.array([[HALF, HALF]]), np.array([2**64 - 1, 2], np.uint64)],
)
def test_a_table_cannot_be_made_wrong(frequencies: Array) -> None:
    with pytest.raises(ModelDamaged):
        Table(0, frequencies)

"""A second decoder, up to the latents: plain integers, after docs/format.md, with none of the package's code.

It reads a bundle's arrays with nothing but JSON and struct, and is meant for small pictures.
"""

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Plane = list[list[int]]
Planes = list[Plane]


@dataclass(frozen=True)
class Strip:
    """Symbols of z and of y, the index of the table of each of y's, and y_hat in units of 1/1024."""

    z: Planes
    y: Planes
    index: Planes
    y_hat: Planes


def decode_latents(data: bytes, bundle: Path) -> list[Strip]:
    """Decode the latents of a well-formed file with a network payload; a wrong checksum raises AssertionError."""
    model = read_safetensors(bundle / "entropy.safetensors")
    decode_strip = {"hyper": decode_hyper, "cheng": decode_cheng}[
        json.loads((bundle / "manifest.json").read_text())["architecture"]
    ]
    assert data[:5] == bytes.fromhex("8b52420a10")
    transform, units = data[6], struct.unpack_from("<H", data, 7)[0]
    width, offset = varint(data, 9)
    height, offset = varint(data, offset)
    width, height = width + 1, height + 1
    if transform & 4:
        width, height = height, width
    step = struct.unpack_from("<H", data, offset)[0]
    seed = data[offset + 10 : offset + 18] if data[5] & 0x40 else b""
    offset += 14 + len(seed)
    assert struct.unpack("<I", data[offset - 4 : offset])[0] == zlib.crc32(data[: offset - 4])
    strips = []
    top = 0
    last = False
    while not last:
        kind, last = data[offset] & 127, data[offset] > 127
        length, start = varint(data, offset + 1)
        content = data[start : start + length]
        assert struct.unpack_from("<I", data, start + length)[0] == zlib.crc32(data[offset : start + length])
        offset = start + length + 4
        if kind == 0x10:
            rows = min(64 * units or height, height - top)
            top += rows
            key = seed and seed + struct.pack("<I", len(strips))
            strips.append(decode_strip(content, -(-rows // 16), -(-width // 16), step, model, key))
    assert top == height and offset == len(data)
    return strips


def decode_side(coder: "RangeDecoder", height: int, width: int, model: dict[str, Any]) -> tuple[Planes, Planes]:
    """Symbols of z, and what they stand for in units of 1/1024."""
    medians = model["medians"]
    channels, z_height, z_width = len(medians), -(-height // 4), -(-width // 4)
    z_index = [[[channel] * z_width for _ in range(z_height)] for channel in range(channels)]
    z = decode_group(coder, z_index, tables(model, "z"))
    z_hat = [
        [[value * 1024 + median for value in row] for row in plane] for plane, median in zip(z, medians, strict=True)
    ]
    return z, z_hat


def decode_hyper(content: bytes, height: int, width: int, step: int, model: dict[str, Any], key: bytes) -> Strip:
    coder = RangeDecoder(content[4:])
    z, scales = decode_side(coder, height, width, model)
    scales = transposed_layer(scales, model, "h_s.0")
    scales = transposed_layer(scales, model, "h_s.2")
    scales = last_layer(scales, model, "h_s.4")
    index = [
        [[sum(t * 1024 >= limit * step for limit in limits) for t in row[:width]] for row in plane[:height]]
        for plane, limits in zip(scales, model["thresholds"], strict=True)
    ]
    chosen = offsets(key, len(index), height, width)
    grid = [[[0] * width for _ in range(height)] for _ in index]
    places = [(c, i, j) for c in range(len(index)) for i in range(height) for j in range(width)]
    for c, i, j in places:
        index[c][i][j], grid[c][i][j] = dithered(index[c][i][j], chosen[c][i][j], key, step, model)
    y = decode_group(coder, index, latent_tables(key, model))
    y_hat = [[[0] * width for _ in range(height)] for _ in y]
    for c, i, j in places:
        y_hat[c][i][j] = y[c][i][j] * step + grid[c][i][j]
    coded = b"".join(struct.pack("<h", value) for planes in (z, y) for value in flat(planes))
    coded += b"".join(struct.pack("<i", value) for value in flat(y_hat) if key)
    assert struct.unpack_from("<I", content)[0] == zlib.crc32(coded)
    return Strip(z, y, index, y_hat)


def offsets(key: bytes, channels: int, height: int, width: int) -> Planes:
    """The number of each latent's offset."""
    drawn = hashlib.shake_128(key).digest(channels * height * width)
    return nested([byte % 8 for byte in drawn], [channels, height, width])


def dithered(scale: int, k: int, key: bytes, step: int, model: dict[str, Any]) -> tuple[int, int]:
    """The table of a latent of this scale, and what is added to it in units of 1/1024."""
    if not key or not 0 <= scale - model["dither.first"][0] < len(model["dither.lengths"]) // 8:
        return scale, 0
    return len(model["y.lengths"]) + 8 * (scale - model["dither.first"][0]) + k, (2 * k - 7) * step // 16


def latent_tables(key: bytes, model: dict[str, Any]) -> list[tuple[int, list[int]]]:
    return tables(model, "y") + (tables(model, "dither") if key else [])


CONTEXT = [
    (-2, -2),
    (-2, -1),
    (-2, 0),
    (-2, 1),
    (-2, 2),
    (-1, -2),
    (-1, -1),
    (-1, 0),
    (-1, 1),
    (-1, 2),
    (0, -2),
    (0, -1),
]


def decode_cheng(content: bytes, height: int, width: int, step: int, model: dict[str, Any], key: bytes = b"") -> Strip:
    coder = RangeDecoder(content[4:])
    z, side = decode_side(coder, height, width, model)
    side = rounded(last_layer(side, model, "h_s.0"), model, "h_s.0", leaky=True)
    side = shuffled(rounded(last_layer(side, model, "h_s.2"), model, "h_s.2", leaky=True))
    side = rounded(last_layer(side, model, "h_s.4"), model, "h_s.4", leaky=True)
    side = shuffled(rounded(last_layer(side, model, "h_s.6"), model, "h_s.6", leaky=True))
    side = rounded(last_layer(side, model, "h_s.8"), model, "h_s.8", leaky=False)
    channels = range(len(model["thresholds"]))
    chosen = offsets(key, len(channels), height, width)
    y, index, y_hat = ([[[0] * width for _ in range(height)] for _ in channels] for _ in range(3))
    for front in range(width + 3 * height):
        places = [(row, front - 3 * row) for row in range(height) if 0 <= front - 3 * row < width]
        means = []
        for row, column in places:
            seen = []
            for down, right in CONTEXT:
                inside = row + down >= 0 and 0 <= column + right < width
                seen += [plane[row + down][column + right] if inside else 0 for plane in y_hat]
            values = [plane[row][column] for plane in side] + dense(seen, model, "context_prediction", leaky=False)
            for name in ("entropy_parameters.0", "entropy_parameters.2"):
                values = dense(values, model, name, leaky=True)
            scales = dense(values, model, "entropy_parameters.4.scales", leaky=None)
            means.append(dense(values, model, "entropy_parameters.4.means", leaky=False, largest=1 << 25))
            for channel, t, limits in zip(channels, scales, model["thresholds"], strict=True):
                scale = sum(t * 1024 >= limit * step for limit in limits)
                table, more = dithered(scale, chosen[channel][row][column], key, step, model)
                index[channel][row][column] = table
                means[-1][channel] += more
        if places:
            symbols = decode_group(
                coder, [[[index[channel][r][c] for r, c in places]] for channel in channels], latent_tables(key, model)
            )
        for channel in channels:
            for at, (row, column) in enumerate(places):
                symbol = symbols[channel][0][at]
                y[channel][row][column] = symbol
                y_hat[channel][row][column] = min(max(symbol * step + means[at][channel], -1 << 25), 1 << 25)
    coded = b"".join(struct.pack("<h", value) for planes in (z, y) for value in flat(planes))
    coded += b"".join(struct.pack("<i", value) for value in flat(y_hat))
    assert struct.unpack_from("<I", content)[0] == zlib.crc32(coded)
    return Strip(z, y, index, y_hat)


def requantised(value: int, shift: int, leaky: bool, low: int, high: int) -> int:
    """floor(a / 2^s + 1/2), clipped; with a leaky slope of 41 / 4096 below zero."""
    if leaky and value < 0:
        value, shift = 41 * value, shift + 12
    return min(max((2 * value + (1 << shift)) >> (shift + 1), low), high)


def rounded(sums: Planes, model: dict[str, Any], name: str, leaky: bool) -> Planes:
    return [
        [[requantised(value, shift, leaky, -32768, 32767) for value in row] for row in plane]
        for plane, shift in zip(sums, model[f"{name}.shift"], strict=True)
    ]


def shuffled(x: Planes) -> Planes:
    """Channel 4 c + 2 i + j to row 2 r + i and column 2 k + j of channel c."""
    height, width = len(x[0]), len(x[0][0])
    return [
        [[x[c + 2 * (r % 2) + k % 2][r // 2][k // 2] for k in range(2 * width)] for r in range(2 * height)]
        for c in range(0, len(x), 4)
    ]


def dense(values: list[int], model: dict[str, Any], name: str, leaky: bool | None, largest: int = 32767) -> list[int]:
    """A layer at one place; its sums themselves if `leaky` is None."""
    result = []
    weight, bias, shift = (model[f"{name}.{part}"] for part in ("weight", "bias", "shift"))
    for kernels, b, s in zip(weight, bias, shift, strict=True):
        total = b + sum(kernel[0][0] * value for kernel, value in zip(kernels, values, strict=True))
        low = -32768 if largest == 32767 else -largest
        result.append(total if leaky is None else requantised(total, s, leaky, low, largest))
    return result


class RangeDecoder:
    """The message as one long number, and the interval as exact integers that are never renormalised in place."""

    def __init__(self, message: bytes) -> None:
        words = [message[at : at + 4][::-1] for at in range(0, len(message), 4)]
        self.value = int.from_bytes(b"".join(words), "big")
        self.digits = len(words)
        self.used = 2
        self.lower = 0
        self.range = (1 << 64) - 1

    def take(self, frequencies: list[int]) -> int:
        scale = self.range >> 24
        # the message as a number of `used` words
        shift = 32 * (self.digits - self.used)
        point = self.value >> shift if shift >= 0 else self.value << -shift
        quantile = (point - self.lower) // scale
        symbol = start = 0
        while quantile >= start + frequencies[symbol]:
            start += frequencies[symbol]
            symbol += 1
        self.lower += scale * start
        self.range = scale * frequencies[symbol]
        if self.range < 1 << 32:
            self.lower <<= 32
            self.range <<= 32
            self.used += 1
        return symbol


def decode_group(coder: RangeDecoder, index: Planes, choice: list[tuple[int, list[int]]]) -> Planes:
    order = flat(index)
    values = [0] * len(order)
    for table, (minimum, frequencies) in enumerate(choice):
        for at in (at for at, chosen in enumerate(order) if chosen == table):
            values[at] = coder.take(frequencies) + minimum
    escaped = [at for at, chosen in enumerate(order) if values[at] == choice[chosen][0] + len(choice[chosen][1]) - 1]
    coin = [1 << 23, 1 << 23]
    below = [coder.take(coin) for _ in escaped]
    bits = [1 for _ in escaped]
    for r in range(1, 16):
        for i, m in enumerate(bits):
            if m == r:
                bits[i] += coder.take(coin)
    distance = [1 for _ in escaped]
    for p in range(14, -1, -1):
        for i, m in enumerate(bits):
            if m > p + 1:
                distance[i] = 2 * distance[i] + coder.take(coin)
    for i, at in enumerate(escaped):
        low = choice[order[at]][0]
        high = low + len(choice[order[at]][1]) - 2
        values[at] = low - distance[i] if below[i] else high + distance[i]
    result = iter(values)
    return [[[next(result) for _ in row] for row in plane] for plane in index]


def transposed_layer(x: Planes, model: dict[str, Any], name: str) -> Planes:
    """5x5, stride 2: input (r, c) adds weight[ky][kx] to output (2r + ky - 2, 2c + kx - 2)."""
    weight, bias, shift = (model[f"{name}.{part}"] for part in ("weight", "bias", "shift"))
    height, width = 2 * len(x[0]), 2 * len(x[0][0])
    result = []
    for kernels, b, s in zip(weight, bias, shift, strict=True):
        sums = [[b] * width for _ in range(height)]
        for kernel, plane in zip(kernels, x, strict=True):
            for r, row in enumerate(plane):
                for c, value in enumerate(row):
                    for ky, taps in enumerate(kernel):
                        for kx, tap in enumerate(taps):
                            i, j = 2 * r + ky - 2, 2 * c + kx - 2
                            if 0 <= i < height and 0 <= j < width:
                                sums[i][j] += tap * value
        # floor(a / 2^s + 1/2)
        result.append([[min(max((2 * a + (1 << s)) >> (s + 1), 0), 65535) for a in row] for row in sums])
    return result


def last_layer(x: Planes, model: dict[str, Any], name: str) -> Planes:
    """3x3, stride 1: output (i, j) sums weight[ky][kx] times input (i + ky - 1, j + kx - 1)."""
    height, width = len(x[0]), len(x[0][0])
    result = []
    for kernels, b in zip(model[f"{name}.weight"], model[f"{name}.bias"], strict=True):
        sums = [[b] * width for _ in range(height)]
        for i in range(height):
            for j in range(width):
                for kernel, plane in zip(kernels, x, strict=True):
                    for ky in range(3):
                        for kx in range(3):
                            r, c = i + ky - 1, j + kx - 1
                            if 0 <= r < height and 0 <= c < width:
                                sums[i][j] += kernel[ky][kx] * plane[r][c]
        result.append(sums)
    return result


def tables(model: dict[str, Any], latents: str) -> list[tuple[int, list[int]]]:
    """The smallest value and the frequencies of each table."""
    result, start = [], 0
    for length, minimum in zip(model[f"{latents}.lengths"], model[f"{latents}.minimums"], strict=True):
        result.append((minimum, model[f"{latents}.frequencies"][start : start + length]))
        start += length
    return result


def read_safetensors(path: Path) -> dict[str, Any]:
    """Arrays of integers as nested lists."""
    data = path.read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    arrays = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            code = {"I8": "b", "U8": "B", "I16": "h", "I32": "i", "I64": "q"}[entry["dtype"]]
            values = [value for (value,) in struct.iter_unpack(f"<{code}", data[start + begin : start + end])]
            arrays[name] = nested(values, entry["shape"])
    return arrays


def nested(values: list[int], shape: list[int]) -> Any:
    if len(shape) <= 1:
        return values
    size = len(values) // shape[0]
    return [nested(values[at * size : (at + 1) * size], shape[1:]) for at in range(shape[0])]


def varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[offset] & 127) << shift
        offset, shift = offset + 1, shift + 7
        if data[offset - 1] < 128:
            return value, offset


def flat(planes: Planes) -> list[int]:
    return [value for plane in planes for row in plane for value in row]

"""What a picture costs and what becomes of it, from real files really decoded: every figure of an evaluation.

Pictures are uint8 (height, width, 3) RGB: x clean, x* attacked, x_hat and x_hat* what the decoder writes of each.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from robustcodec.architectures import Architecture, open_architecture
from robustcodec.blas import limited
from robustcodec.codec import Codec
from robustcodec.container import split_strip, unpack
from robustcodec.dither import key_of
from robustcodec.entropy import decode_group, ideal_bits, make_decoder
from robustcodec.images import Picture
from robustcodec.metrics import bits_per_pixel, ms_ssim, mse, psnr, worst_block
from robustcodec.networks import STRIDE
from robustcodec.pixels import Pixels
from robustcodec.rate import Target, score


@dataclass(frozen=True, eq=False)
class Coded:
    """A file and the picture that decoding it gives.

    `setting` is the step R, or the quality parameter of a classical codec. `bytes_y` and `bytes_z` are the shares of
    the latents and of the side information in the file, in bytes; together they are all but the container. A codec
    without such parts has None.
    """

    data: bytes
    pixels: Pixels
    setting: float
    bytes_y: float | None = None
    bytes_z: float | None = None


Code: TypeAlias = Callable[[Pixels], Coded]
"""Encodes a picture at a fixed setting and decodes the file."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All figures of one picture coded by one codec; PSNRs in dB, infinite for equal pictures."""

    size: int
    """Bytes of the file."""
    sha256: str
    """Of the file."""
    setting: float
    bpp: float
    bpp_y: float | None
    bpp_z: float | None
    psnr: float
    """PSNR(x, x_hat*): what a reader of the file gets, against the clean picture."""
    psnr_own: float
    """PSNR(x*, x_hat*): against what was encoded."""
    psnr_input: float
    """PSNR(x, x*): the noise; infinite for a clean picture."""
    ms_ssim: float
    """MS-SSIM(x, x_hat*)."""
    worst_block: float
    """The lowest PSNR(x, x_hat*) of a block of 64 x 64."""
    score: float
    """J of the picture against its own input."""
    gain: float | None
    """Adversarial gain A = (MSE(x, x_hat*) - MSE(x, x_hat)) / epsilon, MSE on [0, 1]; None without a budget."""
    score_change: float | None
    """J(x*) - J(x), each against its own input; None without a budget."""


def coder(codec: Codec, target: Target) -> Code:
    """Give what encodes and decodes with a model at a target, and tells the bytes of y and z apart.

    Calling it raises what `Codec.encode` and `Codec.decode` raise.
    """
    architecture = open_architecture(codec.bundle, codec.threads)

    def code(pixels: Pixels) -> Coded:
        encoded = codec.encode(Picture(pixels=pixels), target)
        shown = codec.decode(encoded.data).pixels
        with limited(codec.threads):
            shares = _shares(architecture, encoded.data)
        return Coded(encoded.data, shown, encoded.step, *shares)

    return code


def measure(
    code: Code,
    clean: Pixels,
    attacked: Pixels,
    *,
    quality: float = 4.0,
    epsilon: float | None = None,
    reference: Coded | None = None,
) -> Figures:
    """Encode and decode a picture and measure it; `attacked` is `clean` itself for a figure without attack.

    `quality` sets the Lagrangian of J, `epsilon` is the attack's budget (mean square on [0, 1]; None: no attack).
    `reference` is the clean picture as this codec codes it, made here unless it is given.
    """
    coded = code(attacked)
    height, width = clean.shape[:2]
    bpp, own = bits_per_pixel(len(coded.data), width, height), psnr(attacked, coded.pixels)
    gain = change = None
    if epsilon is not None:
        reference = reference or code(clean)
        gain = (mse(clean, coded.pixels) - mse(clean, reference.pixels)) / 255**2 / epsilon
        before = bits_per_pixel(len(reference.data), width, height), psnr(clean, reference.pixels)
        change = score(bpp, own, quality) - score(*before, quality)
    return Figures(
        size=len(coded.data),
        sha256=hashlib.sha256(coded.data).hexdigest(),
        setting=coded.setting,
        bpp=bpp,
        bpp_y=None if coded.bytes_y is None else 8 * coded.bytes_y / (width * height),
        bpp_z=None if coded.bytes_z is None else 8 * coded.bytes_z / (width * height),
        psnr=psnr(clean, coded.pixels),
        psnr_own=own,
        psnr_input=psnr(clean, attacked),
        ms_ssim=ms_ssim(clean, coded.pixels),
        worst_block=worst_block(clean, coded.pixels),
        score=score(bpp, own, quality),
        gain=gain,
        score_change=change,
    )


def ideal_length(architecture: Architecture, data: bytes) -> float:
    """Ideal code length in bits of all symbols in a file of the network's: what no coder could do better on average."""
    return math.fsum(y_bits + z_bits for _, y_bits, z_bits in _lengths(architecture, data))


def _shares(architecture: Architecture, data: bytes) -> tuple[float, float]:
    """Bytes of y and of z in a file.

    Both are in one message of the range coder, so its bytes are divided as the ideal code lengths of the symbols are.
    """
    y_bytes, z_bytes = [], []
    for size, y_bits, z_bits in _lengths(architecture, data):
        share = y_bits / (y_bits + z_bits)  # no probability is one, so that z never costs nothing
        y_bytes.append(size * share)
        z_bytes.append(size * (1 - share))
    return math.fsum(y_bytes), math.fsum(z_bytes)


def _lengths(architecture: Architecture, data: bytes) -> Iterator[tuple[int, float, float]]:
    """Bytes of each strip's message, and the ideal code lengths of its y and z in bits."""
    file = unpack(data)
    width = -(-file.header.coded_width // STRIDE)
    for index, strip in enumerate(file.payload):
        _, message = split_strip(strip)
        height = -(-len(file.header.rows_of_strip(index)) // STRIDE)
        key = key_of(file.header.seed, index)
        yield len(message), *_ideal(architecture, message, height, width, file.header.step, key)


def _ideal(
    architecture: Architecture, message: bytes, height: int, width: int, step: int, key: bytes
) -> tuple[float, float]:
    """Ideal code lengths in bits of a strip's y and z, from its message; y is `height` x `width`."""
    decoder = make_decoder(message)
    index = architecture.side_index(height, width)
    z = decode_group(decoder, index, architecture.z_tables)
    z_bits = float(ideal_bits(z, index, architecture.z_tables).sum())
    schedule = architecture.conditions(z, height, width, key).schedule(step)
    y_bits = 0.0
    try:
        group = next(schedule)
        while True:
            symbols = decode_group(decoder, group.table, architecture.y_tables)
            y_bits += float(ideal_bits(symbols, group.table, architecture.y_tables).sum())
            group = schedule.send(symbols)
    except StopIteration:
        return y_bits, z_bits

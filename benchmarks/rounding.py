"""Two ways to round latents that have means, measured on the same network (cheng).

    python benchmarks/rounding.py cheng-base --pictures $DATA/cid22-val

A, which the codec does: each latent is rounded around its mean, q = round((y - mean) / step), and the latents after it
see q * step + mean. Encoders walk front by front as decoders do; one table per scale serves all means. B: latents are
rounded themselves, round(y / step) * step, so that an encoder knows all contexts at once; tables are then needed for
each scale and each fraction of a step that a mean can leave, and `fractions` of them cost a little rate. The last table
is of the arithmetic of the means and scales in processor time: front by front, and all latents at once.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustcodec.architectures.cheng import ChengConditions, EntropyParameters
from robustcodec.architectures.wavefront import TAPS
from robustcodec.bundle import find
from robustcodec.lab.checkpoints import network_of, weights_of_bundle
from robustcodec.lab.data import centre_crops, picture_files, read_pictures
from robustcodec.lab.entropy_models import gaussian_bits
from robustcodec.lab.networks import Network, round_straight_through
from robustcodec.rate import high_rate_step, lagrangian
from robustcodec.strips import quantised, walk

FRACTIONS = (None, 64, 16, 4)
"""Fractions of a step that means are rounded to in B; None for not at all."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="id, path or fingerprint of a cheng model")
    parser.add_argument("--pictures", type=Path, required=True, help="folder; the middle 256x256 of each is used")
    parser.add_argument("--most", type=int, help="how many of the pictures to use")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle = find(options.model)
    network = network_of(weights_of_bundle(bundle), bundle.id).requires_grad_(False)
    crops = centre_crops(read_pictures(picture_files(options.pictures)[: options.most], print), 256)
    y = torch.cat([network.analyse(crop) for crop in torch.split(crops, 1)])
    print("| quality | rounding | bits per pixel of y | mse | J |\n|---|---|---|---|---|")
    for quality in (1.0, 4.0, 6.0):
        for name, bits, mse in compare(network, crops, y, high_rate_step(quality)):
            score = bits + lagrangian(quality) * 255**2 * mse
            print(f"| {quality:g} | {name} | {bits:.4f} | {mse:.3e} | {score:.4f} |", flush=True)
    integers = EntropyParameters(bundle.entropy, *bundle.manifest.sizes)
    together, walked = times(integers, y[:1].numpy()[0])
    print(f"\nmeans and scales of 256 latents: {walked:.4f} s front by front, {together:.4f} s all at once")


def compare(network: Network, crops: Tensor, y: Tensor, step: float) -> list[tuple[str, float, float]]:
    """Give bits per pixel of y, without z, and the mean square error of each way."""
    steps = torch.full((len(y), 1, 1, 1), step)
    z_hat = network.quantised_side(y, round_straight_through)
    pixels = crops[:, 0].numel()

    def error(y_hat: Tensor) -> float:
        shown = torch.cat([network.synthesise(each) for each in torch.split(y_hat, 1)])
        return float(((shown * 255).round().clamp(0, 255) / 255 - crops).square().mean())

    symbols = network.quantised(y / steps, steps, round_straight_through)
    means, scales = network.gaussians(z_hat, symbols * steps)
    found = [
        ("A", float(gaussian_bits(symbols - means / steps, scales / steps).sum()) / pixels, error(symbols * steps))
    ]
    symbols = (y / steps).round()
    means, scales = network.gaussians(z_hat, symbols * steps)
    mse = error(symbols * steps)
    for fractions in FRACTIONS:
        around = means / steps if fractions is None else (means / steps * fractions).round() / fractions
        bits = float(gaussian_bits(symbols - around, scales / steps).sum()) / pixels
        found.append(("B" if fractions is None else f"B, {fractions} fractions", bits, mse))
    return found


def times(integers: EntropyParameters, y: np.ndarray) -> tuple[float, float]:  # type: ignore[type-arg]
    """Seconds of a processor that the means and scales of y take, for all latents together and front by front."""
    channels, height, width = y.shape
    conditions = ChengConditions(integers, np.zeros((channels, height // 4, width // 4), np.int32), height, width)
    side = conditions.side.reshape(-1, 2 * channels).astype(np.float64)
    context = np.ones((height * width, len(TAPS) * channels))
    together = _seconds(lambda: integers.gaussians(side, context))
    zones = np.full(len(integers.y_tables), 0.5, np.float32)
    walked = _seconds(lambda: walk(conditions.schedule(1024), lambda group: quantised(y, group, 1024, zones)))
    return together, walked


def _seconds(call: Callable[[], object]) -> float:
    call()
    found = []
    for _ in range(5):
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found)


if __name__ == "__main__":
    main()

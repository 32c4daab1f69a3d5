"""Makes README's picture: what the same attack leaves of the sample photograph under several models.

    python scripts/attack_picture.py weights/hyper-control weights/hyper-robust -o docs/attack.webp

Each row is a model, each attacked by its own strongest search: left what it decodes of the photograph, right what it
decodes of the attacked one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from robustcodec.bundle import Bundle, open_bundle
from robustcodec.codec import Codec
from robustcodec.data import SAMPLE
from robustcodec.images import Picture, read_picture
from robustcodec.lab.attacks.craft import craft
from robustcodec.lab.attacks.threat import DEFAULT_EPSILON, Attack, Target, Threat
from robustcodec.lab.precision import Precision
from robustcodec.lab.sheet import sheet
from robustcodec.metrics import bits_per_pixel, psnr
from robustcodec.pixels import Pixels

MAX_PIXELS = 1 << 24
WEBP_QUALITY = 92


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="folders of bundles")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--crop", type=int, nargs=4, default=[384, 96, 384, 256], metavar=("X", "Y", "W", "H"))
    parser.add_argument("--method", default="strong")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    left, top, width, height = arguments.crop
    whole = read_picture(SAMPLE.read_bytes(), MAX_PIXELS).pixels
    photograph = np.ascontiguousarray(whole[top : top + height, left : left + width])
    attack = Attack(
        threat=Threat(Target.PSNR), method=arguments.method, steps=arguments.steps, precision=Precision.AUTO
    )
    panels = [panel for path in arguments.models for panel in row(open_bundle(path), photograph, attack)]
    Image.fromarray(sheet(panels)).save(arguments.output, quality=WEBP_QUALITY, method=6)


def row(bundle: Bundle, photograph: Pixels, attack: Attack) -> Sequence[tuple[str, Pixels]]:
    """Code the photograph, and what the attack makes of it; print and label what becomes of both."""
    (crafted,) = craft(bundle, [photograph], attack)
    noise = f"noise of {DEFAULT_EPSILON:g}, {psnr(photograph, crafted.pixels):.1f} dB"
    panels = []
    for what, pixels in (("", photograph), (", attacked", crafted.pixels)):
        codec = Codec(bundle)
        data = codec.encode(Picture(pixels=pixels)).data
        decoded = codec.decode(data).pixels
        rate = bits_per_pixel(len(data), photograph.shape[1], photograph.shape[0])
        label = f"{bundle.id}{what}: {rate:.2f} bpp, {psnr(photograph, decoded):.1f} dB"
        panels.append((label, decoded))
        print(label, f"({noise})" if what else "")
    return panels


if __name__ == "__main__":
    main()

"""What a grey picture costs, and what the mean of channels gains: `python benchmarks/grey.py --bundle B PICTURE...`.

Takes the middle of each picture, in colour and in grey, and prints for some qualities the mean bits per pixel of real
files of both, and the PSNR of grey as it is decoded, from the mean of the three channels, over that of the three.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from robustcodec.bundle import open_bundle
from robustcodec.codec import Codec
from robustcodec.container import pack, unpack
from robustcodec.images import Picture, read_picture
from robustcodec.metrics import bits_per_pixel, psnr
from robustcodec.rate import Quality


def middle(path: Path, side: int) -> Picture:
    """The middle of a picture in colour."""
    picture = read_picture(path.read_bytes(), 1 << 28)
    top, left = (picture.height - side) // 2, (picture.width - side) // 2
    if min(top, left) < 0:
        raise SystemExit(f"{path} is smaller than {side}x{side}")
    return Picture(pixels=np.ascontiguousarray(picture.pixels[top : top + side, left : left + side]))


def in_grey(picture: Picture) -> Picture:
    """A picture's luminance (ITU-R BT.601)."""
    luminance = np.rint(picture.pixels @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return Picture.of(luminance[..., None])


def measure(codec: Codec, colour: Picture, quality: float) -> tuple[float, float, float]:
    """Bits per pixel in grey and in colour, and what the mean of the channels gains in decibels."""
    grey = in_grey(colour)
    files = [codec.encode(picture, Quality(quality)).data for picture in (grey, colour)]
    file = unpack(files[0])
    three = codec.decode(pack(replace(file.header, grey=False), file.chunks))
    gain = psnr(grey.pixels, codec.decode(files[0]).pixels) - psnr(grey.pixels, three.pixels)
    rates = [bits_per_pixel(len(data), colour.width, colour.height) for data in files]
    return rates[0], rates[1], gain


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--side", type=int, default=384, help="of the part of each picture [384]")
    parser.add_argument("--qualities", type=float, nargs="+", default=[2, 4, 6])
    parser.add_argument("pictures", type=Path, nargs="+")
    options = parser.parse_args()
    codec = Codec(open_bundle(options.bundle))
    pictures = [middle(path, options.side) for path in options.pictures]
    print("| quality | grey, bpp | colour, bpp | less | the mean gains, dB |\n|---|---|---|---|---|")
    for quality in options.qualities:
        grey, colour, gain = np.mean([measure(codec, picture, quality) for picture in pictures], axis=0)
        print(f"| {quality:g} | {grey:.3f} | {colour:.3f} | {1 - grey / colour:.1%} | {gain:.2f} |", flush=True)


if __name__ == "__main__":
    main()

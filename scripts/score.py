"""Means and J of the JSON lines of `robustcodec encode --psnr --json`, from standard input.

    robustcodec encode -r $DATA/kodak -o out -q 4 --strip-all --psnr --json | python scripts/score.py -q 4

J = mean bpp + lambda * 255^2 * 10^(-P/10), P the mean PSNR over the pictures, lambda that of the quality given.
"""

import argparse
import json
import sys

from robustcodec.rate import score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-q", "--quality", type=float, default=4.0)
    quality = parser.parse_args().quality
    rows = [json.loads(line) for line in sys.stdin]
    missing = [row["input"] for row in rows if row.get("psnr") is None]
    if missing or not rows:
        raise SystemExit(f"{len(missing)} of {len(rows)} lines hold no result (failed or skipped files)")
    bpp = sum(row["bpp"] for row in rows) / len(rows)
    psnr = sum(row["psnr"] for row in rows) / len(rows)
    worst = min(rows, key=lambda row: row["psnr"])
    print(
        f"{len(rows)} pictures at quality {quality:g}: {bpp:.3f} bpp, {psnr:.2f} dB, "
        f"J {score(bpp, psnr, quality):.3f}; worst {worst['psnr']:.2f} dB ({worst['input'].rsplit('/', 1)[-1]})"
    )


if __name__ == "__main__":
    main()

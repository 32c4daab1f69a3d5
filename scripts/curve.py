"""The curve of J over pixels seen, out of the logs of runs that continue one another.

    python scripts/curve.py runs/first runs/second --rows 12

A run that begins with another's weights counts from that run's last line on, so give them in order.
"""

import argparse
from pathlib import Path

from robustcodec.lab.runs import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--rows", type=int, default=12, help="how many rows to print, spread evenly")
    options = parser.parse_args()

    rows = []
    pixels = hours = 0.0
    for run in options.runs:
        seconds = 0.0
        for record in Run(run).records():
            seconds = record.get("seconds", seconds)
            if "validation_J" in record:
                figures = (record["validation_bpp"], record["validation_psnr"], record["validation_J"])
                rows.append((run.name, record["step"], pixels + record["pixels"], hours + seconds / 3600, *figures))
        if not rows:
            raise SystemExit(f"{run} has logged no validation yet")
        pixels, hours = rows[-1][2], rows[-1][3]
    kept = sorted({round(index * (len(rows) - 1) / max(1, options.rows - 1)) for index in range(options.rows)})
    print("| run | step | pixels seen | hours | bpp | dB | J |\n| --- | --- | --- | --- | --- | --- | --- |")
    for index in kept:
        run_name, step, seen, spent, bpp, psnr, score = rows[index]
        print(f"| {run_name} | {step} | {seen:.2e} | {spent:.2f} | {bpp:.3f} | {psnr:.2f} | {score:.3f} |")


if __name__ == "__main__":
    main()

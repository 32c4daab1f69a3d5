"""The photograph that comes with the package, to try things on: kodim23 of the Kodak suite, 768x512."""

from pathlib import Path

SAMPLE = Path(__file__).parent / "sample.png"

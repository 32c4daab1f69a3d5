"""Files that come with the package: a photograph, and what tells file managers and file(1) of the format."""

from pathlib import Path

SAMPLE = Path(__file__).parent / "sample.png"
"""A photograph to try things on: kodim23 of the Kodak suite, 768x512."""

MIME = Path(__file__).parent / "robustcodec.xml"
"""The format for the shared MIME database of desktops (freedesktop.org)."""

MAGIC = Path(__file__).parent / "robustcodec.magic"
"""The format for file(1)."""

COMPLETIONS = Path(__file__).parent / "completions"
"""A folder with what completes the command line: `robustcodec.bash`, `_robustcodec` for zsh, `robustcodec.fish`."""

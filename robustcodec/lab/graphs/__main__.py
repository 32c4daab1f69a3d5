"""Writes the graphs into the package."""

from pathlib import Path

from robustcodec import graphs
from robustcodec.lab.graphs import write_all

if __name__ == "__main__":
    write_all(Path(graphs.__file__).parent)

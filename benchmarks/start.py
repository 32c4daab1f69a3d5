"""The start of training: what each kind of first weights gives before and after a few hundred steps.

    python benchmarks/start.py --data $DATA/train --validation $DATA/cid22-val --steps 300

Kinds: random (torch's own initialisation), haar (2x2 Haar packets, the strongest channels kept), principal (what
`robustcodec train` begins with). All other settings are the same. Prints a Markdown table.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from robustcodec.lab import hyper_start as start
from robustcodec.lab.data import Pool, centre_crops, picture_files, read_pictures
from robustcodec.lab.hyper import Hyper
from robustcodec.lab.losses import rate_distortion
from robustcodec.lab.precision import Precision
from robustcodec.lab.recipe import Phase, Recipe
from robustcodec.lab.runs import Run, State, cpu_copy
from robustcodec.lab.training import fit, validate


def haar(blocks: Tensor, count: int) -> Tensor:
    """Haar packets of 2x2 blocks, the `count` of largest variance: a drop-in for the principal components."""
    step = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
    channels = blocks.shape[1] // 4
    basis = torch.kron(torch.eye(channels), step)
    if channels == 3:
        colours = torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / torch.tensor([[3.0], [2.0], [6.0]]).sqrt()
        basis = torch.kron(colours, step)
    energy = torch.einsum("kc,bchw->bkhw", basis, blocks).square().mean((0, 2, 3))
    return basis[energy.argsort(descending=True)[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pictures", type=int, default=300, help="how many of the training pictures to use")
    options = parser.parse_args()

    recipe = Recipe(
        steps=options.steps,
        precision=Precision.AUTO,
        validations=1,
        phases=(Phase(share=0.1, rate_from=1e-5, rate_to=1e-3), Phase(share=0.9, rate_from=1e-3, rate_to=0.0)),
    )
    files = picture_files(options.data)
    pool = Pool.of(read_pictures(files[:: max(1, len(files) // options.pictures)], print), 128, torch.device("cpu"))
    crops = centre_crops(read_pictures(picture_files(options.validation), print), 256)
    sample = pool.draw(256, 128, torch.Generator().manual_seed(0))

    def principal(network: Hyper) -> None:
        start.orthonormal_start(network, sample, torch.Generator().manual_seed(0))

    def packets(network: Hyper) -> None:
        own = start.principal_components
        start.principal_components = haar
        try:
            principal(network)
        finally:
            start.principal_components = own

    kinds: dict[str, Callable[[Hyper], None]] = {"random": lambda _: None, "haar": packets, "principal": principal}
    print(f"| start | dB, not rounded | J before | J after {options.steps} steps |\n| --- | --- | --- | --- |")
    for name, begin in kinds.items():
        torch.manual_seed(0)
        network = Hyper()
        begin(network)
        with torch.no_grad():
            pairs = [(x, network.synthesise(network.analyse(x))) for x in crops.split(4)]
        decibels = torch.cat([-10 * (x - seen).square().mean((1, 2, 3)).log10() for x, seen in pairs]).mean()
        before = validate(copy.deepcopy(network), crops, recipe)["validation_J"]
        with tempfile.TemporaryDirectory() as folder:
            weights = network.state_dict()
            state = State(0, 0.0, cpu_copy(weights), cpu_copy(weights), {})
            fit(Run(Path(folder)), recipe, state, network, rate_distortion, pool, crops, lambda _: None)
            after = Run(Path(folder)).records()[-1]["validation_J"]
        print(f"| {name} | {decibels:.2f} | {before:.3f} | {after:.3f} |", flush=True)


if __name__ == "__main__":
    main()

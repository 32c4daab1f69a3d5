"""Pack a training run for a GPU machine, and unpack what comes back: docs/gpu.md says how.

new    training and validation crops, first weights, the plan and the code, in one folder
next   the same folder with what a slice left, for the next slice
join   the averaged weights that a slice left, as one file for `train --init` and `export`
"""

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from robustcodec.errors import RobustcodecError, TrainingError
from robustcodec.lab import limits
from robustcodec.lab.checkpoints import load_weights, network_of
from robustcodec.lab.crops import Encoding, count_crops, pack_crops, sample_tiles, unpack_crops
from robustcodec.lab.data import centre_crops, picture_files, read_pictures
from robustcodec.lab.parcels import INDEX, MIB, read_parcel, write_parcel
from robustcodec.lab.recipe import Recipe
from robustcodec.lab.slices import Plan, averaged_weights, check_teacher, new_run, next_slice

_PACKAGE = Path(__file__).resolve().parents[1] / "robustcodec"
_VALIDATION_MOST = 12 * MIB


def main() -> int:
    arguments = _arguments()
    try:
        arguments.run(arguments)
    except (RobustcodecError, OSError) as error:
        print(f"gpu_pack: {error}", file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pack a training run for a GPU machine; docs/gpu.md says how.")
    commands = parser.add_subparsers(required=True)
    limits = argparse.ArgumentParser(add_help=False)
    limits.add_argument("--max-upload", type=float, default=60.0, help="MiB of the whole pack")
    limits.add_argument("--max-file", type=float, default=15.0, help="MiB; larger files are split")

    new = commands.add_parser("new", parents=[limits], help="pack a run that begins")
    new.add_argument("--data", type=Path, required=True, help="folder of training pictures")
    new.add_argument("--validation", type=Path, required=True, help="folder of validation pictures")
    new.add_argument("--init", type=Path, required=True, help="run, bundle or checkpoint to begin with")
    new.add_argument("--teacher", type=Path, help="run, bundle or checkpoint that a distilled run learns from")
    new.add_argument("--recipe", type=Path, required=True, help="recipe; its steps are set from measured speed")
    new.add_argument("--slices", type=int, default=3, help="slices that the recipe is spread over")
    new.add_argument("--steps", type=int, help="steps of the whole run (default: as many as fit into the slices)")
    new.add_argument("--crop", type=int, default=384, help="side of the crops that travel")
    new.add_argument("--crops-size", type=float, default=25.0, help="MiB of training crops at most")
    new.add_argument("--format", default="AVIF", choices=["AVIF", "JPEG", "PNG"], help="of the training crops")
    new.add_argument("-o", "--output", type=Path, default=Path("pack"))
    new.set_defaults(run=_new)

    after = commands.add_parser("next", parents=[limits], help="put what a slice left into its pack")
    after.add_argument("outcome", type=Path, help="folder that came back")
    after.add_argument("-o", "--output", type=Path, default=Path("pack"))
    after.set_defaults(run=_next)

    join = commands.add_parser("join", help="write the averaged weights that a slice left as one file")
    join.add_argument("outcome", type=Path, help="folder that came back")
    join.add_argument("-o", "--output", type=Path, required=True, help="a .safetensors file")
    join.set_defaults(run=_join)
    return parser.parse_args()


def _new(arguments: argparse.Namespace) -> None:
    _check_output(arguments.output)
    recipe = Recipe.load(arguments.recipe)
    if arguments.crop < max(phase.crop for phase in recipe.phases):
        raise TrainingError(f"the recipe takes larger crops than --crop {arguments.crop}; pack larger ones")
    weights = load_weights(arguments.init)
    network = network_of(weights, str(arguments.init))
    if (network.n, network.m) != recipe.channels:
        raise TrainingError(
            f"{arguments.init} has {network.n}, {network.m} channels, the recipe {recipe.channels[0]}, "
            f"{recipe.channels[1]}; change one of them"
        )
    teacher = None
    if arguments.teacher is not None:
        teacher = network_of(load_weights(arguments.teacher), str(arguments.teacher)).state_dict()
    plan = Plan(recipe=recipe, slices=arguments.slices, parent=str(arguments.init), steps=arguments.steps)
    check_teacher(recipe, teacher)
    tiles = sample_tiles(read_pictures(picture_files(arguments.data), print), arguments.crop, recipe.seed)
    crops = pack_crops(tiles, Encoding(format=arguments.format), int(arguments.crops_size * MIB))
    if recipe.hardening is not None and recipe.hardening.gain_quantile is not None:
        some = centre_crops(unpack_crops(crops)[: limits.CROPS], recipe.phases[0].crop)
        limits.limit_gains(network, some, recipe.hardening.gain_quantile)
    middles = centre_crops(read_pictures(picture_files(arguments.validation), print), min(256, arguments.crop))
    lossless = ((middles * 255).round().byte().permute(0, 2, 3, 1).numpy()[i] for i in range(len(middles)))
    validation = pack_crops(lossless, Encoding(format="PNG"), _VALIDATION_MOST)
    print(f"{count_crops(crops)} crops for training, {count_crops(validation)} of {len(middles)} for validation")
    _write(arguments, new_run(plan, network.state_dict(), crops, validation, teacher))


def _next(arguments: argparse.Namespace) -> None:
    _check_output(arguments.output)
    _write(arguments, next_slice(read_parcel(arguments.output), read_parcel(arguments.outcome)))


def _join(arguments: argparse.Namespace) -> None:
    arguments.output.write_bytes(averaged_weights(read_parcel(arguments.outcome)))


def _check_output(output: Path) -> None:
    """Refuse a folder in which the pack would replace something other than an earlier pack."""
    if (output / _PACKAGE.name).resolve() == _PACKAGE:
        raise TrainingError(f"{output} holds the package itself; name another folder with -o")
    if output.is_dir() and any(output.iterdir()) and not (output / INDEX).is_file():
        raise TrainingError(f"{output} is neither empty nor a pack; name another folder with -o")


def _write(arguments: argparse.Namespace, files: Mapping[str, bytes]) -> None:
    """Write the pack, with the code as it is now."""
    code = [*_PACKAGE.rglob("*.py"), Path(__file__).with_name("gpu_slice.py")]
    most = int(arguments.max_upload * MIB) - sum(path.stat().st_size for path in code)
    write_parcel(arguments.output, files, most=most, piece=int(arguments.max_file * MIB))
    shutil.rmtree(arguments.output / _PACKAGE.name, ignore_errors=True)
    for path in code:
        target = arguments.output / path.relative_to(_PACKAGE.parent if _PACKAGE in path.parents else path.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for name, data in files.items():
        print(f"{len(data) / MIB:8.2f} MiB  {name}")
    print(f"packed into {arguments.output}")


if __name__ == "__main__":
    sys.exit(main())

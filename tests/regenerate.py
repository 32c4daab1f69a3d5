"""Make what tests compare with, and compare with it: `python -m tests.regenerate bundle ARCH`, `golden` or `check`.

`bundle ARCH` trains tests/data/tiny/ARCH-tiny, which needs the lab; `golden` writes the files of tests/data/golden
and of tests/data/golden-cheng with these bundles, and those of tests/data/golden-dithered with one made of them. All
are committed and change only with a version of the format: files written long ago must decode for ever.
`check` decodes the golden files and fails unless the latents are those expected, and the pixels within a level of
those expected: it needs the runtime alone, for emulators and other machines.
"""

import hashlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from robustcodec import codec as codec_module
from robustcodec.architectures import Group
from robustcodec.bundle import ENTROPY, PARTS, Bundle, manifest_document, open_bundle, write_bundle
from robustcodec.codec import Codec
from robustcodec.container import pack, split_strip, unpack
from robustcodec.dither import OFFSETS, key_of
from robustcodec.entropy import Table, TableSet, decode_group, make_decoder
from robustcodec.images import Picture, read_picture, write_picture
from robustcodec.layout import latents_of_strip
from robustcodec.rate import Quality
from robustcodec.strips import walk

DATA = Path(__file__).parent / "data"
TINY = DATA / "tiny" / "hyper-tiny"
CHENG = DATA / "tiny" / "cheng-tiny"
GOLDEN = DATA / "golden"
GOLDEN_CHENG = DATA / "golden-cheng"
GOLDEN_DITHERED = DATA / "golden-dithered"
PLAIN = DATA / "plain"
EXPECTED = "expected.json"

Pixels = NDArray[np.uint8]


def sample(height: int, width: int, seed: int = 0) -> Pixels:
    """Make a picture with gradients, edges and texture out of whole numbers, so that it is the same everywhere."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.int64)
    for size in (64, 32, 16, 8, 4, 2, 1):
        cells = generator.integers(-128, 128, (height // size + 2, width // size + 2, 1))
        tint = generator.integers(-48, 48, (*cells.shape[:2], 3))
        total += _interpolated(cells + tint, size, height, width) * (6 * size if size > 2 else 4)
    for _ in range(3):
        y, x, steep = generator.integers(0, height), generator.integers(0, width), generator.integers(-3, 4)
        colour = generator.integers(-60, 60, 3) * 600
        beyond = np.arange(height)[:, None] - y > steep * (np.arange(width)[None] - x)
        total += beyond[:, :, None] * colour
    return np.clip(128 + total // 600, 0, 255).astype(np.uint8)


def _interpolated(cells: NDArray[np.int64], size: int, height: int, width: int) -> NDArray[np.int64]:
    """Enlarge by `size`, linearly: (height, width, 3)."""
    row, row_share = np.divmod(np.arange(height), size)
    column, column_share = np.divmod(np.arange(width), size)
    rows = cells[row] * (size - row_share)[:, None, None] + cells[row + 1] * row_share[:, None, None]
    share = column_share[None, :, None]
    both = rows[:, column] * (size - share) + rows[:, column + 1] * share
    return both // (size * size)


def train_tiny(folder: Path, scratch: Path, arch: str = "hyper", steps: int = 500) -> None:
    """Train a network of 8/12 or 8 channels for seconds and export it as a bundle."""
    import torch

    from robustcodec.lab.architectures import make_network
    from robustcodec.lab.data import Pool, centre_crops
    from robustcodec.lab.export import export
    from robustcodec.lab.losses import rate_distortion
    from robustcodec.lab.recipe import Phase, Recipe
    from robustcodec.lab.runs import Run, Settings, State, cpu_copy
    from robustcodec.lab.training import fit

    recipe = Recipe(
        steps=steps,
        arch=arch,
        channels=(8, 12) if arch == "hyper" else (8, 8),
        quality_low=1.0,
        quality_high=6.0,
        phases=(
            Phase(share=0.6, rate_from=2e-3, rate_to=2e-3, batch=16, crop=64),
            Phase(share=0.4, rate_from=2e-3, rate_to=0.0, batch=16, crop=64),
        ),
        validations=1,
    )
    torch.set_num_threads(1)
    pictures = [sample(128, 128, seed) for seed in range(100, 148)]
    pool = Pool.of(pictures, 64, torch.device("cpu"))
    torch.manual_seed(0)
    network = make_network(arch, recipe.channels)
    generator = torch.Generator().manual_seed(0)
    network.start(pool.draw(64, 64, generator), generator)
    weights = network.state_dict()
    run = Run(scratch / "run")
    state = State(0, 0.0, cpu_copy(weights), cpu_copy(weights), {})
    run.create(Settings(recipe=recipe, data="generated", validation=None, parent="orthonormal start", threads=1), state)
    fit(run, recipe, state, network, rate_distortion, pool, centre_crops(pictures[:4], 128), lambda progress: None)
    trained = run.load()
    assert trained is not None
    export(
        trained.average,
        folder,
        id=f"{arch}-tiny",
        variant="base",
        provenance={"data": "pictures generated by tests/regenerate.py", "steps": steps, "parents": []},
        calibration=pictures[:16],
        validation=[sample(96, 128, 1), sample(128, 64, 2)],
        announce=print,
    )


def golden_files(codec: Codec) -> dict[str, bytes]:
    """Encode what the golden files hold: sizes, strips, metadata, escapes, grey, alpha, transforms."""
    noise = np.random.default_rng(1).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    files = {
        "one-pixel": codec.encode(Picture(pixels=sample(1, 1)), Quality(4)).data,
        "odd": codec.encode(Picture(pixels=sample(5, 17, 1)), Quality(2.5)).data,
        "square": codec.encode(Picture(pixels=sample(64, 64, 2)), Quality(6)).data,
        "wide": codec.encode(Picture(pixels=sample(30, 130, 3)), Quality(1)).data,
    }
    with mock.patch.multiple(codec_module, STRIP_ABOVE=1, STRIP_ROWS=64):
        metadata = {"icc": b"a profile", "exif": b"II*\x00" + bytes(8), "xmp": b"<x:xmpmeta/>"}
        files["strips"] = codec.encode(Picture(pixels=sample(150, 40, 4), **metadata), Quality(3)).data
    files["escapes"] = _hostile(codec, Picture(pixels=noise))
    files["grey"] = codec.encode(Picture.of(sample(33, 41, 5)[..., :1]), Quality(4)).data
    rows, columns = np.mgrid[:40, :56]
    round_alpha = np.clip(16 * (20 - np.abs(rows - 20) - np.abs(columns - 28) // 2), 0, 255).astype(np.uint8)
    files["transparent"] = codec.encode(Picture(pixels=sample(40, 56, 6), alpha=round_alpha), Quality(4)).data
    grey = Picture(pixels=Picture.of(sample(20, 17, 7)[..., :1]).pixels, grey=True, alpha=sample(20, 17, 8)[..., 0])
    file = unpack(codec.encode(grey, Quality(4)).data)
    # alpha has the rows and columns of the reader's picture
    header = replace(file.header, transform=7, width=file.header.height, height=file.header.width)
    files["grey-transparent-turned"] = pack(header, file.chunks)
    file = unpack(files["odd"])
    # whatever the codec writes, the format has transforms: the coded picture is what the reader's becomes by it
    header = replace(file.header, transform=5, width=file.header.height, height=file.header.width)
    files["turned"] = pack(header, file.chunks)
    return files


def cheng_files(codec: Codec) -> dict[str, bytes]:
    """Encode what the golden files of cheng hold: fronts of all shapes, strips, escapes, all qualities."""
    files = {
        "cheng-one-pixel": codec.encode(Picture(pixels=sample(1, 1)), Quality(4)).data,
        "cheng-narrow": codec.encode(Picture(pixels=sample(120, 20, 1)), Quality(2.5)).data,
        "cheng-wide": codec.encode(Picture(pixels=sample(30, 130, 3)), Quality(1)).data,
        "cheng-square": codec.encode(Picture(pixels=sample(90, 90, 2)), Quality(6)).data,
    }
    with mock.patch.multiple(codec_module, STRIP_ABOVE=1, STRIP_ROWS=64):
        files["cheng-strips"] = codec.encode(Picture(pixels=sample(150, 40, 4)), Quality(3)).data
    noise = np.random.default_rng(1).integers(0, 256, (64, 48, 3)).astype(np.uint8)
    files["cheng-escapes"] = _hostile(codec, Picture(pixels=noise))
    return files


def dithered(folder: Path, model: Path = TINY) -> Bundle:
    """Write a model that dithers its middle scales, with tables that are not fitted to anything."""
    source = open_bundle(model)
    parts = {name: load((model / name).read_bytes()) for name in PARTS}
    arrays = parts[ENTROPY]
    own = TableSet.from_arrays(*(arrays[f"y.{part}"] for part in ("frequencies", "lengths", "minimums")))
    first, end = 24, 40
    rolled = [
        Table(each.minimum, np.append(np.roll(each.frequencies[:-1], k - 3), each.frequencies[-1]))
        for each in own.tables[first:end]
        for k in range(OFFSETS)
    ]
    arrays |= {f"dither.{name}": array for name, array in TableSet(tuple(rolled)).to_arrays().items()}
    arrays["dither.first"] = np.array([first], np.int32)
    return write_bundle(folder, {**manifest_document(source.manifest), "id": folder.name}, parts)


def dithered_files(codec: Codec) -> dict[str, bytes]:
    """Encode what the golden files of a model that dithers hold: strips, escapes, a picture stored turned."""
    files = {"dithered-odd": codec.encode(Picture(pixels=sample(21, 50, 1)), Quality(2.5), transform=5).data}
    with mock.patch.multiple(codec_module, STRIP_ABOVE=1, STRIP_ROWS=64):
        files["dithered-strips"] = codec.encode(Picture(pixels=sample(150, 40, 4)), Quality(3)).data
    noise = np.random.default_rng(1).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    files["dithered-escapes"] = _hostile(codec, Picture(pixels=noise))
    return files


def _hostile(codec: Codec, picture: Picture) -> bytes:
    """Code latents that no table foresees, of z and of y, up to those that are cut off, at the finest step."""
    prepared = codec._prepare(picture)
    y, z = prepared.strips[0].y.copy(), prepared.strips[0].z.copy()
    y[:6, 0, 0] = 300, -300, 250, -90, 40, -33
    z[:3, 0, 0] = 40, -1000, 32767
    conditions = codec._architecture.conditions(z, y.shape[1], y.shape[2], key_of(prepared.seed, 0))
    strip = replace(prepared.strips[0], y=y, z=z, conditions=conditions)
    return codec._code(replace(prepared, strips=(strip,)), 8).data


def latents(codec: Codec, data: bytes) -> tuple[list[NDArray[np.int32]], list[NDArray[np.int32]]]:
    """Decode the symbols of z and of y, one array for each strip."""
    file, architecture = unpack(data), codec._architecture
    z, y = [], []
    for index, strip in enumerate(file.payload):
        size = latents_of_strip(file.header, index)
        decoder = make_decoder(split_strip(strip)[1])
        z.append(decode_group(decoder, architecture.side_index(*size), architecture.z_tables))
        y.append(np.empty((architecture.channels, *size), np.int32))

        def note(group: Group, decoder: Any = decoder, symbols: NDArray[np.int32] = y[-1]) -> NDArray[np.int32]:
            symbols[group.positions] = decode_group(decoder, group.table, architecture.y_tables)
            return symbols[group.positions]

        conditions = architecture.conditions(z[-1], *size, key_of(file.header.seed, index))
        walk(conditions.schedule(file.header.step), note)
    return z, y


def digest(strips: list[NDArray[np.int32]]) -> str:
    """sha256 of symbols as 16-bit little endian integers."""
    return hashlib.sha256(b"".join(strip.astype("<i2").tobytes() for strip in strips)).hexdigest()


def write_golden(folder: Path, model: Path = TINY) -> None:
    """Write each golden file of a model, its picture as PNG, and the digests of its latents."""
    codec = Codec(open_bundle(model), threads=1)
    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    makers = {GOLDEN.name: golden_files, GOLDEN_CHENG.name: cheng_files, GOLDEN_DITHERED.name: dithered_files}
    for name, data in makers[folder.name](codec).items():
        z, y = latents(codec, data)
        (folder / f"{name}.rbc").write_bytes(data)
        shown = replace(codec.decode(data), icc=None, exif=None, xmp=None)
        (folder / f"{name}.png").write_bytes(write_picture(shown, "PNG"))
        expected[name] = {"z": digest(z), "y": digest(y)}
    (folder / EXPECTED).write_text(json.dumps(expected, indent=2) + "\n")


def check(folder: Path, model: Path = TINY, threads: int = 1) -> list[str]:
    """Decode golden files and name what differs from what is expected."""
    codec = Codec(open_bundle(model), threads)
    differences = []
    for name, expected in json.loads((folder / EXPECTED).read_text()).items():
        data = (folder / f"{name}.rbc").read_bytes()
        z, y = latents(codec, data)
        if {"z": digest(z), "y": digest(y)} != expected:
            differences.append(f"{name}: latents")
        shown = codec.decode(data)
        wanted = read_picture((folder / f"{name}.png").read_bytes(), max_pixels=1 << 20, as_is=True)
        if shown.samples.shape != wanted.samples.shape:
            differences.append(f"{name}: kind of picture")
        elif np.abs(shown.pixels.astype(int) - wanted.pixels).max() > 1:
            differences.append(f"{name}: pixels")
        elif not np.array_equal(shown.alpha, wanted.alpha):
            differences.append(f"{name}: alpha")
    return differences


if __name__ == "__main__":
    if sys.argv[1:2] == ["bundle"] and sys.argv[2:] in (["hyper"], ["cheng"]):
        with tempfile.TemporaryDirectory() as scratch:
            train_tiny(TINY.with_name(f"{sys.argv[2]}-tiny"), Path(scratch), sys.argv[2])
    elif sys.argv[1:] == ["golden"]:
        write_golden(GOLDEN)
        write_golden(GOLDEN_CHENG, CHENG)
        with tempfile.TemporaryDirectory() as scratch:
            write_golden(GOLDEN_DITHERED, dithered(Path(scratch) / "hyper-dithered").path)
    elif sys.argv[1:] == ["check"]:
        with tempfile.TemporaryDirectory() as scratch:
            model = dithered(Path(scratch) / "hyper-dithered").path
            sys.exit("\n".join(check(GOLDEN) + check(GOLDEN_CHENG, CHENG) + check(GOLDEN_DITHERED, model)) or None)
    else:
        sys.exit(__doc__)

"""The context model of cheng: exact at its bounds, refused beyond them, and its files through the commands."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from numpy.typing import NDArray
from regenerate import CHENG, GOLDEN_CHENG, latents
from typer.testing import CliRunner

from robustcodec import codec as codec_module
from robustcodec import memory
from robustcodec.architectures import cheng
from robustcodec.architectures.cheng import CONTEXT, LARGEST_Y, MEANS, SCALES, EntropyParameters, layer_specs
from robustcodec.architectures.hyperprior import MAX_INPUT
from robustcodec.bundle import ENTROPY, Bundle, manifest_document, open_bundle, write_bundle
from robustcodec.cli import app
from robustcodec.codec import Codec
from robustcodec.container import pack, unpack
from robustcodec.errors import CorruptFile, ModelDamaged
from robustcodec.exact import bound, index_at
from robustcodec.images import Picture, read_picture, write_picture
from robustcodec.metrics import psnr
from robustcodec.rate import Psnr, Quality
from robustcodec.strips import Strip, code_strip, read_strip, walk
from robustcodec.tiling import Region

Sample = Callable[..., NDArray[np.uint8]]
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(CHENG)


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> Codec:
    return Codec(bundle, threads=1)


@dataclass(frozen=True)
class Part:
    """As much of an architecture as a strip's latents need."""

    entropy: EntropyParameters

    @property
    def z_tables(self) -> Any:
        return self.entropy.z_tables

    @property
    def y_tables(self) -> Any:
        return self.entropy.y_tables

    @property
    def dithered(self) -> Any:
        return self.entropy.dithered

    @property
    def dead_zones(self) -> Any:
        return np.full(len(self.y_tables), 0.5, np.float32)

    def side_index(self, height: int, width: int) -> NDArray[np.uint8]:
        shape = (len(self.z_tables), -(-height // 4), -(-width // 4))
        return np.broadcast_to(np.arange(shape[0], dtype=np.uint8)[:, None, None], shape)

    def conditions(self, z: NDArray[np.int32], height: int, width: int, key: bytes = b"") -> cheng.ChengConditions:
        return self.entropy.conditions(z, height, width, key)


def arrays_of(bundle: Bundle) -> Arrays:
    return {name: np.array(array) for name, array in bundle.entropy.items()}


def worst_arrays(bundle: Bundle) -> Arrays:
    """Entropy parameters with the largest weights that the proof allows, and many different shifts."""
    arrays = arrays_of(bundle)
    generator = np.random.default_rng(0)
    for spec in layer_specs(*bundle.manifest.sizes):
        weight = arrays[f"{spec.name}.weight"]
        largest = 32767
        if spec.name == "h_s.0":  # its inputs have 25 bits, and a leaky slope takes 12 more
            largest = min(largest, (1 << 52) // 41 // MAX_INPUT // (spec.inputs * spec.kernel**2))
        weight[:] = np.where(generator.random(weight.shape) < 0.4, -largest, largest)
        shift = arrays[f"{spec.name}.shift"]
        shift[:] = 0 if spec.clip is None else generator.integers(0, 31, shift.shape)
        if spec.name in (CONTEXT, MEANS):  # means that are neither always zero nor always cut off
            shift[:] = generator.integers(12, 31, shift.shape)
    arrays["medians"][:] = 1 << 20
    arrays["medians"][1::2] *= -1
    return arrays


def as_lists(arrays: Arrays) -> dict[str, Any]:
    return {name: array.tolist() for name, array in arrays.items()}


@pytest.mark.parametrize("step", [8, 1024, 65535])
@pytest.mark.parametrize(("height", "width"), [(3, 5), (5, 2), (1, 1)])
def test_weights_and_latents_at_their_bounds(bundle: Bundle, step: int, height: int, width: int) -> None:
    """Coded here, decoded by the second decoder in plain integers: symbols, tables and y_hat."""
    arrays = worst_arrays(bundle)
    part = Part(EntropyParameters(arrays, *bundle.manifest.sizes))
    generator = np.random.default_rng(step)
    z = generator.choice([-32767, 32767, 0], (8, -(-height // 4), -(-width // 4))).astype(np.int32)
    y = generator.choice([-1e9, 1e9, 30000, -3, 0.4], (8, height, width)).astype(np.float32)
    data, y_hat, _ = code_strip(part, Strip(y, z, part.conditions(z, height, width), part.dead_zones), step)  # type: ignore[arg-type]
    strip = reference.decode_cheng(data, height, width, step, as_lists(arrays))
    assert strip.z == z.tolist() and strip.y_hat == y_hat.tolist()
    assert read_strip(part, data, height, width, step).tolist() == y_hat.tolist()  # type: ignore[arg-type]
    assert np.abs(y_hat).max() == LARGEST_Y or step == 8
    assert len(set(reference.flat(strip.index))) > 1 or height == 1


def test_parameters_up_to_the_proof_are_accepted_and_one_unit_more_is_not(bundle: Bundle) -> None:
    sizes = bundle.manifest.sizes
    largest = {"h_s.0": MAX_INPUT, CONTEXT: LARGEST_Y}
    for position, spec in enumerate(layer_specs(*sizes)):
        arrays = worst_arrays(bundle)
        arrays[f"{spec.name}.bias"][:] = 0
        shift = arrays[f"{spec.name}.shift"]
        shift[:] = 0 if spec.clip is None else 1
        reached = bound(EntropyParameters(arrays, *sizes).layers[position], largest.get(spec.name, 32768))
        free = ((1 << 53) - 1 - reached) // (41 if spec.leaky else 1)
        arrays[f"{spec.name}.bias"][0] = free
        EntropyParameters(arrays, *sizes)
        arrays[f"{spec.name}.bias"][0] += 1
        with pytest.raises(ModelDamaged, match=f"{spec.name} can reach .* exact only below"):
            EntropyParameters(arrays, *sizes)


@pytest.mark.parametrize("sign", [1, -1])
def test_biases_that_leave_nothing(bundle: Bundle, sign: int) -> None:
    """Sums that reach 2^53 - 1, if bounds are met, against plain integers."""
    arrays = worst_arrays(bundle)
    largest = {"h_s.0": MAX_INPUT, CONTEXT: LARGEST_Y}
    for position, spec in enumerate(layer_specs(*bundle.manifest.sizes)):
        arrays[f"{spec.name}.bias"][:] = 0
        layer = EntropyParameters(arrays, *bundle.manifest.sizes).layers[position]
        free = (1 << 53) - 1 - bound(layer, largest.get(spec.name, 32768))
        # what is rounded has half a unit added, and what leaks is multiplied by up to 41
        arrays[f"{spec.name}.bias"][0] = sign * (free // (41 if spec.leaky else 2))
    part = Part(EntropyParameters(arrays, *bundle.manifest.sizes))
    generator = np.random.default_rng(1)
    z = generator.choice([-32767, 32767, 0], (8, 1, 1)).astype(np.int32)
    y = generator.choice([-1e9, 1e9, 30000, -3, 0.4], (8, 3, 4)).astype(np.float32)
    data, y_hat, _ = code_strip(part, Strip(y, z, part.conditions(z, 3, 4), part.dead_zones), 1024)  # type: ignore[arg-type]
    assert reference.decode_cheng(data, 3, 4, 1024, as_lists(arrays)).y_hat == y_hat.tolist()
    assert read_strip(part, data, 3, 4, 1024).tolist() == y_hat.tolist()  # type: ignore[arg-type]


def test_layers_on_torchs_side(bundle: Bundle) -> None:
    torch_layers = pytest.importorskip("torch_layers", exc_type=ImportError)
    for arrays in (arrays_of(bundle), worst_arrays(bundle)):
        torch_layers.check(EntropyParameters(arrays, *bundle.manifest.sizes).layers, {CONTEXT: LARGEST_Y})


def test_scales_exactly_on_thresholds(
    bundle: Bundle, tmp_path: Path, make_sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thresholds at scales that occur, at a step that makes both sides equal: t * 1024 = T * 1024."""
    picture = Picture(pixels=make_sample(80, 64, 5))
    seen: list[NDArray[Any]] = []

    def noted(scales: NDArray[Any], limits: NDArray[Any]) -> NDArray[np.uint8]:
        seen.append(scales)
        return index_at(scales, limits)

    monkeypatch.setattr(cheng, "index_at", noted)
    Codec(bundle, threads=1).encode(picture, Quality(4))
    scales = np.unique(np.concatenate(seen), axis=0)
    arrays = arrays_of(bundle)
    count = arrays["thresholds"].shape[1]
    for channel, values in enumerate(scales.T):
        met = np.unique(values[values >= 0])[:count].astype(np.int64)
        arrays["thresholds"][channel, : met.size] = met
        arrays["thresholds"][channel, met.size :] = met[-1] + 1
    parts = {**{name: bundle._part(name) for name in bundle.manifest.parts}, ENTROPY: arrays}
    model = Codec(write_bundle(tmp_path / "on-thresholds", manifest_document(bundle.manifest), parts), threads=1)
    data = model.encode(picture, Quality(4)).data
    assert unpack(data).header.step == 1024
    (strip,) = reference.decode_latents(data, model.bundle.path)
    assert np.mean([np.isin(own, met).mean() for own, met in zip(scales.T, arrays["thresholds"], strict=True)]) > 0.9
    assert [reference.flat(strip.y)] == [each.ravel().tolist() for each in latents(model, data)[1]]


@pytest.mark.parametrize("name", ["h_s.6.weight", f"{CONTEXT}.shift", f"{SCALES}.bias", "thresholds"])
def test_arrays_of_another_shape_are_refused(bundle: Bundle, name: str) -> None:
    arrays = arrays_of(bundle)
    arrays[name] = arrays[name][1:]
    with pytest.raises(ModelDamaged):
        EntropyParameters(arrays, *bundle.manifest.sizes)


def test_sizes_must_be_equal(bundle: Bundle, tmp_path: Path) -> None:
    document = {**manifest_document(bundle.manifest), "sizes": [8, 12]}
    other = write_bundle(tmp_path / "other", document, {name: bundle._part(name) for name in bundle.manifest.parts})
    with pytest.raises(ModelDamaged, match="sizes 8 and 12"):
        cheng.Cheng(other, threads=1)


def test_windows_of_the_hyper_synthesis_leave_no_seam(
    bundle: Bundle, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = np.random.default_rng(5).integers(-9, 10, (8, 11, 13)).astype(np.int32)
    entropy = EntropyParameters(bundle.entropy, 8, 8)
    whole = entropy.conditions(z, 42, 50).side
    monkeypatch.setattr(cheng, "_WINDOW", 2)
    assert np.array_equal(entropy.conditions(z, 42, 50).side, whole)
    assert np.unique(whole).size > 100


def test_other_means_are_found_out(bundle: Bundle, codec: Codec, make_sample: Sample, tmp_path: Path) -> None:
    """Equal symbols around other means are another picture: the checksum covers y_hat."""
    data = codec.encode(Picture(pixels=make_sample(64, 80, 3)), Quality(6)).data
    header = unpack(data).header
    arrays = arrays_of(bundle)
    arrays[f"{MEANS}.bias"] += np.int64(1) << arrays[f"{MEANS}.shift"].astype(np.int64)  # one unit of 1/1024
    part = Part(EntropyParameters(arrays, 8, 8))
    same = Part(EntropyParameters(bundle.entropy, 8, 8))
    (content,) = unpack(data).payload
    read_strip(same, content, 4, 5, header.step)  # type: ignore[arg-type]
    with pytest.raises(CorruptFile):
        read_strip(part, content, 4, 5, header.step)  # type: ignore[arg-type]


def test_the_context_matters(codec: Codec, make_sample: Sample) -> None:
    """A walk that sees zeros as its context gives other groups: these tests could else pass without one."""
    strip = codec._prepare(Picture(pixels=make_sample(96, 96, 7))).strips[0]  # type: ignore[index]
    tables: list[list[int]] = []
    for scale in (1, 0):
        seen: list[int] = []

        def note(group: Any, scale: int = scale, seen: list[int] = seen) -> NDArray[np.int32]:
            seen.extend(group.mean.ravel().tolist())
            return scale * np.rint(strip.y[group.positions]).astype(np.int32)

        walk(strip.conditions.schedule(1024), note)
        tables.append(seen)
    assert tables[0][:8] == tables[1][:8]
    assert np.mean(np.array(tables[0]) != np.array(tables[1])) > 0.5


def test_damage_within_the_latents_is_refused(codec: Codec) -> None:
    """Behind checksums that fit, any other message decodes to other latents, and those have a checksum, too."""
    file = unpack((GOLDEN_CHENG / "cheng-square.rbc").read_bytes())
    (content,) = file.payload
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 16
        with pytest.raises(CorruptFile):
            codec.decode(pack(file.header, [replace(file.chunks[0], data=bytes(damaged))]))


# --- the codec and the commands -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 33), (200, 40), (40, 200)])
@pytest.mark.parametrize("quality", [1, 6])
def test_round_trips(codec: Codec, make_sample: Sample, size: tuple[int, int], quality: float) -> None:
    encoded = codec.encode(Picture(pixels=make_sample(*size, 1)), Quality(quality), measure=True)
    assert np.array_equal(codec.decode(encoded.data).pixels, encoded.reconstruction)


def test_a_target_is_met_and_refining_helps(codec: Codec, make_sample: Sample) -> None:
    picture = Picture(pixels=make_sample(128, 128, 2))
    plain = codec.encode(picture, Quality(4), measure=True)
    assert plain.reconstruction is not None
    goal = psnr(picture.pixels, plain.reconstruction) - 0.5
    met = codec.encode(picture, Psnr(goal), measure=True)
    assert met.reconstruction is not None and psnr(picture.pixels, met.reconstruction) >= goal
    refined = codec.encode(picture, Quality(4), measure=True, effort=2)
    assert refined.reconstruction is not None
    weight = codec.bundle.manifest.lagrangian(refined.step) * 255**2

    def score(data: bytes, pixels: NDArray[np.uint8]) -> float:
        return 8 * len(data) / 128**2 + weight * 10 ** (-psnr(picture.pixels, pixels) / 10)

    assert score(refined.data, refined.reconstruction) < score(plain.data, plain.reconstruction)


def test_strips_and_regions(codec: Codec, make_sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_module, "STRIP_ABOVE", 1)
    monkeypatch.setattr(codec_module, "STRIP_ROWS", 64)
    encoded = codec.encode(Picture(pixels=make_sample(300, 90, 4)), Quality(5), measure=True)
    whole = codec.decode(encoded.data).pixels
    assert len(unpack(encoded.data).payload) == 5
    assert np.array_equal(whole, encoded.reconstruction)
    region = Region(20, 70, 33, 190)
    assert np.array_equal(codec.decode(encoded.data, region=region).pixels, whole[70:260, 20:53])


def test_what_is_left_of_a_damaged_file(codec: Codec, make_sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its synthesis sees farther than that of hyper, and so do rows beside a lost strip."""
    monkeypatch.setattr(codec_module, "STRIP_ABOVE", 1)
    monkeypatch.setattr(codec_module, "STRIP_ROWS", 64)
    data = codec.encode(Picture(pixels=make_sample(450, 60, 4)), Quality(5)).data
    whole = codec.decode(data).pixels
    at = data.index(unpack(data).payload[3])
    salvaged = codec.salvage(data[: at + 9] + bytes([data[at + 9] ^ 1]) + data[at + 10 :])
    assert [(region.y, region.height) for region in salvaged.lost] == [(192, 64)]
    assert salvaged.inexact == 112
    wrong = np.flatnonzero((salvaged.picture.pixels != whole).any((1, 2)))
    assert 192 - 112 <= wrong[0] < 192 - 32 and 256 + 32 < wrong[-1] < 256 + 112
    assert (salvaged.picture.pixels[192:256] == 128).all()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_sample: Sample) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(CHENG.parent))
    Path("a.png").write_bytes(write_picture(Picture(pixels=make_sample(70, 90, 6)), "PNG"))
    yield tmp_path


def run(*arguments: str) -> Any:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done


def test_the_commands(here: Path, codec: Codec) -> None:
    row = json.loads(run("encode", "a.png", "-o", "a.rbc", "--arch", "cheng", "--json", "--psnr").stdout)
    assert row["bytes"] == Path("a.rbc").stat().st_size
    run("decode", "a.rbc", "-o", "b.png")
    decoded = read_picture(Path("b.png").read_bytes(), max_pixels=1 << 20).pixels
    assert np.array_equal(decoded, codec.decode(Path("a.rbc").read_bytes()).pixels)
    described = json.loads(run("info", "a.rbc", "--json").stdout)
    assert described["fingerprint"] == codec.bundle.fingerprint.hex()
    file = Path("a.rbc").read_bytes()
    needed = memory.to_decode(unpack(file).header, len(file), codec.demand)
    assert (described["memory"], described["multiplications"]) == (needed, memory.multiplications(90, 70, codec.demand))
    for limit, code in ((needed, 0), (needed - 1, 1)):
        done = CliRunner().invoke(app, ["decode", "a.rbc", "-o", "c.png", "--max-memory", str(limit)])
        assert done.exit_code == code
    assert f"{needed:,} bytes of memory but {needed - 1:,} are allowed" in done.output
    assert "cheng-tiny" in run("models", "list").output


def test_a_damaged_bundle_is_refused(bundle: Bundle, here: Path) -> None:
    arrays = arrays_of(bundle)
    arrays[f"{CONTEXT}.weight"][:] = 32767
    arrays[f"{CONTEXT}.bias"][:] = 1 << 53
    parts = {**{name: bundle._part(name) for name in bundle.manifest.parts}, ENTROPY: arrays}
    write_bundle(here / "spoilt", manifest_document(bundle.manifest), parts)
    done = CliRunner().invoke(app, ["encode", "a.png", "-m", "./spoilt"])
    assert done.exit_code == 1 and f"{CONTEXT} can reach" in done.output

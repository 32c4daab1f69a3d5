"""Export: what is shipped is what was trained, in integers that are proved exact and cost next to nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from regenerate import TINY, sample, train_tiny  # noqa: E402

from robustcodec.architectures.hyper import EntropyParameters  # noqa: E402
from robustcodec.bundle import ENTROPY, MANIFEST, PARTS, Bundle, open_bundle  # noqa: E402
from robustcodec.codec import Codec  # noqa: E402
from robustcodec.errors import ModelDamaged, ModelError, TrainingError  # noqa: E402
from robustcodec.exact import scale_index  # noqa: E402
from robustcodec.images import Picture  # noqa: E402
from robustcodec.lab.code_lengths import code_lengths  # noqa: E402
from robustcodec.lab.entropy_models import SCALES  # noqa: E402
from robustcodec.lab.export import Exported, export, measure_points  # noqa: E402
from robustcodec.lab.hyper import Hyper  # noqa: E402
from robustcodec.lab.hyper_start import orthonormal_start  # noqa: E402
from robustcodec.metrics import bits_per_pixel, psnr  # noqa: E402
from robustcodec.rate import Quality, score  # noqa: E402

PICTURES = [sample(128, 128, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def network() -> Hyper:
    """A network as training starts from, with random means of z."""
    torch.manual_seed(0)
    network = Hyper(8, 12)
    generator = torch.Generator().manual_seed(5)
    crops = torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture in PICTURES]).float() / 255
    orthonormal_start(network, crops, generator)
    with torch.no_grad():
        network.entropy_bottleneck.biases[0].add_(torch.randn(8, 3, 1, generator=generator))
    return network


def export_to(folder: Path, network: Hyper, **changes: Any) -> Exported:
    arguments: dict[str, Any] = {
        "id": "hyper-test",
        "variant": "base",
        "provenance": {"steps": 0},
        "calibration": PICTURES[:2],
        "validation": PICTURES[2:],
        "announce": lambda text: None,
    }
    return export(network.state_dict(), folder, **{**arguments, **changes})


@pytest.fixture(scope="module")
def exported(network: Hyper, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_to(tmp_path_factory.mktemp("models") / "hyper-test", network)


def test_exactness_costs_next_to_nothing(exported: Exported) -> None:
    lengths = exported.code_length
    assert 0 < lengths.exact < lengths.rounded_scale * 1.0005
    assert lengths.rounded_scale < lengths.real * 1.005
    assert lengths.fitted < lengths.exact
    committed = open_bundle(TINY).manifest.provenance["code_length"]
    assert committed["exact"] < committed["rounded_scale"] * 1.0005


def test_code_lengths_of_a_bundle_are_those_of_its_export(exported: Exported, network: Hyper) -> None:
    pictures = PICTURES[:2]
    lengths = list(code_lengths(network.state_dict(), exported.bundle, pictures))
    sizes = [picture.shape[0] // 64 * (picture.shape[1] // 64) for picture in pictures]
    for name in ("real", "rounded_scale", "exact", "fitted"):
        mean = np.average([getattr(length, name) for length in lengths], weights=sizes)
        assert mean == pytest.approx(getattr(exported.code_length, name), rel=1e-5)


def test_points_of_large_pictures_are_those_of_their_middles(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = sample(300, 200, 3)
    monkeypatch.setattr("robustcodec.lab.export._MEASURED_SIDE", 128)
    assert list(measure_points(exported.bundle, [large])) == list(
        measure_points(exported.bundle, [np.ascontiguousarray(large[86:214, 36:164])])
    )


def test_the_manifest_tells_what_was_measured(exported: Exported) -> None:
    manifest = exported.bundle.manifest
    assert (manifest.id, manifest.architecture, manifest.sizes) == ("hyper-test", "hyper", (8, 12))
    assert manifest.provenance["steps"] == 0
    assert manifest.provenance["code_length"]["fitted"] == exported.code_length.fitted
    assert [point["quality"] for point in manifest.points] == [1, 2, 3, 4, 5, 6]
    codec = Codec(exported.bundle, threads=1)
    for point in exported.points:
        encoded = codec.encode(Picture(pixels=PICTURES[2]), Quality(point.quality), measure=True)
        assert encoded.reconstruction is not None
        assert point.bpp == bits_per_pixel(len(encoded.data), 128, 128)
        assert point.psnr == psnr(PICTURES[2], encoded.reconstruction)
        assert point.score == score(point.bpp, point.psnr, point.quality)
    assert tuple(measure_points(exported.bundle, PICTURES[2:])) == exported.points


def test_integer_scales_choose_the_nearest_table(exported: Exported, network: Hyper) -> None:
    """Against the real hyper synthesis: another table only where a scale is almost between two."""
    entropy = EntropyParameters(exported.bundle.entropy, 8, 12)
    strip = Codec(exported.bundle, threads=1)._prepare(Picture(pixels=sample(256, 320, 9))).strips[0]
    z, scales = strip.z, strip.conditions.scales  # type: ignore[attr-defined]
    with torch.no_grad():
        z_hat = torch.from_numpy(z + entropy.medians[:, None, None] / 1024).float()
        real = network.h_s(z_hat[None])[0].double().numpy()
    for step in (300, 1024, 5000):
        index = scale_index(scales, entropy.thresholds, step)
        place = np.log(np.maximum(real * 1024 / step, 1e-9) / SCALES[0]) / np.log(SCALES[1] / SCALES[0])
        expected = np.clip(np.rint(place), 0, 63)
        differs = expected != index
        # units and weights of 16 bits move a scale by a thousandth or so of a table's width
        assert differs.mean() < 0.01
        assert np.abs(np.abs(place - np.rint(place)) - 0.5)[differs].max(initial=0) < 0.02


def test_tables_of_z_hold_the_prior(exported: Exported, network: Hyper) -> None:
    entropy = EntropyParameters(exported.bundle.entropy, 8, 12)
    prior = network.entropy_bottleneck
    for channel, table in enumerate(entropy.z_tables):
        values = np.arange(table.minimum, table.minimum + table.escape)
        z = torch.zeros(1, 8, 1, values.size)
        z[0, channel, 0] = torch.from_numpy(values + entropy.medians[channel] / 1024)
        with torch.no_grad():
            mass = 2.0 ** -prior.bits(z)[0, channel, 0].double().numpy()
        assert table.frequencies[:-1] / 2**24 == pytest.approx(mass, rel=0.02, abs=3e-6)
        assert np.abs(mass.sum() - 1) < 1e-3
        below = mass[: -table.minimum].sum()
        assert below < 0.5 < below + mass[-table.minimum]


def test_an_existing_bundle_is_replaced_and_anything_else_is_kept(network: Hyper, tmp_path: Path) -> None:
    first = export_to(tmp_path / "model", network)
    again = export_to(tmp_path / "model", network, variant="robust")
    assert again.bundle.manifest.variant == "robust"
    assert again.bundle.fingerprint == first.bundle.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_pictures_too_small_to_calibrate_on_are_refused(network: Hyper, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="at least 64 pixels"):
        export_to(tmp_path / "model", network, calibration=[sample(63, 200)])
    assert list(tmp_path.iterdir()) == []


def test_sizes_without_graphs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="hyper with channels 16,16"):
        export_to(tmp_path / "model", Hyper(16, 16))


def test_weights_that_no_proof_covers_are_refused(network: Hyper, tmp_path: Path) -> None:
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights["h_s.0.bias"] -= 1e12
    with pytest.raises(ModelDamaged, match=r"h_s\.0"):
        export(
            weights,
            tmp_path / "model",
            id="hyper-test",
            variant="base",
            provenance={},
            calibration=PICTURES[:1],
            validation=PICTURES[2:],
            announce=lambda text: None,
        )
    assert list(tmp_path.iterdir()) == []


def test_the_tiny_bundle_can_be_made_again(tiny: Bundle, tmp_path: Path) -> None:
    """In two steps instead of all: other numbers, but the same arrays and the same manifest around them."""
    train_tiny(tmp_path / "hyper-tiny", tmp_path / "scratch", steps=2)
    made = open_bundle(tmp_path / "hyper-tiny")
    for part in PARTS:
        name = part.split(".")[0]
        ours, theirs = getattr(made, name), getattr(tiny, name)
        assert {key: array.dtype for key, array in ours.items()} == {key: a.dtype for key, a in theirs.items()}
        shapes = {key: array.shape for key, array in ours.items() if not (part == ENTROPY and key.startswith("z."))}
        assert shapes == {key: theirs[key].shape for key in shapes}
    for key in ("y.lengths", "y.minimums"):
        assert np.array_equal(made.entropy[key], tiny.entropy[key])
    documents = [json.loads((model.path / MANIFEST).read_text()) for model in (made, tiny)]
    for document in documents:
        assert document["provenance"].pop("steps") in (2, 500)
        assert len(document.pop("points")) == 6 and len(document.pop("parts")) == 4
        del document["provenance"]["code_length"]
    assert documents[0] == documents[1]

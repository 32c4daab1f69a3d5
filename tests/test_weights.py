"""The models that this repository ships: whole, described, and made as their cards say."""

from pathlib import Path

import pytest

from robustcodec.bundle import open_bundle

ROOT = Path(__file__).parent.parent
MODELS = sorted(path.parent for path in (ROOT / "weights").glob("*/manifest.json"))
OF_ONE_QUALITY = ("hyper-control",)


def name(folder: Path) -> str:
    return folder.name


def test_all_are_there() -> None:
    hyper = ("base", "control", "ma2023", "robust", "teacher")
    assert [*map(name, MODELS)] == ["cheng-base", "cheng-robust", *(f"hyper-{variant}" for variant in hyper)]


@pytest.mark.parametrize("folder", MODELS, ids=name)
def test_every_file_is_that_of_the_manifest(folder: Path) -> None:
    bundle = open_bundle(folder)
    bundle.verify()
    assert bundle.id == folder.name


@pytest.mark.parametrize("folder", MODELS, ids=name)
def test_it_was_trained_for_the_qualities_that_it_serves(folder: Path) -> None:
    manifest = open_bundle(folder).manifest
    recipe = manifest.provenance["recipe"]
    qualities = [4.0, 4.0] if folder.name in OF_ONE_QUALITY else [1.0, 6.0]
    assert [recipe["quality_low"], recipe["quality_high"]] == qualities
    assert {1.0, 6.0} <= {point.quality for point in manifest.rates}


@pytest.mark.parametrize("folder", MODELS, ids=name)
def test_card_and_training_tell_of_these_weights(folder: Path) -> None:
    fingerprint = open_bundle(folder).fingerprint.hex()
    for page in ("weights/README.md", "docs/training.md"):
        assert fingerprint in (ROOT / page).read_text(encoding="utf-8"), page

"""The mean of what is decoded: a constant error of a trained network does not reach its bundle."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from regenerate import CHENG, TINY, sample
from test_choice import write

from robustcodec.codec import Codec
from robustcodec.images import Picture
from robustcodec.lab.brightness import levelled
from robustcodec.lab.checkpoints import load_weights
from robustcodec.lab.export import export_run
from robustcodec.lab.recipe import Phase, Recipe
from robustcodec.lab.runs import Run, Settings, State, cpu_copy
from robustcodec.pixels import Pixels
from robustcodec.rate import Quality

LEVELS = torch.tensor([3.0, -2.0, 5.0])
"""What is added to red, green and blue."""


def shifted(weights: dict[str, torch.Tensor], name: str, per_colour: int) -> dict[str, torch.Tensor]:
    return {**weights, name: weights[name] + LEVELS.repeat_interleave(per_colour) / 255}


@pytest.mark.parametrize(("bundle", "name", "per_colour"), [(TINY, "g_s.6.bias", 1), (CHENG, "g_s.7.0.bias", 4)])
def test_a_constant_error_is_taken_out_of_the_last_bias(bundle: Path, name: str, per_colour: int) -> None:
    pictures = [sample(96, 80, seed) for seed in range(4)]
    weights = load_weights(bundle)
    plain, found = levelled(weights, pictures), levelled(shifted(weights, name, per_colour), pictures)
    assert all(torch.equal(found[key], weights[key]) for key in weights if key != name)
    # to what the unshifted weights are corrected, but for samples that are clipped
    assert (found[name] - plain[name]).abs().max() < 0.4 / 255
    assert torch.allclose(levelled(plain, pictures)[name], plain[name], atol=0.1 / 255)


def test_runs_are_exported_without_it_and_others_as_they_are(tmp_path: Path) -> None:
    for seed in range(4):
        write(tmp_path / "pictures", f"{seed}.png", 96, 80, seed)
    weights = shifted(load_weights(TINY), "g_s.6.bias", 1)
    run = Run(tmp_path / "run")
    phase = Phase(share=1.0, rate_from=1e-4, rate_to=0.0)
    recipe = Recipe(steps=1, channels=(8, 12), phases=(phase,))
    settings = Settings(recipe=recipe, data=str(tmp_path / "pictures"), validation=None, parent="start", threads=1)
    run.create(settings, State(1, 1.0, weights, cpu_copy(weights), {}))
    torch.save(weights, tmp_path / "checkpoint.pth")

    def mean_error(source: Path, data: Path | None) -> np.ndarray[Any, Any]:
        model = export_run(source, tmp_path / "model", "model", "base", data, lambda _: None).bundle
        codec = Codec(model, threads=1)

        def decoded(pixels: Pixels) -> np.ndarray[Any, Any]:
            return codec.decode(codec.encode(Picture(pixels=pixels), Quality(4)).data).pixels.astype(float)

        pictures = [sample(96, 80, seed) for seed in range(4)]
        return np.mean([decoded(pixels) - pixels for pixels in pictures], axis=(0, 1, 2))

    assert np.abs(mean_error(run.folder, None)).max() < 1
    assert mean_error(tmp_path / "checkpoint.pth", tmp_path / "pictures") == pytest.approx(LEVELS.numpy(), abs=1)

"""The protocol, for every method in every threat model: what may leave the referee, whatever a search does."""

import io
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from robustcodec.bundle import Bundle
from robustcodec.codec import Codec
from robustcodec.errors import LimitExceeded, UsageError
from robustcodec.images import Picture, write_picture
from robustcodec.lab.attacks import METHODS, Attack, Precision, Target, Threat, craft
from robustcodec.lab.attacks.budget import energy, fill_l2, fit_l2, fit_linf, to_levels
from robustcodec.lab.attacks.controls import channel_offsets
from robustcodec.lab.attacks.craft import _held
from robustcodec.lab.attacks.switching import Paper
from robustcodec.lab.attacks.victim import unrounded
from robustcodec.lab.checkpoints import weights_of_bundle
from robustcodec.lab.networks import softly_rounded

Pixels = NDArray[np.uint8]
Sample = Callable[..., Pixels]

EPSILON = 5e-4
SEARCHES = [name for name in METHODS if name not in ("noise", "noise-uniform", "offset")]
THREATS = [Threat(target, bounded) for target in Target for bounded in (True, False)]
PSNR_FREE = Threat(Target.PSNR, bounded=False)
BPP_FREE = Threat(Target.BPP, bounded=False)
CPU = torch.device("cpu")  # where the same seed gives the same bytes


def read_back(pixels: Pixels) -> Pixels:
    """Through a PNG file, read with Pillow alone."""
    return np.asarray(Image.open(io.BytesIO(write_picture(Picture(pixels=pixels), "PNG"))).convert("RGB"))


def noise_energy(attacked: Pixels, clean: Pixels) -> float:
    return float(np.mean((attacked / 255 - clean / 255) ** 2))


def coded(codec: Codec, clean: Pixels, pixels: Pixels) -> tuple[int, float]:
    """Bytes of a picture's real file, and MSE(x, x_hat*) on [0, 1] of what decoding it gives."""
    data = codec.encode(Picture(pixels=pixels)).data
    shown = codec.decode(data).pixels
    return len(data), float(np.mean((shown / 255 - clean / 255) ** 2))


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_budget_and_bound_hold_for_the_file(
    method: str, threat: Threat, tiny: Bundle, codec: Codec, make_sample: Sample
) -> None:
    clean = [make_sample(40, 72, 1), make_sample(40, 72, 2)]  # sides are no multiples of 64, one is none of 16
    for epsilon in (EPSILON, 1e-3):
        attack = Attack(threat=threat, method=method, steps=6, epsilon=epsilon)
        for crafted, x in zip(craft(tiny, clean, attack, device=CPU), clean, strict=True):
            assert crafted.pixels.dtype == np.uint8
            attacked = read_back(crafted.pixels)
            assert np.array_equal(attacked, crafted.pixels)
            assert noise_energy(attacked, x) <= epsilon
            assert 0 <= crafted.shrunk <= 1
            assert np.isfinite([score for _, score in crafted.trace]).all()
            (size, error), (size_clean, error_clean) = coded(codec, x, attacked), coded(codec, x, x)
            if threat.bounded and threat.target is Target.PSNR:
                assert abs(size - size_clean) <= 0.05 * size_clean
            if threat.bounded and threat.target is Target.BPP:
                assert abs(10 * np.log10(error / error_clean)) <= 1


@pytest.mark.parametrize("threat", [PSNR_FREE, BPP_FREE], ids=str)
@pytest.mark.parametrize("method", ["paper", "pgd", "strong"])
def test_gradients_in_bfloat16_are_about_as_strong(
    method: str, threat: Threat, tiny: Bundle, codec: Codec, make_sample: Sample
) -> None:
    clean = [make_sample(64, 64, offset) for offset in range(4)]
    distorts = threat.target is Target.PSNR

    def crafted(precision: Precision) -> list[Pixels]:
        attack = Attack(threat=threat, method=method, steps=20, precision=precision)
        return [each.pixels for each in craft(tiny, clean, attack, device=CPU)]

    def figure(pictures: list[Pixels]) -> float:
        assert all(noise_energy(pixels, x) <= EPSILON for pixels, x in zip(pictures, clean, strict=True))
        return sum(coded(codec, x, pixels)[distorts] for pixels, x in zip(pictures, clean, strict=True))

    exact, rough = crafted(Precision.FLOAT32), crafted(Precision.BFLOAT16)
    # else bfloat16 is not used
    assert all(not np.array_equal(one, other) for one, other in zip(exact, rough, strict=True))
    before = figure(clean)
    assert figure(rough) - before == pytest.approx(figure(exact) - before, rel=0.2)


@pytest.mark.parametrize("method", METHODS)
def test_the_budget_is_used(method: str, tiny: Bundle, make_sample: Sample) -> None:
    """With nothing to hold, a search that ends far inside its budget gives strength away."""
    clean = make_sample(48, 48, 3)
    (crafted,) = craft(tiny, [clean], Attack(threat=PSNR_FREE, method=method, steps=40), device=CPU)
    assert 0.75 * EPSILON < noise_energy(crafted.pixels, clean) <= EPSILON


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_bytes_whatever_lies_beside(method: str, tiny: Bundle, make_sample: Sample) -> None:
    a, b, c = (make_sample(32, 48, seed) for seed in (4, 5, 6))

    def attacked(*pictures: Pixels, seed: int = 3) -> list[bytes]:
        attack = Attack(threat=Threat(Target.PSNR), method=method, steps=8, restarts=2, seed=seed)
        return [crafted.pixels.tobytes() for crafted in craft(tiny, pictures, attack, device=CPU)]

    assert attacked(a) == attacked(a)
    assert attacked(a, b)[0] == attacked(a, c)[0]
    # of strong, a start without randomness may win
    if method in ("noise", "noise-uniform", "pgd", "pgd-linf", "simba"):
        assert attacked(a) != attacked(a, seed=7)


def effect(method: str, threat: Threat, clean: Pixels, bundle: Bundle, codec: Codec) -> float:
    """How much an attack adds to the figure it is aimed at, as the shipped codec has it."""
    (crafted,) = craft(bundle, [clean], Attack(threat=threat, method=method, steps=30), device=CPU)
    which = int(threat.target is Target.PSNR)
    return coded(codec, clean, crafted.pixels)[which] - coded(codec, clean, clean)[which]


@pytest.mark.parametrize("threat", [PSNR_FREE, BPP_FREE], ids=str)
def test_searches_do_more_than_noise(threat: Threat, tiny: Bundle, codec: Codec, make_sample: Sample) -> None:
    clean = make_sample(64, 64, 8)
    noise = effect("noise", threat, clean, tiny, codec)
    effects = {method: effect(method, threat, clean, tiny, codec) for method in SEARCHES}
    assert min(effects.values()) > max(0, noise), (noise, effects)
    assert max(effects, key=lambda method: effects[method]) != "fgsm"  # one step, against many


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 70), (17, 65)])
def test_sizes(method: str, height: int, width: int, tiny: Bundle, make_sample: Sample) -> None:
    clean = make_sample(height, width, 9)
    (crafted,) = craft(tiny, [clean], Attack(threat=Threat(Target.PSNR), method=method, steps=6), device=CPU)
    assert crafted.pixels.shape == clean.shape
    assert noise_energy(crafted.pixels, clean) <= EPSILON


@pytest.mark.parametrize("level", [128, 255])
@pytest.mark.parametrize("method", METHODS)
def test_flat_pictures(method: str, level: int, tiny: Bundle) -> None:
    clean = np.full((32, 32, 3), level, np.uint8)
    for threat in (Threat(Target.PSNR), Threat(Target.BPP)):
        (crafted,) = craft(tiny, [clean], Attack(threat=threat, method=method, steps=4), device=CPU)
        assert noise_energy(crafted.pixels, clean) <= EPSILON
        assert np.isfinite([score for _, score in crafted.trace]).all()


@pytest.mark.parametrize("level", [0, 5, 128, 250, 255])
@pytest.mark.parametrize("method", ["noise", "noise-uniform"])
def test_noise_fills_its_budget_where_it_clips(method: str, level: int, tiny: Bundle) -> None:
    clean = np.full((32, 32, 3), level, np.uint8)
    (crafted,) = craft(tiny, [clean], Attack(threat=PSNR_FREE, method=method), device=CPU)
    assert 0.99 * EPSILON < noise_energy(crafted.pixels, clean) <= EPSILON


def test_an_offset_passes_through(tiny: Bundle, codec: Codec, make_sample: Sample) -> None:
    clean = make_sample(64, 64, 10) // 2 + 64  # nothing clips
    (crafted,) = craft(tiny, [clean], Attack(threat=PSNR_FREE, method="offset"), device=CPU)
    moved = crafted.pixels.astype(int) - clean
    assert sorted(np.abs(moved).max((0, 1))) == [5, 6, 6]
    assert (moved == moved[0, 0]).all()
    gain = (coded(codec, clean, crafted.pixels)[1] - coded(codec, clean, clean)[1]) / EPSILON
    assert 0.5 < gain < 1.5  # a network of 8 channels keeps brightness roughly


def test_a_checkpoint_is_attacked_like_the_bundle_it_came_from(
    tiny: Bundle, make_sample: Sample, tmp_path: Path
) -> None:
    """Its step is that of a network trained at quality 4, which the bundle has there, too."""
    path = tmp_path / "network.safetensors"
    save_file(dict(weights_of_bundle(tiny)), path)
    clean = make_sample(32, 48, 11)
    attack = Attack(threat=PSNR_FREE, method="pgd", steps=6)
    assert tiny.manifest.step(4.0) == 1024
    assert np.array_equal(
        craft(path, [clean], attack, device=CPU)[0].pixels, craft(tiny, [clean], attack, device=CPU)[0].pixels
    )


def test_the_report_follows_the_search(tiny: Bundle, make_sample: Sample) -> None:
    seen: list[tuple[int, int, list[float]]] = []
    clean = [make_sample(32, 32, seed) for seed in (12, 13)]
    attack = Attack(threat=PSNR_FREE, method="pgd", steps=5)
    crafted = craft(tiny, clean, attack, report=lambda *event: seen.append(event), device=CPU)
    assert [event[:2] for event in seen] == [(step, 5) for step in range(1, 6)]
    for index, each in enumerate(crafted):
        assert each.trace == tuple((step, scores[index]) for step, _, scores in seen)
        assert each.gradient.not_finite == 0
        assert each.gradient.zero < 0.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "magic"}, "no attack 'magic'; there are paper, ma2023, fgsm"),
        ({"epsilon": 0.0}, "above 0 and at most 1"),
        ({"epsilon": float("nan")}, "above 0 and at most 1"),
        ({"epsilon": 1.5}, "above 0 and at most 1"),
        ({"steps": 0}, "at least one step"),
        ({"restarts": 0}, "at least one step and one start"),
    ],
)
def test_attacks_that_cannot_be_run(wrong: Mapping[str, object], message: str, tiny: Bundle) -> None:
    with pytest.raises(UsageError, match=message):
        craft(tiny, [np.zeros((16, 16, 3), np.uint8)], Attack(threat=PSNR_FREE, **wrong))  # type: ignore[arg-type]


def test_pictures_of_two_sizes(tiny: Bundle) -> None:
    pictures = [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 32, 3), np.uint8)]
    with pytest.raises(UsageError, match="of one size"):
        craft(tiny, pictures, Attack(threat=PSNR_FREE))


def test_bounds_of_the_threats() -> None:
    psnr, bpp = Threat(Target.PSNR), Threat(Target.BPP)
    assert psnr.holds(1.0, 33, 1.0499, 10)
    assert not psnr.holds(1.0, 33, 1.051, 33)
    assert not psnr.holds(1.0, 33, 0.949, 33)
    assert bpp.holds(1.0, 33, 9.0, 32)
    assert not bpp.holds(1.0, 33, 1.0, 31.99)
    assert bpp.holds(1.0, float("inf"), 2.0, float("inf"))
    assert not bpp.holds(1.0, float("inf"), 2.0, 60)
    assert PSNR_FREE.holds(1.0, 33, 9.0, 0)
    assert [str(threat) for threat in (psnr, PSNR_FREE, bpp, BPP_FREE)] == ["psnr", "psnr-free", "bpp", "bpp-free"]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 0.5), st.floats(0.01, 30))
def test_projections_keep_budget_and_range(seed: int, epsilon: float, length: float) -> None:
    random = np.random.default_rng(seed)
    levels = random.integers(0, 256, (2, 3, 5, 7))
    x = torch.from_numpy(levels / 255).float()
    noise = torch.from_numpy(random.normal(0, length * epsilon**0.5, levels.shape)).float()
    for fit in (fit_l2, fit_linf):
        fitted = fit(noise, x, epsilon)
        assert (energy(fitted) <= epsilon * (1 + 1e-5)).all()
        assert ((x + fitted >= -1e-6) & (x + fitted <= 1 + 1e-6)).all()
    written = to_levels(noise, x, epsilon).numpy().astype(int)
    for x_star, clean in zip(written, levels, strict=True):
        assert ((x_star - clean) ** 2).sum() <= epsilon * 255**2 * clean.size


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1.0))
def test_noise_is_as_long_as_budget_and_picture_allow(seed: int, epsilon: float) -> None:
    random = np.random.default_rng(seed)
    x = torch.from_numpy(random.integers(0, 256, (2, 3, 5, 7)) / 255).float()
    noise = torch.from_numpy(random.normal(0, 1, x.shape)).float()
    filled = fill_l2(noise, x, epsilon)
    assert ((x + filled >= -1e-6) & (x + filled <= 1 + 1e-6)).all()
    most = energy(torch.where(noise > 0, 1 - x, x)).clamp(max=epsilon)
    assert energy(filled).numpy() == pytest.approx(most.numpy(), rel=1e-4)


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-7, 1.0))
@example(EPSILON)
def test_offsets_are_the_largest(epsilon: float) -> None:
    offsets = channel_offsets(epsilon)
    allowed = 3 * epsilon * 255**2
    assert sum(value**2 for value in offsets) <= allowed
    smallest = min(offsets)
    assert sum(value**2 for value in offsets) - smallest**2 + (smallest + 1) ** 2 > allowed
    assert max(offsets) - smallest <= 1
    if epsilon == EPSILON:
        assert offsets == (6, 6, 5)


def test_the_documentation_names_every_method_and_its_defaults() -> None:
    text = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^### ([\w-]+)$", text, re.MULTILINE))
    assert set(METHODS) <= headings
    paper = Paper(steps=1)
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+ \| [^|]+) \|$", text, re.MULTILINE))
    for row, name in (("step, in radii √ε", "rate"), ("weight w", "weight")):
        values = [getattr(choices, name) for choices in (paper.psnr, paper.bpp)]
        assert rows[row] == " | ".join(f"{value:g}" for value in values)
    names = {unrounded: "unrounded", softly_rounded: "softly rounded"}
    assert rows["latents in the search"] == f"{names[paper.psnr.quantise]} | {names[paper.bpp.quantise]}"


@pytest.mark.parametrize("size", [1 << 50, -1])
def test_too_little_memory_is_an_error_of_ours(
    size: int, monkeypatch: pytest.MonkeyPatch, tiny: Bundle, make_sample: Sample
) -> None:
    class Greedy:
        def search(self, problem: object, report: object) -> torch.Tensor:
            return torch.empty(size)

    monkeypatch.setattr(sys.modules[craft.__module__], "METHODS", {"pgd": lambda attack: Greedy()})
    with pytest.raises(LimitExceeded if size > 0 else RuntimeError, match="memory" if size > 0 else "negative"):
        craft(tiny, [make_sample(32, 32, 0)], Attack(threat=PSNR_FREE, method="pgd", steps=1), device=CPU)


@pytest.mark.parametrize("helps", [True, False])
def test_shortened_noise_that_does_no_harm_is_none(helps: bool) -> None:
    clean = np.full((8, 8, 3), 100, np.uint8)
    x = torch.full((1, 3, 8, 8), 100 / 255)

    def judge(pixels: Pixels) -> tuple[float, float]:
        levels = float(np.abs(pixels.astype(float) - clean).mean())
        # all but short noise makes the file too large; that makes the picture better, or worse
        return 1 + 0.04 * levels, 30 + (0.1 if helps else -0.1) * levels

    problem: Any = SimpleNamespace(x=x, threat=Threat(Target.PSNR), epsilon=EPSILON)
    pixels, share = _held(problem, torch.full_like(x, 5 / 255), 0, judge, clean)
    if helps:
        assert share == 0
        assert np.array_equal(pixels, clean)
    else:
        assert share == 0.2
        assert np.array_equal(pixels, clean + 1)

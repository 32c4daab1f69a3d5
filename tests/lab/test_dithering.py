"""Dither in the lab: what victims make of latents, what tables are fitted to, and what an attack is left with."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from regenerate import TINY, sample
from test_strong import EPSILON, STEP, BlockDct, problem_of, silent
from torch import Tensor

from robustcodec.architectures import open_architecture
from robustcodec.bundle import Bundle, open_bundle
from robustcodec.codec import Codec
from robustcodec.dither import OFFSETS
from robustcodec.entropy import gaussian_tables, ideal_bits
from robustcodec.images import Picture, read_picture, write_picture
from robustcodec.lab.attacks.crossing import _choose, _Prices, _Start
from robustcodec.lab.attacks.shipped import TablePrice, victim_of
from robustcodec.lab.attacks.strong import Strong
from robustcodec.lab.attacks.threat import Target, Threat
from robustcodec.lab.attacks.victim import code, unrounded
from robustcodec.lab.dead_zones import DITHERED, by_scale, dead_zones, exported_zones_of, zones_of
from robustcodec.lab.entropy_models import SCALES
from robustcodec.lab.export import export_run
from robustcodec.lab.fitted_tables import Counts, fitted_tables
from robustcodec.lab.networks import dither_offsets, outside, round_straight_through, softly_rounded
from robustcodec.lab.recipe import Hardening, Method
from robustcodec.lab.restraint import Restraint

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dithered(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model, exported again with dither alone."""
    folder = tmp_path_factory.mktemp("dithered")
    for seed in range(4):
        (folder / f"{seed}.png").write_bytes(write_picture(Picture(pixels=sample(128, 128, seed)), "PNG"))
    exported = export_run(
        TINY, folder / "model", "dithered", "base", folder, lambda _: None, restraint=Restraint(dither=True)
    )
    return exported.bundle


# --- offsets and rounding -----------------------------------------------------------------------------------


def test_offsets_belong_to_the_picture_and_to_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = 3 * torch.randn(3, 20, 16, 16, generator=generator)
    drawn = dither_offsets(latents)
    assert torch.equal(drawn[1:2], dither_offsets(latents[1:2]))
    levels = (drawn * 2 * OFFSETS + OFFSETS - 1) / 2
    assert torch.equal(levels, levels.round()) and levels.min() == 0 and levels.max() == OFFSETS - 1
    counts = torch.bincount(levels.long().flatten(), minlength=OFFSETS)
    expected = latents.numel() / OFFSETS
    assert (counts - expected).abs().max() < 5 * math.sqrt(expected)
    changed = latents.clone()
    changed[1, 3, 4, 5] += 1e-6
    again = dither_offsets(changed)
    assert torch.equal(again[0], drawn[0]) and (again[1] != drawn[1]).float().mean() > 0.8
    # neighbours of one picture, and one place in two pictures, have nothing to do with each other
    flat = drawn.flatten(1)
    for one, other in ((flat[:, 1:], flat[:, :-1]), (flat[:1], flat[1:2])):
        assert abs(float((one * other).mean())) < 5 * (1 / 12) / math.sqrt(one.numel())


def test_only_what_is_dithered_lands_between_whole_numbers() -> None:
    values = 4 * torch.randn(2, 3000, generator=torch.Generator().manual_seed(1))
    reach = torch.tensor([0.0, 0.5, 1.5]).repeat(1000).expand(2, 3000)
    found = outside(values, reach, round_straight_through)
    mine, grid = reach == 0, dither_offsets(values)
    assert torch.equal(found[~mine], torch.where(values.abs() < reach, 0.0, values.round())[~mine])
    assert (found - values)[mine].abs().max() <= 0.5 + 1e-6
    assert torch.allclose((found - grid)[mine], (found - grid)[mine].round(), atol=1e-5)
    soft = outside(values, reach, softly_rounded)
    assert torch.equal(soft[mine], values[mine]) and (soft[~mine] != values[~mine]).any()
    noisy = outside(values, reach, lambda latents: latents + 0.25)
    assert torch.equal(noisy[mine], values[mine] + 0.25)
    assert torch.equal(outside(values, reach, unrounded)[mine], values[mine])


def test_a_recipe_says_which_models_dither() -> None:
    at = torch.tensor(SCALES, dtype=torch.float32)
    inside = (torch.arange(64) >= DITHERED.first) & (torch.arange(64) < DITHERED.end)
    for zones in (False, True):
        hardening = Hardening(method=Method.FAST, bpp_share=0.5, dead_zones=zones, dither=True)
        reach = exported_zones_of(hardening)
        assert reach is not None
        trained = zones_of(hardening)
        assert (trained is not None) == zones and (trained is None or (trained(at) > 0).all())
        assert torch.equal(reach(at) == 0, inside)
        plain = torch.from_numpy(dead_zones()) if zones else torch.full((64,), 0.5)
        assert torch.equal(reach(at)[~inside], plain[~inside])
    assert exported_zones_of(Hardening(method=Method.FAST, bpp_share=0.5)) is None
    assert exported_zones_of(None) is None


# --- tables -------------------------------------------------------------------------------------------------


def test_tables_of_offsets_are_the_masses_around_them() -> None:
    """Counts of a Laplacian, against its integral from one edge to the other."""
    spread = 0.8
    reach = int(gaussian_tables(SCALES).escapes.max())

    def below(at: float) -> float:
        return 0.5 * math.exp(at / spread) if at < 0 else 1 - 0.5 * math.exp(-at / spread)

    def magnitudes(fineness: int) -> Any:
        edges = [(n + 0.5) / fineness for n in range(fineness * reach + 1)]
        mass = np.diff([0.0, *(2 * below(edge) - 1 for edge in edges)])
        return np.tile(np.append(mass, 1 - mass.sum()), (64, 1)) * 1e9

    tables = fitted_tables(gaussian_tables(SCALES), Counts(magnitudes(1), magnitudes(OFFSETS)), DITHERED)
    assert len(tables) == 64 + DITHERED.tables
    level = 14
    scale = SCALES[level]
    for offset in range(OFFSETS):
        table = tables[64 + OFFSETS * (level - DITHERED.first) + offset]
        assert table.minimum == gaussian_tables(SCALES)[level].minimum
        shift = (2 * offset - 7) / 16
        for symbol in range(-3, 4):
            low, high = symbol + shift - 0.5, symbol + shift + 0.5
            gaussian = 0.5 * (math.erf(high / scale / 2**0.5) - math.erf(low / scale / 2**0.5))
            expected = (below(high) - below(low) + 0.05 * gaussian) / 1.05
            assert table.frequencies[symbol - table.minimum] / 2**24 == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_symbols_on_their_grids_cost_what_the_tables_say(dithered: Bundle) -> None:
    architecture = open_architecture(dithered, threads=1)
    price = TablePrice(architecture.y_tables, CPU, architecture.dithered)
    rng = np.random.default_rng(0)
    level, offset = rng.integers(0, 64, 2000), rng.integers(0, OFFSETS, 2000)
    symbols = np.rint(rng.standard_t(1, 2000) * 3).clip(-1000, 1000).astype(np.int32)
    mine = (level >= DITHERED.first) & (level < DITHERED.end)
    index = np.where(mine, 64 + OFFSETS * (level - DITHERED.first) + offset, level)
    values = symbols + mine * (2 * offset - 7) / 16
    bits = price(torch.tensor(values).float(), torch.tensor(np.array(SCALES)[level]).float())
    assert bits.numpy() == pytest.approx(ideal_bits(symbols, index, architecture.y_tables), rel=2e-3, abs=5e-3)


def test_the_victim_expects_the_real_file_of_a_model_that_dithers(dithered: Bundle) -> None:
    """By other offsets than the codec's: on average."""
    codec, victim = Codec(dithered), victim_of(dithered, 4.0, CPU)
    pictures = [sample(128, 128, seed) for seed in range(6)]
    x = torch.stack([torch.from_numpy(each).permute(2, 0, 1) for each in pictures]).float() / 255
    with torch.no_grad():
        figures = code(victim, x, x)
        assert torch.equal(code(victim_of(dithered.path, 4.0, CPU), x, x).bpp, figures.bpp)
    encoded = [codec.encode(Picture(pixels=each), measure=True) for each in pictures]
    sizes = [len(each.data) - 46 for each in encoded]  # the container, with a seed
    assert float(figures.bpp.sum()) * 128 * 128 / 8 == pytest.approx(sum(sizes), rel=0.01)
    errors = [
        np.square(each.reconstruction.astype(float) - picture).mean() / 255**2
        for each, picture in zip(encoded, pictures, strict=True)
        if each.reconstruction is not None
    ]
    assert float(figures.mse.mean()) == pytest.approx(float(np.mean(errors)), rel=0.03)
    plain = victim_of(open_bundle(TINY), 4.0, CPU)
    with torch.no_grad():
        assert (code(plain, x, x).symbols == code(plain, x, x).symbols.round()).all()
        assert (figures.symbols != figures.symbols.round()).float().mean() > 0.1


def test_an_exported_bundle_keeps_where_it_comes_from(dithered: Bundle) -> None:
    source = open_bundle(TINY)
    provenance = dithered.manifest.provenance
    assert provenance["data"] == source.manifest.provenance["data"]
    assert provenance["exported_from"] == source.fingerprint.hex()
    assert provenance["restraint"] == {"dead_zones": False, "dither": True, "attacked_share": 0.0}


# --- attacks ------------------------------------------------------------------------------------------------


class DitheredDct(BlockDct):
    """The block DCT whose coefficients are all dithered."""

    def quantise(self, latents: Tensor, quantise: Any) -> Tensor:
        return latents if quantise is unrounded else outside(latents, torch.zeros_like(latents), quantise)

    def zero_bins(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(()), torch.zeros(())


def test_crossings_leave_what_is_dithered_alone() -> None:
    """However much of the budget is left."""
    latents = torch.tensor([[0.45, 0.45, -1.6, 0.2]])
    reach = by_scale(np.where(np.arange(64) < 10, 0.5, 0.0).astype(np.float32))
    assert reach is not None
    at = reach(torch.tensor([[0.2, 1.0, 1.0, 0.2]]))
    one = torch.ones_like(latents)
    start = _Start(latents, latents.round(), torch.zeros(()), at, one, one)
    prices = _Prices(one, 0 * one)
    free = torch.full((1,), torch.inf)
    chosen, _, _ = _choose(prices, prices, start, torch.full((1,), 1e9), (free, free), torch.zeros(1))
    assert chosen.tolist() == [[True, False, False, True]]


def test_dither_takes_away_what_rounding_gives_to_an_attack() -> None:
    """No codec that rounds keeps A below 3 under crossings; with dither an orthonormal one has hardly more than 1."""
    picture = read_picture((ROOT / "robustcodec/data/sample.png").read_bytes(), max_pixels=1 << 20)
    x = torch.from_numpy(picture.pixels[128:192, 256:320].copy()).permute(2, 0, 1)[None].float() / 255
    threat = Threat(Target.PSNR, bounded=False)
    gains = []
    for victim in (BlockDct(STEP), DitheredDct(STEP)):
        problem = problem_of(victim, x, threat)
        noise = Strong(steps=140).search(problem, silent)
        with torch.no_grad():
            attacked = float(code(victim, x + noise, x).mse)
            gains.append((attacked - float(problem.clean.mse)) / EPSILON)
    assert gains[0] > 2.5 and 0.8 < gains[1] < 1.4

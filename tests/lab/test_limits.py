"""Limits of what inverse normalisations multiply by: what is natural stays, what is not grows no faster than it."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from regenerate import sample
from torch import Tensor

from robustcodec.graphs import UNLIMITED
from robustcodec.images import Picture, write_picture
from robustcodec.lab.checkpoints import load_weights, network_of
from robustcodec.lab.limits import limit_gains
from robustcodec.lab.networks import Gdn, Network
from robustcodec.lab.recipe import Hardening, Method, Phase, Recipe
from robustcodec.lab.runs import Run
from robustcodec.lab.train import Order, train


@pytest.fixture
def network(tiny_path: Path) -> Network:
    return network_of(load_weights(tiny_path), "the tiny model").requires_grad_(False)


def crops() -> Tensor:
    pictures = torch.stack([torch.from_numpy(sample(64, 64, seed)) for seed in range(9)])
    return pictures.permute(0, 3, 1, 2).float() / 255


def inverse(network: Network) -> list[Gdn]:
    return [layer for layer in network.g_s if isinstance(layer, Gdn)]


def gains(network: Network, x: Tensor) -> list[Tensor]:
    """What each inverse normalisation would multiply by at most in each crop, (K, C), layer by layer."""
    plane, found = network.analyse(x).round(), []
    for layer in network.g_s:
        if isinstance(layer, Gdn):
            beta, gamma = layer.parameters_in_use()
            found.append(F.conv2d(plane**2, gamma[:, :, None, None], beta).sqrt().amax((2, 3)))
        plane = layer(plane)
    return found


def test_limits_are_quantiles_over_crops(network: Network) -> None:
    assert all((layer.limit == UNLIMITED).all() for layer in inverse(network))
    first = gains(network, crops())
    limit_gains(network, crops(), 0.5)
    for layer, gain in zip(inverse(network), first, strict=True):
        assert torch.allclose(layer.limit, gain.median(0).values, rtol=1e-5)
    kept = [layer.limit.clone() for layer in inverse(network)]
    limit_gains(network, crops(), 1.0)
    assert all((layer.limit <= limit).all() for layer, limit in zip(inverse(network), kept, strict=True))


def test_the_largest_gain_changes_nothing_natural_and_bounds_the_rest(network: Network) -> None:
    y = network.analyse(crops()).round()
    natural, wild = network.synthesise(y), network.synthesise(100 * y)
    limit_gains(network, crops(), 1.0)
    assert torch.allclose(network.synthesise(y), natural, atol=1e-5)
    held = network.synthesise(100 * y)
    assert held.square().mean() < 0.2 * wild.square().mean()
    # beyond its limits synthesis is all but linear
    far = network.synthesise(10_000 * y)
    assert (far - 100 * held).norm() < 0.1 * far.norm()


def test_a_run_sets_limits_once_and_keeps_them(tiny_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(4):
        (folder / f"{seed}.png").write_bytes(write_picture(Picture(pixels=sample(96, 80, seed)), "PNG"))
    recipe = Recipe(
        steps=2,
        channels=(8, 12),
        phases=(Phase(share=1.0, rate_from=1e-4, rate_to=1e-4, batch=2, crop=64),),
        hardening=Hardening(method=Method.FAST, bpp_share=0.5, bpp_steps=1, gain_quantile=0.5),
    )
    limits: list[list[Tensor]] = []
    for steps in (1, 2):
        run = Run(tmp_path / str(steps))
        order = Order(recipe=dataclasses.replace(recipe, steps=steps), data=folder, init=tiny_path)
        train(run, order, lambda _: None, lambda _: None)
        state = run.load()
        assert state is not None
        limits.append([tensor for name, tensor in state.weights.items() if name.endswith(".limit")])
        assert all(torch.equal(state.average[name], state.weights[name]) for name in state.weights if "limit" in name)
    assert len(limits[0]) == 3 and all((limit < UNLIMITED).all() for limit in limits[0])
    assert all(torch.equal(one, two) for one, two in zip(*limits, strict=True))

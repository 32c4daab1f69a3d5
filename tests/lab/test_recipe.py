"""Recipes: round trip through JSON, strict reading, and the schedule they describe."""

import json

import pytest

from robustcodec.errors import TrainingError
from robustcodec.lab.architectures import adapted
from robustcodec.lab.hardening_recipes import fast, fitted
from robustcodec.lab.recipe import (
    Hardening,
    Method,
    Phase,
    Precision,
    Recipe,
    Rounding,
    Start,
    Trained,
    continued,
    from_start,
)


@pytest.mark.parametrize("recipe", [from_start(1000), continued(17)])
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_types_come_back_as_they_were() -> None:
    recipe = Recipe.from_json(from_start(10).to_json())
    assert isinstance(recipe.start, Start)
    assert isinstance(recipe.phases[0], Phase)
    assert isinstance(recipe.precision, Precision)
    assert isinstance(recipe.phases[0].trained, Trained)
    assert isinstance(recipe.phases[0].rounding, Rounding)
    assert recipe.channels == (128, 192)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, "unknown field 'stepz'"),
        ({"steps": "3"}, "recipe.steps must be of type int"),
        ({"steps": True}, "recipe.steps must be of type int"),
        ({"steps": 0}, "at least one step"),
        ({"channels": [1, 2, 3]}, "recipe.channels must be a list of the right length"),
        ({"precision": "float8"}, "recipe.precision is 'float8'; it can be auto, float32, bfloat16"),
        ({"phases": []}, "at least one step and one phase"),
        ({"phases": [{"share": 0.5, "rate_from": 1, "rate_to": 1}]}, "must add up to 1"),
        ({"phases": [{"share": 1.0}]}, "incomplete"),
        ({"phases": [{"share": 1.0, "rate_from": 1, "rate_to": 1, "crop": 100}]}, "multiple of 64"),
        ({"phases": [{"share": 1.0, "rate_from": 1, "rate_to": 1, "batch": 0}]}, "batch must lie between"),
        ({"phases": [{"share": 1.0, "rate_from": float("nan"), "rate_to": 1}]}, "rate_from must lie between"),
        ({"channels": [0, 12]}, "channels must lie between"),
        ({"quality_low": 6.0, "quality_high": 1.0}, "quality_high must lie between 6 and 6, not 1"),
        ({"clip": -1.0}, "clip must lie between"),
        ({"phases": [3]}, r"recipe.phases\[0\] must be an object"),
        ({"clip": 10**400}, "recipe.clip is too large a number"),
        ({"steps": 10**400}, "recipe.steps is too large a number"),
        ({"hardening": {"method": "fast", "epsilon": 10**400}}, "recipe.hardening.epsilon is too large a number"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(change: dict[str, object], message: str) -> None:
    document = {**json.loads(from_start(10).to_json()), **change}
    with pytest.raises(TrainingError, match=message):
        Recipe.from_json(json.dumps(document))


def test_text_that_is_no_json_is_refused() -> None:
    for text in ("{", "[" * 100_000):
        with pytest.raises(TrainingError, match="not JSON"):
            Recipe.from_json(text)


def test_the_last_step_has_a_phase_whatever_shares_add_up_to() -> None:
    phase = Phase(share=0.3333333, rate_from=1.0, rate_to=1.0)
    recipe = Recipe(steps=6_000_000, phases=(phase, phase, phase))
    assert recipe.at(recipe.steps)[1] == 1.0


def test_dead_zones_are_for_the_method_that_trains_with_them() -> None:
    with pytest.raises(TrainingError, match="dead_zones"):
        Hardening(method=Method.MA2023, psnr_share=0.5, dead_zones=True)


def test_the_schedule_meets_its_corners() -> None:
    recipe = Recipe(
        steps=100,
        phases=(
            Phase(share=0.1, rate_from=0.0, rate_to=1.0),
            Phase(share=0.5, rate_from=1.0, rate_to=1.0),
            Phase(share=0.4, rate_from=1.0, rate_to=0.0),
        ),
    )
    assert recipe.ends() == (10, 60, 100)
    rates = [recipe.at(step)[1] for step in range(1, 101)]
    assert rates[0] == 0.0
    assert rates[9] == rates[10] == rates[59] == rates[60] == 1.0
    assert rates[99] == 0.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[60:] == sorted(rates[60:], reverse=True)
    with pytest.raises(ValueError, match="beyond"):
        recipe.at(101)


def test_a_recipe_of_before_there_was_a_choice_starts_orthonormally() -> None:
    document = json.loads(from_start(10).to_json())
    del document["start"]
    assert Recipe.from_json(json.dumps(document)).start is Start.ORTHONORMAL
    with pytest.raises(TrainingError, match=r"recipe\.start is 'warm'; it can be orthonormal, conventional"):
        Recipe.from_json(json.dumps({**document, "start": "warm"}))


def test_a_recipe_is_fitted_to_an_architecture() -> None:
    recipe = adapted(from_start(100), "cheng", (128, 128))
    assert (recipe.arch, recipe.channels) == ("cheng", (128, 128))
    assert [phase.rate_to for phase in recipe.phases] == pytest.approx([2e-4, 2e-4, 1e-5, 0.0])
    assert adapted(from_start(100), "hyper", (128, 192)) == from_start(100)


def test_hardening_is_fitted_to_an_architecture() -> None:
    recipe, ours = fitted(fast("cheng"), "cheng", (128, 128), (1.0, 6.0)).student, fast().student
    assert recipe is not None and ours is not None
    assert (recipe.arch, recipe.quality_high) == ("cheng", 6.0)
    assert recipe.at(recipe.steps // 2)[1] == pytest.approx(0.2 * ours.at(recipe.steps // 2)[1])

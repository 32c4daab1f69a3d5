"""The pictures behind every number: lists by sha256, and no picture in two of them."""

import re
from itertools import combinations
from pathlib import Path

import pytest

LISTS = Path(__file__).parent.parent / "docs" / "data"
NAMES = ("train", "cid22-val", "kodak", "clic-test", "clean")


def entries(name: str) -> dict[str, str]:
    """sha256 by path, of a list in sha256sum's format."""
    lines = (LISTS / f"{name}.sha256").read_text(encoding="utf-8").splitlines()
    matches = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines]
    assert all(matches)
    return {match[2]: match[1] for match in matches if match}


@pytest.mark.parametrize(("name", "count"), list(zip(NAMES, (1034, 41, 24, 8, 600), strict=True)))
def test_a_list_is_whole(name: str, count: int) -> None:
    listed = entries(name)
    assert len(listed) == len(set(listed.values())) == count
    assert all(path.startswith(f"{name}/") for path in listed)


@pytest.mark.parametrize(("one", "other"), list(combinations(NAMES, 2)))
def test_no_picture_is_in_two_lists(one: str, other: str) -> None:
    assert not set(entries(one).values()) & set(entries(other).values())

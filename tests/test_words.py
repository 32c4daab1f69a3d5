"""Numbers as people say them."""

import pytest

from robustcodec.words import counted, duration


@pytest.mark.parametrize(("count", "said"), [(0, "0 plots"), (1, "1 plot"), (2, "2 plots"), (1000, "1,000 plots")])
def test_counts(count: int, said: str) -> None:
    assert counted(count, "plot") == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0 seconds"),
        (0.37, "0.37 seconds"),
        (1.0, "1 second"),
        (12.24, "12 seconds"),
        (119.4, "119 seconds"),
        (120.0, "2 minutes"),
        (9.96 * 60, "10 minutes"),
        (5000.0, "83 minutes"),
        (12600.0, "3.5 hours"),
        (730 * 3600.0, "30 days"),
        (365 * 86400 * 10.0, "3,650 days"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said

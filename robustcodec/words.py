"""Numbers as people say them: counts with their nouns, and how long something takes."""

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_ENOUGH = 2
"""Of a unit there are at least so many, or a smaller one is taken."""


def counted(count: int, noun: str) -> str:
    """Give a count with its noun: 1 plot, 2 plots, 1,000 plots."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def duration(seconds: float) -> str:
    """Give a time to two digits in the unit that fits: 0.4 seconds, 12 seconds, 3.5 hours, 30 days."""
    unit, name = next((each for each in _UNITS if seconds >= _ENOUGH * each[0]), _UNITS[-1])
    value = seconds / unit
    said = f"{value:.2g}" if value < 10 else f"{value:,.0f}"
    return f"{said} {name}" + ("" if said == "1" else "s")

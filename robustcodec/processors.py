"""How many processors this process may use: its affinity, cut by the quotas of its control groups."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath


def usable_threads() -> int:
    """Number of threads worth starting, at least 1.

    ONNX Runtime's own default is the machine's number of processors, and fails where only some may be used.
    """
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    processors = len(affinity) or os.cpu_count() or 1
    return max(1, min([processors, *_quotas(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]))


def useful_threads(wanted: int | None) -> int:
    """Number of threads to start when so many are wanted, or any number (None).

    That is never more than the machine has processors: they would only wait for one another, thousands of them for
    minutes.
    """
    return usable_threads() if wanted is None else max(1, min(wanted, os.cpu_count() or wanted))


def _quotas(membership: Path, root: Path) -> list[int]:
    """Processors, rounded up, that each control group of this process grants, of version 1 or 2."""
    try:
        entries = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return []
    quotas: list[int] = []
    for _, controllers, group in (entry for entry in entries if len(entry) == 3):
        if not controllers:
            quotas += _granted(root, group, _version_2)
        elif "cpu" in controllers.split(","):
            # what a container sees of its group may lie at the top
            quotas += _granted(root / "cpu", group, _version_1)
    return quotas


def _granted(root: Path, group: str, read: Callable[[Path], tuple[int, int]]) -> Iterator[int]:
    path = PurePosixPath("/", group)
    for each in (path, *path.parents):
        try:
            quota, period = read(root / each.relative_to("/"))
            if quota > 0 and period > 0:
                yield math.ceil(quota / period)
        except (OSError, ValueError):
            continue  # the root has no such file, nor has a group without this controller


def _version_2(folder: Path) -> tuple[int, int]:
    quota, period = (folder / "cpu.max").read_text().split()
    return (0 if quota == "max" else int(quota)), int(period)


def _version_1(folder: Path) -> tuple[int, int]:
    return int((folder / "cpu.cfs_quota_us").read_text()), int((folder / "cpu.cfs_period_us").read_text())

"""The number of threads follows what the system lets a process use, not what the machine has."""

import subprocess
import sys
from pathlib import Path

import pytest

from robustcodec import processors
from robustcodec.bundle import Bundle
from robustcodec.codec import Codec
from robustcodec.processors import usable_threads, useful_threads

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, []),
        ({"a/b/cpu.max": "max 100000"}, []),
        ({"a/b/cpu.max": "150000 100000"}, [2]),
        ({"a/cpu.max": "50000 100000", "a/b/cpu.max": "400000 100000"}, [4, 1]),
        ({"a/b/cpu.max": "nonsense"}, []),
        ({"cpu/old/cpu.cfs_quota_us": "-1", "cpu/old/cpu.cfs_period_us": "100000"}, []),
        ({"cpu/old/cpu.cfs_quota_us": "250000", "cpu/old/cpu.cfs_period_us": "100000"}, [3]),
        ({"cpu/cpu.cfs_quota_us": "90000", "cpu/cpu.cfs_period_us": "100000"}, [1]),  # as a container sees it
        ({"cpu/cpu.cfs_quota_us": "90000", "cpu/cpu.cfs_period_us": "0"}, []),
    ],
)
def test_quotas_of_control_groups(tmp_path: Path, limits: dict[str, str], expected: list[int]) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("2:memory:/x\n1:cpu,cpuacct:/old\nnonsense\n0::/a/b\n")
    for name, limit in limits.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(limit + "\n")
    assert processors._quotas(membership, tmp_path / "fs") == expected
    assert processors._quotas(tmp_path / "absent", tmp_path / "fs") == []


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_threads_keep_to_the_affinity() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from robustcodec.processors import usable_threads; print(usable_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert usable_threads() >= 1


def test_a_quota_below_the_affinity_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors.os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(processors, "_quotas", lambda membership, root: [3, 5])
    assert usable_threads() == 3
    monkeypatch.setattr(processors, "_quotas", lambda membership, root: [])
    assert usable_threads() == 8


def test_no_more_threads_than_processors(monkeypatch: pytest.MonkeyPatch, tiny: Bundle) -> None:
    monkeypatch.setattr(processors.os, "cpu_count", lambda: 4)
    assert [useful_threads(wanted) for wanted in (1, 3, 4, 5, 9999)] == [1, 3, 4, 4, 4]
    assert useful_threads(None) == usable_threads()
    assert Codec(tiny, threads=9999).threads == 4

"""What the lab says where memory does not suffice."""

from pathlib import Path

import pytest
import torch

from robustcodec.errors import LimitExceeded
from robustcodec.lab import memory
from robustcodec.lab.memory import available_memory, memory_named


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_lack_of_memory_is_named(error: RuntimeError) -> None:
    with pytest.raises(LimitExceeded, match="take less"), memory_named("take less"):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), memory_named("take less"):
        raise RuntimeError("shapes differ")


def test_available_memory_is_what_linux_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    assert available_memory() is None
    meminfo.write_text("MemTotal:       2000 kB\nMemAvailable:   1000 kB\n")
    assert available_memory() == 1_024_000
    meminfo.write_text("MemTotal:       2000 kB\n")
    assert available_memory() is None

"""Which arithmetic a machine is given."""

from collections.abc import Mapping

import pytest
import torch

from robustcodec.lab.hardening_recipes import fast, paper
from robustcodec.lab.precision import Precision, in_bfloat16, resolved
from robustcodec.lab.recipe import continued, from_start

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": True}, True),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, True),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, True),
        ({"architecture": "aarch64", "neon": True, "bf16": False}, False),
    ],
)
def test_a_processor_without_its_instructions_is_spared_bfloat16(
    capabilities: Mapping[str, object], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert in_bfloat16(Precision.AUTO, CPU) is expected
    assert resolved(Precision.AUTO, CPU) is (Precision.BFLOAT16 if expected else Precision.FLOAT32)
    assert in_bfloat16(Precision.BFLOAT16, CPU)
    assert not in_bfloat16(Precision.FLOAT32, CPU)
    for explicit in (Precision.FLOAT32, Precision.BFLOAT16):
        assert resolved(explicit, CPU) is explicit


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_is_asked(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(including_emulation: bool) -> bool:
        return including_emulation or supported

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", asked)
    assert in_bfloat16(Precision.AUTO, GPU) is supported


def test_the_names_are_those_of_this_torch() -> None:
    capabilities = torch.cpu.get_capabilities()
    names = {"x86_64": ("avx512_bf16", "amx_bf16"), "aarch64": ("bf16",), "arm64": ("bf16",)}
    assert set(names[capabilities["architecture"]]) <= set(capabilities)


def test_recipes_leave_it_to_the_machine() -> None:
    for recipe in (from_start(100), continued(100), *(recipe for _, recipe in fast("hyper").stages())):
        assert recipe.precision is Precision.AUTO
    assert {recipe.precision for _, recipe in paper(10).stages()} == {Precision.FLOAT32}

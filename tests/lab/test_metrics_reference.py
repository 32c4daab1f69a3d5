"""metrics.ms_ssim against pytorch-msssim."""

import numpy as np
import pytest

from robustcodec.metrics import ms_ssim

torch = pytest.importorskip("torch")
reference = pytest.importorskip("pytorch_msssim")


@pytest.mark.parametrize(("height", "width"), [(161, 161), (200, 333), (256, 181)])
@pytest.mark.parametrize("kind", ["noise", "blur", "constant"])
def test_agrees_with_pytorch_msssim(height: int, width: int, kind: str) -> None:
    rng = np.random.default_rng(height)
    smooth = rng.normal(128, 300, (height, width, 3))
    for axis in (0, 1):
        for _ in range(3):
            smooth = sum(np.roll(smooth, shift, axis) for shift in range(-4, 5)) / 9
    a = np.clip(smooth, 0, 255).astype(np.uint8)
    b = {
        "noise": np.clip(a + rng.normal(0, 20, a.shape), 0, 255).astype(np.uint8),
        "blur": (a // 32 * 32 + 16).astype(np.uint8),
        "constant": np.full_like(a, 128),
    }[kind]
    x, y = (torch.tensor(p).permute(2, 0, 1)[None].to(torch.float64) for p in (a, b))
    assert ms_ssim(a, b) == pytest.approx(reference.ms_ssim(x, y, data_range=255).item(), abs=1e-5)

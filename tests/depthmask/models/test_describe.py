from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from depthmask.models.describe import gmac  # noqa: E402  (needs torch)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_gmac_counts_convolutions_and_products(device):
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1, device=device),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 16 * 16, 10, device=device),
    )
    multiplications = 16 * 16 * 8 * 3 * 9 + 8 * 16 * 16 * 10
    assert gmac(network, (1, 3, 16, 16)) == pytest.approx(multiplications / 1e9)

"""UPerNet."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from arcticseg.models.config import UPerNetConfig


@pytest.mark.parametrize("size", [(4, 6), (1, 1)])
def test_maps_of_one_stride_become_features_at_a_quarter_of_it(size: tuple[int, int]) -> None:
    decoder = UPerNetConfig(channels=8).make((6, 6, 6, 10), (16,) * 4)
    assert decoder.out_channels == 8
    maps = [torch.randn(2, dim, *size) for dim in (6, 6, 6, 10)]
    assert decoder(maps).shape == (2, 8, 4 * size[0], 4 * size[1])


def test_every_map_counts() -> None:
    torch.manual_seed(0)
    decoder = UPerNetConfig(channels=8).make((6, 6, 6, 6), (16,) * 4)
    maps = [torch.randn(1, 6, 4, 4) for _ in range(4)]
    before = decoder(maps)
    for number in range(4):
        changed = [x + (i == number) * torch.randn_like(x) for i, x in enumerate(maps)]
        assert not torch.allclose(decoder(changed), before)

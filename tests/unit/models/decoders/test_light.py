"""The light decoder."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from arcticseg.models.config import LightConfig


def test_maps_of_one_stride_become_features_at_a_quarter_of_it() -> None:
    decoder = LightConfig(channels=16).make((6, 6, 10), (8, 8, 8))
    assert decoder.out_channels == 4
    maps = [torch.randn(2, dim, 3, 5) for dim in (6, 6, 10)]
    assert decoder(maps).shape == (2, 4, 12, 20)


def test_every_map_counts() -> None:
    torch.manual_seed(0)
    decoder = LightConfig(channels=16).make((6, 6), (8, 8))
    maps = [torch.randn(1, 6, 3, 3) for _ in range(2)]
    before = decoder(maps)
    for number in range(2):
        changed = [x + (i == number) * torch.randn_like(x) for i, x in enumerate(maps)]
        assert not torch.allclose(decoder(changed), before)


@pytest.mark.parametrize(("strides", "out"), [((4, 8, 16, 32), 4), ((1, 2, 4, 8, 16), 1), ((1, 2), 1), ((1, 1), 1)])
def test_maps_of_a_pyramid_meet_at_four_times_the_finest_stride(strides: tuple[int, ...], out: int) -> None:
    torch.manual_seed(0)
    decoder = LightConfig(channels=16).make((6,) * len(strides), strides)
    maps = [torch.randn(2, 6, 64 // stride, 96 // stride) for stride in strides]
    before = decoder(maps)
    assert before.shape == (2, 4, 64 // out, 96 // out)
    for number in range(len(strides)):
        changed = [x + (i == number) * torch.randn_like(x) for i, x in enumerate(maps)]
        assert not torch.allclose(decoder(changed), before)

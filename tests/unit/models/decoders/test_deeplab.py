"""DeepLabV3+."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from arcticseg.errors import ConfigError
from arcticseg.models.config import DeepLabConfig
from arcticseg.models.torchvision_compat import ensure_torchvision
from tests.norms import convolutions, without_norms

ensure_torchvision()
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder


def test_without_norms_it_is_the_librarys() -> None:
    torch.manual_seed(0)
    ours = without_norms(DeepLabConfig(channels=8).make((4, 6, 10), (4, 8, 16)))
    theirs = without_norms(DeepLabV3PlusDecoder([3, 2, 4, 6, 10], 4, 8, (12, 24, 36), 16, True, 0.0))
    # The library aligns corners, which the other decoders of both do not.
    theirs.up.align_corners = False
    mine, others = convolutions(ours), convolutions(theirs)
    # A point, three pairs, a pool, a projection, a pair, a point, a pair.
    assert len(mine) == len(others) == 14
    for conv, other in zip(mine, others, strict=True):
        other.weight.data = conv.weight.data
    # As large as that all taps of rate 12 and some of rate 24 fall on it.
    fine, middle, deepest = torch.randn(2, 4, 128, 96), torch.randn(2, 6, 64, 48), torch.randn(2, 10, 32, 24)
    expected = theirs([torch.empty(0), torch.empty(0), fine, middle, deepest])
    torch.testing.assert_close(ours([fine, middle, deepest]), expected)


def test_of_maps_of_one_stride_the_first_is_enlarged() -> None:
    torch.manual_seed(0)
    decoder = DeepLabConfig(channels=8, rates=(1, 2)).make((4, 4, 6), (16, 16, 16))
    maps = [torch.randn(1, dim, 3, 5) for dim in (4, 4, 6)]
    before = decoder(maps)
    assert before.shape == (1, 8, 12, 20)
    changes = [[x + (i == number) * torch.randn_like(x) for i, x in enumerate(maps)] for number in range(3)]
    assert [torch.equal(decoder(changed), before) for changed in changes] == [False, True, False]


@pytest.mark.parametrize("rates", [(), (0,), (12, -1)])
def test_rates_are_positive(rates: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"'rates' is .*; set positive whole numbers"):
        DeepLabConfig(rates=rates)

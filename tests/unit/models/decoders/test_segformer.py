"""SegFormer's decoder."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

from arcticseg.models.config import SegFormerConfig
from arcticseg.models.torchvision_compat import ensure_torchvision
from tests.norms import convolutions, without_norms

ensure_torchvision()
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder

DIMS, STRIDES = (4, 6, 8, 10), (4, 8, 16, 32)


def pyramid(size: int = 64) -> list[Tensor]:
    return [torch.randn(2, dim, size // stride, size // stride) for dim, stride in zip(DIMS, STRIDES, strict=True)]


def test_without_its_norm_it_is_the_librarys() -> None:
    torch.manual_seed(0)
    ours = without_norms(SegFormerConfig(channels=8).make(DIMS, STRIDES))
    theirs = without_norms(SegformerDecoder([3, 0, *DIMS], segmentation_channels=8))
    *projections, fuse = convolutions(ours)
    # The library begins with the deepest map.
    for conv, part in zip(projections[::-1], theirs.mlp_stage, strict=True):
        part.linear.weight.data = conv.weight.data.flatten(1)
        part.linear.bias.data = conv.bias.data.normal_()
    (theirs_fuse,) = convolutions(theirs)
    theirs_fuse.weight.data = torch.cat(fuse.weight.data.split(8, dim=1)[::-1], dim=1)
    maps = pyramid()
    expected = theirs([torch.randn(2, 3, 64, 64), torch.empty(2, 0, 32, 32), *maps])
    torch.testing.assert_close(ours(maps), expected)


def test_finer_maps_than_stride_4_are_left_out() -> None:
    decoder = SegFormerConfig(channels=8).make((2, 2, *DIMS), (1, 2, *STRIDES))
    maps = pyramid()
    one, other = ([torch.randn(2, 2, 64, 64), torch.randn(2, 2, 32, 32), *maps] for _ in range(2))
    assert decoder(one).shape == (2, 8, 16, 16)
    assert torch.equal(decoder(one), decoder(other))


def test_maps_of_one_stride_stay_there() -> None:
    decoder = SegFormerConfig(channels=8).make((4, 4), (16, 16))
    assert decoder([torch.randn(1, 4, 3, 5) for _ in range(2)]).shape == (1, 8, 3, 5)

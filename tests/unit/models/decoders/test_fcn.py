"""FCN."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F

from arcticseg.models.config import FCNConfig
from tests.norms import convolutions


def test_the_arithmetic_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    decoder = FCNConfig(channels=8).make((4, 6), (8, 16))
    first, second, fuse = (conv.weight for conv in convolutions(decoder))
    deepest = torch.randn(2, 6, 5, 7)
    # Two groups of four channels.
    x = F.relu(F.group_norm(F.conv2d(deepest, first, padding=1), 2))
    x = F.relu(F.group_norm(F.conv2d(x, second, padding=1), 2))
    x = F.relu(F.group_norm(F.conv2d(torch.cat([deepest, x], dim=1), fuse, padding=1), 2))
    torch.testing.assert_close(decoder([torch.randn(2, 4, 10, 14), deepest]), x)
    assert decoder.out_channels == 8


def test_it_sees_the_deepest_map_alone() -> None:
    decoder = FCNConfig(channels=8).make((4, 6), (8, 16))
    deepest = torch.randn(1, 6, 3, 3)
    one, other = (decoder([torch.randn(1, 4, 6, 6), deepest]) for _ in range(2))
    assert torch.equal(one, other)

"""Operations, bytes and memory of networks, beside sums by hand."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from torch import Tensor, nn

from arcticseg.run.config import load
from arcticseg.speed.arithmetic import ATTENTION, CONVOLUTION, MATMUL, count
from arcticseg.speed.network import work_of


class Attend(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)


def counted(network: nn.Module, *shape: int) -> object:
    x = torch.empty(shape, device="meta", requires_grad=True)
    return count(network.to("meta"), lambda: network(x).sum(), shape[0], x.nbytes)


def flops(work: object, kind: str) -> int:
    return sum(op.flops for op in work.operations if op.kind == kind)  # type: ignore[attr-defined]


def test_a_linear_map_multiplies_once_forward_and_twice_backward() -> None:
    work = counted(nn.Linear(64, 32, bias=False), 8, 64)
    assert flops(work, MATMUL) == 3 * 2 * 8 * 64 * 32


def test_attention_counts_six_products_and_keeps_no_scores() -> None:
    batch, heads, tokens, dim = 2, 4, 512, 16
    x = torch.empty(batch, heads, tokens, dim, device="meta", requires_grad=True)
    work = count(Attend(), lambda: Attend()(x).sum(), batch, 0)
    assert flops(work, ATTENTION) == 6 * 2 * batch * heads * tokens * tokens * dim
    assert work.peak < 4 * batch * heads * tokens * tokens


def test_a_convolution_knows_its_width() -> None:
    work = counted(nn.Conv2d(3, 8, 3, padding=1, bias=False), 1, 3, 10, 10)
    widths = {op.width for op in work.operations if op.kind == CONVOLUTION}  # type: ignore[attr-defined]
    assert widths == {3}
    assert flops(work, CONVOLUTION) == 3 * 2 * 100 * 9 * 3 * 8


def test_a_convolution_of_each_channel_multiplies_with_its_own_taps_alone() -> None:
    work = counted(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), 1, 8, 10, 10)
    assert flops(work, CONVOLUTION) == 3 * 2 * 100 * 9 * 8
    assert work.forward == 2 * 100 * 9 * 8  # type: ignore[attr-defined]


def test_a_transposed_convolution_meets_its_taps_at_each_input() -> None:
    work = counted(nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False), 1, 4, 10, 10)
    assert flops(work, CONVOLUTION) == 3 * 2 * 100 * 4 * 4 * 6


def test_what_forward_keeps() -> None:
    class Chain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.exp().exp().exp()

    x = torch.empty(1000, device="meta", requires_grad=True)
    # The three results; of the sum a number.
    assert 3 * 4000 <= count(Chain(), lambda: Chain()(x).sum(), 1, 0).kept <= 3 * 4000 + 8


def test_the_peak_is_what_lives_at_once() -> None:
    class Chain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(4):
                x = x.exp()
            return x

    x = torch.empty(1000, device="meta", requires_grad=True)
    # Each exp keeps its result of 4,000 bytes; backward adds a gradient and what it is multiplied to.
    work = count(Chain(), lambda: Chain()(x).sum(), 1, 0)
    assert 4 * 4000 <= work.peak <= 7 * 4000


def test_the_autoencoder_computes_what_a_sum_by_hand_says() -> None:
    """ViT-B on a quarter of 576 patches, with a decoder of 8 blocks over all: 0.184 TFLOP a sample."""
    tokens, kept, patch = 577, 145, 16 * 16
    encoder = 12 * (12 * 768**2 * kept + 2 * kept**2 * 768) + (kept - 1) * patch * 25 * 768
    decoder = 8 * (12 * 512**2 * tokens + 2 * tokens**2 * 512) + kept * 768 * 512 + (tokens - 1) * 512 * patch * 2
    work = work_of(load("pretrain_vit_stock", ["engine.micro_batch_size=2"]), 384, 2)
    # The image needs no gradient.
    by_hand = 3 * 2 * (encoder + decoder) - 2 * (kept - 1) * patch * 25 * 768
    assert work.flops_a_sample == pytest.approx(by_hand, rel=0.01)
    assert work.flops_a_sample == pytest.approx(0.184e12, rel=0.01)

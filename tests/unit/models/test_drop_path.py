"""Drop path by (seed, step, place)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

from arcticseg.errors import ConfigError
from arcticseg.models.build import build_autoencoder, build_segmenter
from arcticseg.models.drop_path import branch_factors, drop_limits, sample_seeds
from arcticseg.models.encoders.vit import build_vit
from tests.networks import VIT, small

PLACES = torch.arange(100, 108)
# Seeds of seed 0, step 0, places 0 to 2: written down, so that a run goes on with its draws under another version.
FIRST = [918156474, 4113592761, 2480922691]


def dropping(kind: str) -> Any:
    """A function from images, noise and seeds to an output of a network whose last block is dropped half the time."""
    torch.manual_seed(0)
    model = small("light", encoder=VIT | {"drop_path": 0.5})
    if kind == "segmenter":
        network = build_segmenter(model, 3, 16).train()
        return lambda x, noise, seeds: network(x, seeds)["SOD"]
    mae = build_autoencoder(model, 3, 16, 2, decoder_dim=16, decoder_depth=1, decoder_heads=2).train()
    return lambda x, noise, seeds: mae(x, noise, 0.5, seeds)[0]


@pytest.mark.parametrize("kind", ["segmenter", "autoencoder"])
def test_a_sample_is_dropped_alike_however_batches_are_cut(kind: str) -> None:
    network, x, noise = dropping(kind), torch.randn(8, 3, 16, 16), torch.rand(8, 4)
    whole = network(x, noise, sample_seeds(7, 3, PLACES))
    for size in (1, 2, 4):
        parts = [slice(first, first + size) for first in range(0, 8, size)]
        cut = torch.cat([network(x[part], noise[part], sample_seeds(7, 3, PLACES[part])) for part in parts])
        torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(network(x, noise, sample_seeds(7, 4, PLACES)), whole)
    assert not torch.allclose(network(x, noise, sample_seeds(8, 3, PLACES)), whole)
    assert not torch.allclose(network(x, noise, None), whole)


def test_torch_draws_nothing() -> None:
    network, x = dropping("segmenter"), torch.randn(2, 3, 16, 16)
    state = torch.get_rng_state()
    network(x, None, sample_seeds(7, 3, PLACES[:2]))
    assert torch.equal(torch.get_rng_state(), state)


def test_shares_are_those_asked_for_and_draws_are_independent() -> None:
    rates = [0.0, 0.1, 0.5, 0.5, 0.9]
    factors = branch_factors(sample_seeds(1, 2, torch.arange(40_000)), drop_limits(rates))
    kept = (factors > 0).double()
    np.testing.assert_allclose(kept.mean(dim=1).numpy(), [1 - rate for rate in rates], atol=0.01)
    # What is kept makes up for what is dropped.
    np.testing.assert_allclose(factors.double().mean(dim=1).numpy(), 1, atol=0.1)
    for row, rate in zip(factors, rates, strict=True):
        torch.testing.assert_close(row.unique(), torch.tensor([0.0, 1 / (1 - rate)])[int(rate == 0) :])
    # Neither layers nor neighbouring places nor steps agree more often than chance has it.
    later = branch_factors(sample_seeds(1, 3, torch.arange(40_000)), drop_limits(rates)) > 0
    assert abs((kept[2] == kept[3]).double().mean() - 0.5) < 0.01
    assert abs((kept[2, 1:] == kept[2, :-1]).double().mean() - 0.5) < 0.01
    assert abs((later[2] == kept[2]).double().mean() - 0.5) < 0.01


def test_seeds_are_the_same_everywhere_and_differ() -> None:
    seeds = sample_seeds(0, 0, torch.arange(100_000))
    assert seeds[:3].tolist() == sample_seeds(0, 0, torch.tensor([0, 1, 2])).tolist() == FIRST
    assert (seeds.dtype, int(seeds.min()) >= 0, int(seeds.max()) < 1 << 32) == (torch.int64, True, True)
    # 100,000 of 2^32 values: about one pair collides.
    assert len(seeds.unique()) > 99_990


def test_blocks_are_dropped_the_more_the_deeper() -> None:
    encoder = build_vit(3, 32, "vit_tiny_patch16_224", embed_dim=32, depth=3, num_heads=2, drop_path=0.2)
    limits: Tensor = encoder.drop_limits
    np.testing.assert_allclose(limits.numpy() / 2**32, [0, 0, 0.1, 0.1, 0.2, 0.2], atol=1e-7)
    assert "drop_limits" not in encoder.state_dict()
    assert build_vit(3, 32, "vit_tiny_patch16_224", embed_dim=32, depth=3, num_heads=2).drop_limits is None
    assert encoder.bfloat16().drop_limits.dtype == torch.int64


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch16_rpn_224"])
def test_a_dropped_block_leaves_its_input(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_vit(3, 16, name, patch_size=8, embed_dim=32, depth=2, num_heads=2, drop_path=0.5).train()
    x, seeds = torch.randn(64, 3, 16, 16), sample_seeds(1, 1, torch.arange(64))
    whole = encoder(x)[-1]
    dropped = (branch_factors(seeds, encoder.drop_limits) == 0)[2:].all(dim=0)
    assert 0 < dropped.sum() < 64
    # The last block gone, its maps are those of the block before.
    torch.testing.assert_close(encoder(x, seeds=seeds)[-1][dropped], encoder(x)[0][dropped])
    assert not torch.allclose(encoder(x, seeds=seeds)[-1], whole)


def test_blocks_that_cannot_be_dropped_are_refused() -> None:
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    with pytest.raises(ConfigError, match=r"ParallelThingsBlock.*drop_path=0"):
        build_vit(3, 32, "vit_small_patch16_18x2_224", **sizes, drop_path=0.1)
    build_vit(3, 32, "vit_small_patch16_18x2_224", **sizes)

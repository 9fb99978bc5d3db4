"""Blocks whose inside backward computes again."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

from arcticseg.models.build import build_autoencoder, build_segmenter
from arcticseg.models.drop_path import sample_seeds
from tests.networks import VIT, small


def trained(kind: str, **keys: Any) -> tuple[dict[str, Tensor], int]:
    """Gradients of a pass with drop path, and the bytes that it held for backward beside the weights."""
    torch.manual_seed(0)
    model = small("light", encoder=VIT | {"drop_path": 0.5} | keys)
    if kind == "segmenter":
        network: Any = build_segmenter(model, 3, 32)
    else:
        network = build_autoencoder(model, 3, 32, 2, decoder_dim=16, decoder_depth=3, decoder_heads=2)
    x, seeds = torch.randn(4, 3, 32, 32), sample_seeds(1, 1, torch.arange(4))
    own = {value.data_ptr() for value in network.parameters()}
    held: dict[int, int] = {}

    def hold(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda value: value):
        if kind == "segmenter":
            loss = sum(output.square().mean() for output in network(x, seeds).values())
        else:
            loss = network(x, torch.rand(4, 16), 0.5, seeds)[0].square().mean()
    loss.backward()
    grads = {name: value.grad for name, value in network.named_parameters() if value.requires_grad}
    return grads, sum(held.values())


@pytest.mark.parametrize("kind", ["segmenter", "autoencoder"])
def test_the_same_gradients_with_less_memory(kind: str) -> None:
    (expected, more), (grads, less) = trained(kind), trained(kind, checkpoint_blocks=True)
    assert less < 0.6 * more
    for name, value in expected.items():
        torch.testing.assert_close(grads[name], value, rtol=1e-5, atol=1e-7)

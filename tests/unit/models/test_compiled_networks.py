"""Networks that a compiler takes whole: one graph, the same numbers, no sample's draw frozen into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn

from arcticseg import config
from arcticseg.models.build import build_autoencoder, build_segmenter
from arcticseg.models.config import ModelConfig
from arcticseg.models.drop_path import sample_seeds
from tests.networks import DECODERS, ENCODERS, KINDS, VIT, small

Call = Callable[[Any, Tensor, Tensor], Tensor]


def of_segmenter(network: Any, x: Tensor, seeds: Tensor) -> Tensor:
    return torch.cat(list(network(x, seeds).values()), dim=1)


def of_autoencoder(network: Any, x: Tensor, seeds: Tensor) -> Tensor:
    kept = torch.tensor([[0, 5, 6, 15], [1, 2, 3, 8]])
    return network(x, kept, None, seeds)[0]  # type: ignore[no-any-return]


def built(kind: str, **encoder: Any) -> tuple[nn.Module, Call]:
    """A network in training, and a call of it with images and seeds."""
    torch.manual_seed(0)
    if kind in KINDS:
        model = small(kind, **({} if kind == "unet" else {"encoder": VIT | encoder}))
        return build_segmenter(model, 3, 32).train(), of_segmenter
    if kind in PAIRS:
        model = config.build(ModelConfig, {"encoder": ENCODERS[kind], "decoder": DECODERS[PAIRS[kind]]}, "model.")
        # In float32 their gradients differ by rounding alone, more than those of the small ones.
        return build_segmenter(model, 3, 64).double().train(), of_segmenter
    sizes = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    return build_autoencoder(small("light", encoder=VIT | encoder), 3, 32, 2, **sizes).train(), of_autoencoder


# An encoder and a decoder of each further kind.
PAIRS = {"resnet": "deeplabv3plus", "mit": "segformer", "convnext": "fcn"}


@pytest.mark.parametrize("kind", ["light", "unet", "autoencoder", *PAIRS])
def test_one_graph_with_the_numbers_of_the_plain_network(kind: str) -> None:
    network, call = built(kind, drop_path=0.5)
    size, dtype = (64, torch.float64) if kind in PAIRS else (32, torch.float32)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    for step in (1, 2):
        x, seeds = torch.randn(2, 3, size, size, dtype=dtype), sample_seeds(0, step, torch.arange(2))
        network.zero_grad()
        call(compiled, x, seeds).square().sum().backward()
        grads = {name: value.grad for name, value in network.named_parameters() if value.requires_grad}
        network.zero_grad()
        plain = call(network, x, seeds)
        plain.square().sum().backward()
        torch.testing.assert_close(call(compiled, x, seeds), plain)
        for name, value in grads.items():
            torch.testing.assert_close(value, network.get_parameter(name).grad, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1

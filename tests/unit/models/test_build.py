"""Networks from configs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from arcticseg import config
from arcticseg.errors import ConfigError
from arcticseg.models.build import build_autoencoder, build_encoder, build_segmenter
from arcticseg.models.config import ModelConfig
from arcticseg.models.decoders.light import LightDecoder
from arcticseg.models.decoders.unet import UNetDecoder
from arcticseg.models.decoders.upernet import UPerDecoder
from tests.networks import DECODERS, ENCODERS, KINDS, small


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_weights_and_gradients(kind: str) -> None:
    x, grads = torch.randn(2, 4, 32, 32), []
    for _ in range(2):
        torch.manual_seed(0)
        model = build_segmenter(small(kind), 4, 32)
        sum(y.square().mean() for y in model(x).values()).backward()  # type: ignore[union-attr]
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("charts", [("SIC",), ("FLOE",), ("SIC", "SOD"), ("SOD", "FLOE")])
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_charts_asked_for_get_heads_and_decoders(kind: str, charts: tuple[str, ...]) -> None:
    model = build_segmenter(small(kind, charts=charts), 4, 32)
    assert model.charts == tuple(model.heads) == charts
    outputs = model(torch.randn(1, 4, 32, 32))
    assert tuple(outputs) == charts
    if kind == "upernet":
        assert isinstance(model.decoder, nn.ModuleDict)
        assert tuple(model.decoder) == charts
    sum(x.square().mean() for x in outputs.values()).backward()  # type: ignore[union-attr]
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


PAIRS = [
    (encoder, decoder)
    for encoder in ENCODERS
    for decoder in DECODERS
    if decoder != "unet" or encoder.startswith("unet")
]


def paired(encoder: str, decoder: str, **keys: Any) -> ModelConfig:
    return config.build(ModelConfig, {"encoder": ENCODERS[encoder], "decoder": DECODERS[decoder], **keys}, "model.")


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_each_decoder_takes_the_maps_of_each_encoder(encoder: str, decoder: str) -> None:
    torch.manual_seed(0)
    network = build_segmenter(paired(encoder, decoder), 5, 64).train()
    outputs = network(torch.randn(2, 5, 64, 64))
    assert {chart: tuple(y.shape) for chart, y in outputs.items()} == {
        "SIC": (2, 1, 64, 64),
        "SOD": (2, 6, 64, 64),
        "FLOE": (2, 7, 64, 64),
    }
    sum(y.float().square().mean() for y in outputs.values()).backward()  # type: ignore[union-attr]
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
    with torch.no_grad():
        assert network.eval()(torch.randn(1, 5, 50, 70))["SOD"].shape == (1, 6, 50, 70)


def cost(network: nn.Module) -> tuple[int, int]:
    """Weights, and operations of a tile."""
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 5, 64, 64, device="meta"))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops()


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_chart_alone_costs_nothing_for_the_others(decoder: str) -> None:
    def built(shared: bool, *charts: str) -> Any:
        model = paired("unet" if decoder == "unet" else "resnet", decoder, charts=charts)
        assert model.decoder is not None
        with torch.device("meta"):
            return build_segmenter(replace(model, decoder=replace(model.decoder, shared=shared)), 5, 64)

    def weights(part: nn.Module) -> int:
        return sum(p.numel() for p in part.parameters())

    alone, apart, together = built(False, "SOD"), built(False, "SIC", "SOD", "FLOE"), built(True, "SIC", "SOD", "FLOE")
    # One decoder, one head of six classes.
    channels = alone.head("SOD").in_channels
    assert cost(alone) == cost(built(True, "SOD"))
    assert cost(alone)[0] == weights(together.encoder) + weights(together.decoder) + 6 * (channels + 1)
    assert weights(apart.decoder) == 3 * weights(alone.decoder)
    heads = [1 * (channels + 1), 7 * (channels + 1)]
    assert cost(together)[0] - cost(alone)[0] == sum(heads)
    assert cost(apart)[0] - cost(together)[0] == 2 * weights(alone.decoder)
    assert cost(alone)[1] < cost(together)[1] < cost(apart)[1]


def test_decoders_are_shared_or_stand_apart() -> None:
    assert isinstance(build_segmenter(small("light"), 4, 32).decoder, LightDecoder)
    assert isinstance(build_segmenter(small("unet"), 4, 32).decoder, UNetDecoder)
    apart = build_segmenter(small("upernet"), 4, 32).decoder
    assert isinstance(apart, nn.ModuleDict)
    assert [type(part) for part in apart.values()] == [UPerDecoder] * 3
    assert len({id(part) for part in apart.values()}) == 3


def test_another_kind_of_head_draws_no_other_weights_for_the_rest() -> None:
    models = []
    for sic in ("regression", "regression", "classification"):
        torch.manual_seed(0)
        models.append(build_segmenter(small("light", heads={"SIC": sic}), 4, 32).state_dict())
    first, again, other = models
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    rest = [name for name in first if not name.startswith("heads.")]
    assert all(torch.equal(first[name], other[name]) for name in rest)


def flops(decoder: str) -> float:
    model = config.build(ModelConfig, {"encoder": "vit_base_patch16_224", "decoder": decoder})
    with torch.device("meta"):
        network = build_segmenter(model, in_chans=24, tile=384)
        x = torch.empty(1, 24, 384, 384)
    with FlopCounterMode(display=False) as counter:
        network(x)
    return counter.get_total_flops() / 1e9


def test_cost_of_the_decoders() -> None:
    light, upernet = (flops(decoder) for decoder in ("light", "upernet"))
    # The figures of the networks that the two stand for: 121 and 1,753 GFLOP.
    assert light == pytest.approx(121, rel=0.02)
    assert upernet == pytest.approx(1753, rel=0.02)


def test_an_autoencoder_shares_its_encoder_with_a_segmenter() -> None:
    sizes = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    autoencoder = build_autoencoder(small("light"), 4, 32, 3, **sizes)
    prediction, _ = autoencoder(torch.randn(2, 4, 32, 32), torch.rand(2, 16), 0.75)
    assert prediction.shape == (2, 16, 8 * 8 * 3)
    encoder = build_encoder(small("light"), 4, 32)
    assert encoder.state_dict().keys() == autoencoder.encoder.state_dict().keys()


def test_an_encoder_that_cannot_be_built_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'model\.encoder\.patch_size' is 8; .*\(36 pixels\)"):
        build_segmenter(small("light"), 4, 36)

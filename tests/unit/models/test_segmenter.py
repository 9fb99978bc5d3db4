from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.flop_counter import FlopCounterMode

from arcticseg.errors import ConfigError
from arcticseg.models.build import build_segmenter
from arcticseg.models.encoders.vit import build_vit
from arcticseg.models.mae import MaskedAutoencoder
from arcticseg.models.segmenter import Segmenter
from arcticseg.models.weights import load_encoder

TINY: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
KINDS: dict[str, dict[str, Any]] = {
    "light": {"encoder": "vit_tiny_patch16_224", "decoder": "light", "decoder_channels": 16, **TINY},
    "upernet": {"encoder": "vit_tiny_patch16_224", "decoder": "upernet", "decoder_channels": 16, **TINY},
    "unet": {"encoder": "unet", "unet_filters": (8, 8, 12)},
}


def build(kind: str, **changes: Any) -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter(in_chans=4, img_size=32, **(KINDS[kind] | changes))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (33, 50), (7, 9)])
@pytest.mark.parametrize(("sic", "channels"), [("regression", 1), ("classification", 11)])
def test_shapes(kind: str, size: tuple[int, int], sic: str, channels: int) -> None:
    logits = build(kind, sic=sic)(torch.randn(2, 4, *size))
    assert {chart: tuple(x.shape) for chart, x in logits.items()} == {
        "SIC": (2, channels, *size),
        "SOD": (2, 6, *size),
        "FLOE": (2, 7, *size),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind: str) -> None:
    model = build(kind)
    sum(x.square().mean() for x in model(torch.randn(2, 4, 32, 32)).values()).backward()  # type: ignore[union-attr]
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_sample_depends_on_its_batch(kind: str) -> None:
    model, x = build(kind).train(), torch.randn(3, 4, 32, 32)
    assert not [m for m in model.modules() if isinstance(m, _NormBase)]
    whole, alone = model(x), model(x[1:2])
    for chart, value in alone.items():
        torch.testing.assert_close(whole[chart][1:2], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_weights_and_gradients(kind: str) -> None:
    x, grads = torch.randn(2, 4, 32, 32), []
    for _ in range(2):
        model = build(kind)
        sum(y.square().mean() for y in model(x).values()).backward()  # type: ignore[union-attr]
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_filling_up_equals_zeros_appended(kind: str) -> None:
    model, x = build(kind).eval(), torch.randn(1, 4, 28, 32)
    by_hand = torch.cat([x, torch.zeros(1, 4, 4, 32)], dim=2)
    for chart, value in model(x).items():
        torch.testing.assert_close(value, model(by_hand)[chart][:, :, :28], rtol=0, atol=0)


def test_first_sic_is_mid_range_and_odds_are_near_equal() -> None:
    logits = build("light")(torch.randn(2, 4, 32, 32))
    assert (logits["SIC"] - 5).abs().max() < 1
    assert logits["SOD"].softmax(dim=1).sub(1 / 6).abs().max() < 0.1


def test_a_small_task_is_learned() -> None:
    # Left half one stage of development, right half another, told apart by the input: a minute's sanity check that
    # gradients reach what they should, in the direction that they should.
    model = build("unet")
    x = torch.zeros(2, 4, 32, 32)
    x[..., 16:] = 1
    target = torch.zeros(2, 32, 32, dtype=torch.long)
    target[..., 16:] = 3
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(x)["SOD"], target)
        loss.backward()
        optimiser.step()
    assert (model(x)["SOD"].argmax(dim=1) == target).float().mean() > 0.95


def flops(encoder: str, decoder: str) -> float:
    with torch.device("meta"):
        model = build_segmenter(encoder, in_chans=24, img_size=384, decoder=decoder)
        x = torch.empty(1, 24, 384, 384)
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() / 1e9


def test_cost_of_the_decoders() -> None:
    light, upernet = (flops("vit_base_patch16_224", decoder) for decoder in ("light", "upernet"))
    # The figures of the networks that the two stand for: 121 and 1,753 GFLOP.
    assert light == pytest.approx(121, rel=0.02)
    assert upernet == pytest.approx(1753, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": "heavy"}, "decoder 'heavy'"),
        ({"sic": "both"}, "sic 'both'"),
        ({"decoder_channels": 6}, "decoder_channels 6"),
    ],
)
def test_what_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("light", **changes)


def test_unet_without_filters() -> None:
    with pytest.raises(ConfigError, match="unet_filters"):
        build("unet", unet_filters=())


def pretrained(**changes: Any) -> dict[str, torch.Tensor]:
    sizes = {"in_chans": 4, "img_size": 32, **TINY} | changes
    mae = MaskedAutoencoder(build_vit("vit_tiny_patch16_224", **sizes), 2, 16, 1, 2)
    return {name: value + 1 for name, value in mae.state_dict().items()}


def test_load_encoder_takes_the_encoder_and_nothing_else() -> None:
    model, theirs = build("light"), pretrained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loaded = load_encoder(model, theirs, "mae.pt")
    assert sorted(loaded) == sorted(name for name in before if name.startswith("encoder."))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, theirs[name] if name in loaded else before[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_chans": 5}, r"mae\.pt: encoder\.patch_embed\.proj\.weight has shape \(32, 5, 8, 8\).*input channels"),
        ({"img_size": 64}, r"encoder\.pos_embed has shape \(1, 65, 32\).*tile"),
        ({"depth": 5}, r"unknown \(encoder\.blocks\.4"),
        ({"depth": 3}, r"missing \(encoder\.blocks\.3"),
    ],
)
def test_load_encoder_refuses_another_encoder(changes: dict[str, int], message: str) -> None:
    model = build("light")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        load_encoder(model, pretrained(**changes), "mae.pt")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_load_encoder_from_a_file_without_one() -> None:
    with pytest.raises(ConfigError, match="no encoder weights"):
        load_encoder(build("light"), {"weight": torch.zeros(1)}, "other.pt")

"""Adapters beside the encoder's linear maps."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn

from arcticseg import config
from arcticseg.engine.weights import network_weights
from arcticseg.errors import BadValueError
from arcticseg.models.build import build_autoencoder, build_segmenter
from arcticseg.models.config import LoRAConfig, ModelConfig
from arcticseg.models.frozen import let_learn
from arcticseg.models.lora import adapt, merged
from arcticseg.models.segmenter import Segmenter
from arcticseg.models.weights import load_encoder
from arcticseg.tasks.task import Objective
from tests.networks import small
from tests.unit.engine.trainings import Halving

LORA = {"rank": 3, "alpha": 12.0}


def plain() -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter(small("light"), 4, 32)


def adapted(cfg: LoRAConfig | None = None) -> Segmenter:
    network = plain()
    adapt(network, cfg or LoRAConfig(**LORA), seed=1)
    return network


def trained(network: nn.Module) -> None:
    """Move all that learns, as far as a training may."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn_like(parameter)


def metadata(model: ModelConfig) -> Mapping[str, str]:
    return {"config": json.dumps({"model": config.to_dict(model)})}


def test_an_adapted_network_begins_as_the_plain_one_and_asks_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    before, network = plain().eval(), adapted().eval()
    x = torch.randn(2, 4, 32, 32)
    for chart, output in network(x).items():
        assert torch.equal(output, before(x)[chart])
    kept = {name.replace(".base_layer.", "."): value for name, value in network.state_dict().items()}
    assert all(torch.equal(kept[name], value) for name, value in before.state_dict().items())


def test_its_adapters_follow_from_the_seed() -> None:
    names = [name for name, _ in adapted().named_parameters() if "lora_A" in name]
    assert len(names) == 4 * 4
    state, again, other = adapted().state_dict(), adapted().state_dict(), plain()
    adapt(other, LoRAConfig(**LORA), seed=3)
    assert all(torch.equal(state[name], again[name]) for name in names)
    assert not any(torch.equal(state[name], other.state_dict()[name]) for name in names)


def by_hand(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """W + 12/3 B A of the maps with adapters."""
    out = {}
    for name, value in plain().state_dict().items():
        stem, _, last = name.rpartition(".")
        if f"{stem}.lora_A.default.weight" in tensors and last == "weight":
            value = value + 4 * tensors[f"{stem}.lora_B.default.weight"] @ tensors[f"{stem}.lora_A.default.weight"]
        out[name] = value
    return out


@pytest.mark.parametrize("owns", [False, True], ids=["plain", "with_a_task"])
def test_merged_it_is_the_same_network_under_the_plain_names(owns: bool) -> None:
    network = adapted()
    let_learn(network, small("light", lora=LORA), 1, "none")
    for name, parameter in network.named_parameters():
        if not name.startswith("encoder."):
            parameter.requires_grad_(False)
    trained(network)
    wrapped = Objective(network, Halving()) if owns else network
    weights = network_weights(wrapped.state_dict(), metadata(small("light", lora=LORA)))
    expected, before = by_hand(network.state_dict()), plain().eval()
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-5)
    x = torch.randn(2, 4, 32, 32)
    outputs, started = network.eval()(x), before(x)
    before.load_state_dict(weights)
    for chart, output in before(x).items():
        torch.testing.assert_close(output, outputs[chart], rtol=1e-5, atol=1e-5)
        assert (output - started[chart]).abs().max() > 1e-3


def test_after_the_start_from_weights_every_tensor_is_theirs_bit_for_bit() -> None:
    """Also merged again, before the first step; what is frozen, too."""
    mae = build_autoencoder(small("light"), 4, 32, 2, decoder_dim=16, decoder_depth=1, decoder_heads=2)
    theirs = {name: value for name, value in mae.state_dict().items() if name.startswith("encoder.")}
    for changes, frozen in (({"lora": LORA}, "none"), ({"lora": LORA}, 2), ({}, "encoder"), ({}, 3)):
        network, cfg = plain(), small("light", **changes)
        assert not all(torch.equal(network.state_dict()[name], value) for name, value in theirs.items())
        load_encoder(network, mae.state_dict(), "mae")
        let_learn(network, cfg, 0, frozen)
        weights = network_weights(network.state_dict(), metadata(cfg))
        assert weights.keys() == plain().state_dict().keys()
        assert all(torch.equal(weights[name], value) for name, value in theirs.items())


def test_without_adapters_tensors_stay_as_they_are() -> None:
    tensors = plain().state_dict()
    assert merged(tensors, None) == dict(tensors)


def test_the_encoders_own_weights_do_not_learn() -> None:
    network = plain()
    let_learn(network, small("light", lora=LORA), 0, "none")
    learning = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {name for name in learning if name.startswith("encoder.")} == {
        name for name, _ in network.named_parameters() if "lora_" in name
    }
    assert {name for name, _ in network.named_parameters() if not name.startswith("encoder.")} < learning


def test_maps_that_the_encoder_lacks_are_refused() -> None:
    with pytest.raises(
        BadValueError, match=r"'model.lora.targets' is \['attn.q'\]; .*ViTEncoder has none of the name attn.q"
    ):
        adapt(plain(), LoRAConfig(targets=("attn.q",)), 0)
    with pytest.raises(BadValueError, match=r"UNetEncoder has none of the name attn.qkv"):
        adapt(build_segmenter(small("unet"), 4, 32), LoRAConfig(), 0)

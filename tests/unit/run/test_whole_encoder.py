"""Before the first step every tensor of an encoder is that of the weights it starts from, whatever encoder it is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from arcticseg import config
from arcticseg.engine.weights import write_weights
from arcticseg.errors import ConfigError
from arcticseg.models.frozen import let_learn
from arcticseg.models.torchvision_compat import ensure_torchvision
from arcticseg.run import build
from arcticseg.run import config as run_config
from arcticseg.run.config import RunConfig

ensure_torchvision()
import timm

TILE = 64
SETS: Any = [SimpleNamespace(manifest=SimpleNamespace(tile=TILE, factors=(2,)))]
VIT: dict[str, Any] = {"name": "vit_tiny_patch16_224", "embed_dim": 32, "depth": 2, "num_heads": 2}
ENCODERS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "unet": {"name": "unet", "filters": [4, 8, 8]},
    "resnet": {"name": "resnet18d"},
    "convnext": {"name": "convnext_atto"},
    "mit": {"name": "mit_b0"},
}
# The tensor that the input planes go into.
FIRST = {
    "vit": "patch_embed.proj.weight",
    "unet": "levels.0.0.0.weight",
    "resnet": "network.conv1.0.weight",
    "convnext": "network.stem_0.weight",
    "mit": "patch_embed1.proj.weight",
}


def config_of(encoder: dict[str, Any], channels: list[str], model: dict[str, Any], seed: int = 1) -> RunConfig:
    data = {"shards": "shards", "channels": channels}
    return run_config.build(
        [{"epochs": 1, "out": "o", "seed": seed, "data": data, "model": {"encoder": encoder} | model}]
    )


def write_run(path: Path, encoder: dict[str, Any], channels: list[str]) -> Any:
    """The weights of a run; gives its network."""
    cfg = config_of(encoder, channels, {})
    network = build.build_model(cfg, TILE)
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.2)
    facts = {"config": config.to_dict(cfg), "statistics": {}, "tile": TILE, "factors": [2], "simulated": True}
    write_weights(path, network.state_dict(), {key: json.dumps(value) for key, value in facts.items()})
    return network


def start(path: Path, encoder: dict[str, Any], channels: list[str], **model: Any) -> tuple[Any, list[str]]:
    cfg = config_of(encoder, channels, {"init_from": str(path)} | model, seed=2)
    network = build.build_model(cfg, TILE)
    told: list[str] = []
    build.initialise(cfg, network, SETS, told.append, told.append)
    let_learn(network, cfg.model, cfg.seed, cfg.model.frozen)
    return network, told


def same(theirs: Any, ours: Any, but: str | None = None) -> None:
    expected, given = theirs.encoder.state_dict(), ours.encoder.state_dict()
    assert expected.keys() == {name.replace(".base_layer.", ".") for name in given if ".lora_" not in name}
    for name, value in given.items():
        plain = name.replace(".base_layer.", ".")
        assert ".lora_" in name or plain == but or torch.equal(value, expected[plain]), name


@pytest.mark.parametrize("kind", ENCODERS)
def test_of_a_run_of_this_project(kind: str, tmp_path: Path) -> None:
    theirs = write_run(tmp_path / "w.safetensors", ENCODERS[kind], ["hh", "hv"])
    ours, told = start(tmp_path / "w.safetensors", ENCODERS[kind], ["hh", "hv"], frozen="encoder")
    same(theirs, ours)
    count = len(theirs.encoder.state_dict())
    taken = f"{count} of {count} tensors of the encoder are taken as they are, 0 adapted"
    assert told == [f"{tmp_path}/w.safetensors: {taken}"]


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("rule", ["mean", "zero"])
def test_with_other_channels(kind: str, rule: str, tmp_path: Path) -> None:
    theirs = write_run(tmp_path / "w.safetensors", ENCODERS[kind], ["hh", "incidence", "hv"])
    wanted = ["hv", "distance", "hh"]
    ours, told = start(tmp_path / "w.safetensors", ENCODERS[kind], wanted, init_adapt=rule)
    same(theirs, ours, but=FIRST[kind])
    before, now = (network.encoder.state_dict()[FIRST[kind]] for network in (theirs, ours))
    # hh, incidence, hv, valid before; hv, distance, hh, valid now.
    mean = (before[:, 0] + before[:, 1] + before[:, 2]) / 3
    expected = [before[:, 2], mean if rule == "mean" else 0 * mean, before[:, 0], before[:, 3]]
    torch.testing.assert_close(now, torch.stack(expected, dim=1), rtol=1e-6, atol=1e-7)
    assert "left out: sar_incidenceangle" in " ".join(told)
    with pytest.raises(ConfigError, match=r"key 'data\.channels' is \['hv', 'distance', 'hh'\]; .*: set the same"):
        start(tmp_path / "w.safetensors", ENCODERS[kind], wanted)


def test_through_adapters_and_frozen_blocks(tmp_path: Path) -> None:
    theirs = write_run(tmp_path / "w.safetensors", VIT, ["hh", "hv"])
    ours, _ = start(tmp_path / "w.safetensors", VIT, ["hh", "hv"], lora={"rank": 2})
    assert any(".lora_A." in name for name, _ in ours.named_parameters())
    same(theirs, ours)
    x = torch.randn(1, 3, TILE, TILE)
    torch.testing.assert_close(ours.eval().encoder(x)[-1], theirs.eval().encoder(x)[-1])
    ours, _ = start(tmp_path / "w.safetensors", VIT, ["hv", "hh"], frozen=1, init_adapt="zero")
    same(theirs, ours, but=FIRST["vit"])
    swapped = theirs.encoder.patch_embed.proj.weight[:, [1, 0, 2]]
    assert torch.equal(ours.encoder.patch_embed.proj.weight, swapped)


@pytest.mark.parametrize("name", ["resnet18d", "convnext_atto"])
def test_of_a_whole_network_of_timm(name: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    network = timm.create_model(name, in_chans=3, num_classes=7)
    torch.save(network.state_dict(), tmp_path / "w.bin")
    channels = ["hh", "hv"]
    ours, told = start(tmp_path / "w.bin", {"name": name}, channels, init_channels=["hh", "hv", "valid"])
    theirs = network.state_dict()
    for key, value in ours.encoder.state_dict().items():
        plain = key.removeprefix("network.")
        plain = plain if plain in theirs else plain.replace("stem_", "stem.").replace("stages_", "stages.")
        assert torch.equal(value, theirs[plain]), key
    heads = {"resnet18d": 2, "convnext_atto": 4}
    assert any(f"{heads[name]} other tensors are left" in text for text in told)
    x = torch.randn(1, 3, TILE, TILE)
    features = timm.create_model(name, in_chans=3, features_only=True).eval()
    features.load_state_dict(ours.encoder.network.state_dict())
    torch.testing.assert_close(ours.encoder.eval()(x)[-1], features(x)[-1])


def test_positions_of_another_tile_are_interpolated(tmp_path: Path) -> None:
    from timm.layers import resample_abs_pos_embed

    theirs = write_run(tmp_path / "w.safetensors", VIT, ["hh", "hv"])
    cfg = config_of(VIT, ["hh", "hv"], {"init_from": str(tmp_path / "w.safetensors")})
    ours = build.build_model(cfg, 96)
    told: list[str] = []
    sets: Any = [SimpleNamespace(manifest=SimpleNamespace(tile=96, factors=(2,)))]
    build.initialise(cfg, ours, sets, told.append)
    wanted = resample_abs_pos_embed(theirs.encoder.pos_embed, [6, 6], [4, 4], num_prefix_tokens=1)
    assert torch.equal(ours.encoder.pos_embed, wanted)
    assert told == [f"tiles have 96 pixels; {tmp_path}/w.safetensors has learnt from tiles of 64"]

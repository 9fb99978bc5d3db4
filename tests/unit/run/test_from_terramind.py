"""TerraMind's encoder, by its own names and written out here as its authors define it."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from torch import Tensor

from arcticseg.errors import ConfigError
from arcticseg.run import build
from arcticseg.run import config as run_config

WIDTH, DEPTH, HEADS, PATCH, TILE = 48, 2, 3, 16, 64
HIDDEN = int(2 * (4 * WIDTH) / 3)
SENTINEL = "encoder_embeddings.untok_sen1grd@224"
SETS: Any = [SimpleNamespace(manifest=SimpleNamespace(tile=TILE, factors=(2,)))]
Weights = dict[str, Tensor]


def weights_of(edge: int = TILE) -> Weights:
    """Random weights: an encoder with two kinds of input, a decoder, and biases of norms that are buffers of 0."""
    random = torch.Generator().manual_seed(5)
    weights: Weights = {}

    def draw(name: str, *shape: int) -> None:
        weights[name] = 0.3 * torch.randn(*shape, generator=random)

    for kind, planes in (("sen1grd", 2), ("sen2l2a", 12)):
        name = f"encoder_embeddings.untok_{kind}@224"
        draw(f"{name}.proj.weight", WIDTH, planes * PATCH**2)
        draw(f"{name}.mod_emb", 1, 1, WIDTH)
        draw(f"{name}.pos_emb", 1, (edge // PATCH) ** 2, WIDTH)
    for i in range(DEPTH):
        for norm in ("norm1", "norm2"):
            draw(f"encoder.{i}.{norm}.weight", WIDTH)
            weights[f"encoder.{i}.{norm}.bias"] = torch.zeros(WIDTH)
        draw(f"encoder.{i}.attn.qkv.weight", 3 * WIDTH, WIDTH)
        draw(f"encoder.{i}.attn.proj.weight", WIDTH, WIDTH)
        draw(f"encoder.{i}.mlp.fc1.weight", HIDDEN, WIDTH)
        draw(f"encoder.{i}.mlp.fc2.weight", WIDTH, HIDDEN)
        draw(f"encoder.{i}.mlp.fc3.weight", HIDDEN, WIDTH)
    draw("encoder_norm.weight", WIDTH)
    weights["encoder_norm.bias"] = torch.zeros(WIDTH)
    draw("decoder.0.norm1.weight", WIDTH)
    draw("decoder_embeddings.tok_sen1grd@224.token_emb.weight", 7, WIDTH)
    draw("mask_token", 1, 1, WIDTH)
    return weights


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt() * weight


def features(image: Tensor, weights: Weights) -> Tensor:
    """Image [2, H, W] -> tokens [L, WIDTH]."""
    rows, columns = image.shape[1] // PATCH, image.shape[2] // PATCH
    cells = []
    for row in range(rows):
        for column in range(columns):
            cell = image[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
            cells.append(cell.permute(1, 2, 0).reshape(-1))
    x = torch.stack(cells) @ weights[f"{SENTINEL}.proj.weight"].T
    x = x + weights[f"{SENTINEL}.pos_emb"][0] + weights[f"{SENTINEL}.mod_emb"][0]
    size = WIDTH // HEADS
    for i in range(DEPTH):
        own = {name.removeprefix(f"encoder.{i}."): value for name, value in weights.items()}
        q, k, v = (norm(x, own["norm1.weight"]) @ own["attn.qkv.weight"].T).chunk(3, dim=1)
        heads = [slice(head * size, (head + 1) * size) for head in range(HEADS)]
        mixed = [(q[:, h] @ k[:, h].T / math.sqrt(size)).softmax(1) @ v[:, h] for h in heads]
        x = x + torch.cat(mixed, 1) @ own["attn.proj.weight"].T
        y = norm(x, own["norm2.weight"])
        x = x + (F.silu(y @ own["mlp.fc1.weight"].T) * (y @ own["mlp.fc3.weight"].T)) @ own["mlp.fc2.weight"].T
    return norm(x, weights["encoder_norm.weight"])


def start(path: Path, **model: Any) -> tuple[Any, list[str]]:
    encoder = {"name": "terramind_v1_base", "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    data = {"shards": "shards", "channels": ["hh", "hv"], "valid_plane": False}
    keys = {"epochs": 1, "out": "o", "data": data, "model": {"encoder": encoder, "init_from": str(path)} | model}
    cfg = run_config.build([keys])
    network = build.build_model(cfg, TILE).eval()
    told: list[str] = []
    build.initialise(cfg, network, SETS, told.append, told.append)
    return network, told


def test_the_encoder_computes_what_terramind_does(tmp_path: Path) -> None:
    weights = weights_of()
    torch.save(weights, tmp_path / "t.pt")
    network, told = start(tmp_path / "t.pt", init_channels=["hh", "hv"])
    state = network.encoder.state_dict()
    expected = {
        "patch_embed.proj.bias": weights[f"{SENTINEL}.mod_emb"][0, 0],
        "patch_embed.proj.weight": weights[f"{SENTINEL}.proj.weight"].reshape(WIDTH, 16, 16, 2).permute(0, 3, 1, 2),
        "pos_embed": weights[f"{SENTINEL}.pos_emb"],
        "norm.weight": weights["encoder_norm.weight"],
        "norm.bias": torch.zeros(WIDTH),
    }
    for i in range(DEPTH):
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.qkv.weight", "attn.proj.weight"):
            expected[f"blocks.{i}.{name}"] = weights[f"encoder.{i}.{name}"]
        for ours, theirs in (("fc1_g", "fc1"), ("fc1_x", "fc3"), ("fc2", "fc2")):
            expected[f"blocks.{i}.mlp.{ours}.weight"] = weights[f"encoder.{i}.mlp.{theirs}.weight"]
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name
    image = torch.randn(2, TILE, TILE)
    ours = network.encoder(image[None])[-1][0].flatten(1).T
    torch.testing.assert_close(ours, features(image, weights), rtol=1e-4, atol=1e-4)
    assert any("other tensors are left" in text for text in told)


def test_vv_and_vh_are_not_taken_for_hh_and_hv_unasked(tmp_path: Path) -> None:
    torch.save(weights_of(), tmp_path / "t.pt")
    with pytest.raises(ConfigError, match=r"'model\.init_adapt' is None; .* the planes vv, vh, and"):
        start(tmp_path / "t.pt")
    _, told = start(tmp_path / "t.pt", init_adapt="mean")
    assert any("VV and VH in dB" in text for text in told)


def test_weights_without_that_input_are_refused(tmp_path: Path) -> None:
    weights = {name: value for name, value in weights_of().items() if "sen1grd@224.p" not in name}
    torch.save(weights, tmp_path / "t.pt")
    with pytest.raises(ConfigError, match=r"t\.pt: another encoder: 2 weights missing \(encoder\.patch_embed"):
        start(tmp_path / "t.pt", init_channels=["hh", "hv"])


def test_a_plain_transformer_is_another_encoder(tmp_path: Path) -> None:
    torch.save(weights_of(), tmp_path / "t.pt")
    plain = {"name": "vit_base_patch16_gap_224", "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    with pytest.raises(ConfigError, match=r"blocks\.0\.mlp\.fc2\.weight has shape \(48, 128\)"):
        start(tmp_path / "t.pt", encoder=plain, init_channels=["hh", "hv"])

"""Weights of other projects' layouts, as those projects write them, start a run's encoder."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file
from torch import Tensor

from arcticseg.errors import ConfigError
from arcticseg.models.torchvision_compat import ensure_torchvision
from arcticseg.run import build
from arcticseg.run import config as run_config
from arcticseg.run.config import RunConfig

ensure_torchvision()
import timm

SIZES: dict[str, Any] = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
TILE = 64
SETS: Any = [SimpleNamespace(manifest=SimpleNamespace(tile=TILE, factors=(2,)))]
Weights = dict[str, Tensor]

# What mmpretrain calls the tensors of a vision transformer that timm calls by the names on the left, in mmpretrain's
# own `VisionTransformer`, and the decoder of mmselfsup's `MAEPretrainDecoder` beside that of facebookresearch/mae.
MM_BLOCK = {
    "norm1.weight": "ln1.weight",
    "norm1.bias": "ln1.bias",
    "attn.qkv.weight": "attn.qkv.weight",
    "attn.qkv.bias": "attn.qkv.bias",
    "attn.proj.weight": "attn.proj.weight",
    "attn.proj.bias": "attn.proj.bias",
    "norm2.weight": "ln2.weight",
    "norm2.bias": "ln2.bias",
    "mlp.fc1.weight": "ffn.layers.0.0.weight",
    "mlp.fc1.bias": "ffn.layers.0.0.bias",
    "mlp.fc2.weight": "ffn.layers.1.weight",
    "mlp.fc2.bias": "ffn.layers.1.bias",
}
MMSEG_BLOCK = MM_BLOCK | {
    "attn.qkv.weight": "attn.attn.in_proj_weight",
    "attn.qkv.bias": "attn.attn.in_proj_bias",
    "attn.proj.weight": "attn.attn.out_proj.weight",
    "attn.proj.bias": "attn.attn.out_proj.bias",
}
MM_REST = {
    "cls_token": "cls_token",
    "pos_embed": "pos_embed",
    "patch_embed.proj.weight": "patch_embed.projection.weight",
    "patch_embed.proj.bias": "patch_embed.projection.bias",
    "norm.weight": "ln1.weight",
    "norm.bias": "ln1.bias",
}
MM_NECK = {
    "mask_token": "mask_token",
    "decoder_embed.weight": "decoder_embed.weight",
    "decoder_embed.bias": "decoder_embed.bias",
    "decoder_pos_embed": "decoder_pos_embed",
    "decoder_norm.weight": "ln1.weight",
    "decoder_norm.bias": "ln1.bias",
    "decoder_pred.weight": "decoder_pred.weight",
    "decoder_pred.bias": "decoder_pred.bias",
}


def source(planes: int = 2, edge: int = TILE, **changes: Any) -> Any:
    """A network of timm with random weights and random positions, that sees `planes` planes."""
    torch.manual_seed(7)
    sizes = SIZES | changes
    network = timm.create_model(
        sizes.pop("name", "vit_tiny_patch16_224"), in_chans=planes, img_size=edge, num_classes=5, **sizes
    )
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return network.eval()


def mae_decoder(width: int = 32, planes: int = 2) -> Weights:
    """A decoder as facebookresearch/mae names it: 16 wide, 1 block."""
    random = torch.Generator().manual_seed(3)
    block = timm.models.vision_transformer.Block(16, 2, qkv_bias=True).state_dict()
    shapes = {f"decoder_blocks.0.{name}": value.shape for name, value in block.items()}
    shapes |= {"mask_token": (1, 1, 16), "decoder_embed.weight": (16, width), "decoder_embed.bias": (16,)}
    shapes |= {"decoder_pos_embed": (1, 17, 16), "decoder_norm.weight": (16,), "decoder_norm.bias": (16,)}
    shapes |= {"decoder_pred.weight": (256 * planes, 16), "decoder_pred.bias": (256 * planes,)}
    return {name: torch.randn(*shape, generator=random) for name, shape in shapes.items()}


def encoder_of(network: Any) -> Weights:
    return {name: value for name, value in network.state_dict().items() if not name.startswith("head.")}


def as_openmmlab(weights: Weights, block: dict[str, str] = MM_BLOCK, prefix: str = "backbone.") -> Weights:
    out = {}
    for name, value in weights.items():
        match = re.fullmatch(r"(decoder_)?blocks\.(\d+)\.(.+)", name)
        if match and match[1]:
            out[f"neck.decoder_blocks.{match[2]}.{MM_BLOCK[match[3]]}"] = value
        elif match:
            out[f"{prefix}layers.{match[2]}.{block[match[3]]}"] = value
        elif name in MM_NECK:
            out[f"neck.{MM_NECK[name]}"] = value
        else:
            out[prefix + MM_REST[name]] = value
    return out


def as_prithvi(weights: Weights, dates: int, version: int) -> Weights:
    """Conv3d patches, fixed positions of all dates behind one another: channels 0 to 11 of 16 the place, then time."""
    out = dict(weights)
    out["patch_embed.proj.weight"] = weights["patch_embed.proj.weight"][:, :, None]
    first, place = weights["pos_embed"][:, :1], weights["pos_embed"][:, 1:]
    width = place.shape[-1]
    frames = []
    for date in range(dates):
        frame = place.clone()
        frame[..., width // 16 * 12 :] += date
        frames.append(frame)
    out["pos_embed"] = torch.cat([first, *frames], dim=1)
    out["temporal_embed_enc.scale"] = torch.ones(1)
    decoder = mae_decoder()
    if version == 1:
        return out | decoder
    return {f"encoder.{name}": value for name, value in out.items()} | {
        f"decoder.{name}": value for name, value in decoder.items()
    }


def config_of(path: Path | None, **more: Any) -> RunConfig:
    model: dict[str, Any] = {"encoder": {"name": "vit_tiny_patch16_224"} | SIZES}
    model |= {} if path is None else {"init_from": str(path)}
    data = {"shards": "shards", "channels": ["hh", "hv"], "valid_plane": False}
    keys: dict[str, Any] = {"epochs": 1, "out": "run", "model": model | more.pop("model", {})}
    return run_config.build([keys | {"data": data | more.pop("data", {})} | more])


def start(path: Path, **more: Any) -> tuple[Any, list[str], list[str]]:
    """The network of a run that starts from a file; warnings; notes."""
    cfg = config_of(path, **more)
    model = build.build_model(cfg, TILE).eval()
    warnings: list[str] = []
    notes: list[str] = []
    build.initialise(cfg, model, SETS, warnings.append, notes.append)
    return model, warnings, notes


HH_HV = {"init_channels": ["hh", "hv"]}
MAE = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "targets": ["hh", "hv"]}


def save(weights: Weights, path: Path, **beside: Any) -> Path:
    torch.save({"state_dict": weights} | beside if beside else weights, path)
    return path


def public_mae(network: Any, path: Path) -> Path:
    torch.save({"model": encoder_of(network) | mae_decoder()}, path)
    return path


WRITERS: dict[str, Any] = {
    "timm.safetensors": lambda network, path: save_file(network.state_dict(), path),
    "timm.bin": lambda network, path: torch.save(network.state_dict(), path),
    "old.pth": lambda network, path: torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False),
    "timm_trainer.pth": lambda network, path: save(network.state_dict(), path, epoch=3, arch="vit"),
    "ddp.pth": lambda network, path: save({f"module.{k}": v for k, v in network.state_dict().items()}, path, epoch=1),
    "mae.pth": public_mae,
    "mmselfsup.pth": lambda network, path: save(as_openmmlab(encoder_of(network) | mae_decoder()), path, meta={"a": 1}),
    "mmpretrain.pth": lambda network, path: save(as_openmmlab(encoder_of(network), prefix=""), path),
    "mmseg.pth": lambda network, path: save(
        as_openmmlab(encoder_of(network), MMSEG_BLOCK) | {"decode_head.conv_seg.weight": torch.ones(3)}, path, meta={}
    ),
    "prithvi_v1.pt": lambda network, path: save(as_prithvi(encoder_of(network), 3, 1), path),
    "prithvi_v2.pt": lambda network, path: save(as_prithvi(encoder_of(network), 4, 2), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_tensor_of_the_encoder_is_that_of_the_file(name: str, tmp_path: Path) -> None:
    network, path = source(), tmp_path / name
    WRITERS[name](network, path)
    model, warnings, notes = start(path, model=HH_HV)
    given, expected = model.encoder.state_dict(), encoder_of(network)
    assert given.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(given[key], value), key
    x = torch.randn(2, 2, TILE, TILE)
    features = network.forward_features(x)[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(model.encoder(x)[-1], features)
    assert f"{len(expected)} of {len(expected)} tensors of the encoder are taken as they are, 0 adapted" in notes[1]
    assert any("says nothing of the statistics" in text and "2 attention heads" in text for text in warnings)
    assert any("norms add 1e-06" in text for text in warnings) == ("prithvi" in name)
    if "prithvi" in name:
        assert "patches" not in " ".join(notes)


@pytest.mark.parametrize("name", ["mae.pth", "mmselfsup.pth"])
def test_a_pretraining_takes_the_decoder_too(name: str, tmp_path: Path) -> None:
    network, path = source(), tmp_path / name
    WRITERS[name](network, path)
    model, _, notes = start(path, model=HH_HV, task="pretrain", pretrain=MAE)
    expected = mae_decoder()
    del expected["decoder_pos_embed"]
    state = model.state_dict()
    for key, value in expected.items():
        assert torch.equal(state[key], value), key
    assert any(text.endswith("19 tensors of the decoder are taken") for text in notes)
    # Targets in another order: rows of the last layer are (row, column, plane).
    swapped = MAE | {"targets": ["hv", "hh"]}
    model, _, _ = start(path, model=HH_HV, task="pretrain", pretrain=swapped)
    rows = expected["decoder_pred.weight"].reshape(16, 16, 2, 16)
    assert torch.equal(model.decoder_pred.weight.reshape(16, 16, 2, 16), rows[:, :, [1, 0]])
    # A decoder of another depth is left, and the encoder taken all the same.
    model, _, notes = start(path, model=HH_HV, task="pretrain", pretrain=MAE | {"decoder_depth": 2})
    assert any("its decoder is another than ours" in text for text in notes)
    assert torch.equal(model.encoder.cls_token, network.cls_token)


def test_positions_are_interpolated_and_patches_resampled(tmp_path: Path) -> None:
    from timm.layers import resample_abs_pos_embed, resample_patch_embed

    network = source(edge=32, patch_size=8)
    path = save(network.state_dict(), tmp_path / "w.pth")
    model, _, notes = start(path, model=HH_HV)
    wanted = resample_abs_pos_embed(network.pos_embed, [4, 4], [4, 4], num_prefix_tokens=1)
    assert torch.equal(model.encoder.pos_embed, wanted)
    kernel = resample_patch_embed(network.patch_embed.proj.weight, [16, 16])
    assert torch.equal(model.encoder.patch_embed.proj.weight, kernel)
    assert any("patches of 8 x 8 pixels are resampled to 16 x 16" in text for text in notes)
    network = source(edge=48)
    path = save(network.state_dict(), tmp_path / "w.pth")
    model, _, notes = start(path, model=HH_HV)
    wanted = resample_abs_pos_embed(network.pos_embed, [4, 4], [3, 3], num_prefix_tokens=1)
    assert torch.equal(model.encoder.pos_embed, wanted)
    assert torch.equal(model.encoder.pos_embed[:, 0], network.pos_embed[:, 0])
    assert any("interpolated from 3 x 3 to 4 x 4 patches" in text for text in notes)
    rest = encoder_of(network).keys() - {"pos_embed"}
    assert all(torch.equal(model.encoder.state_dict()[name], network.state_dict()[name]) for name in rest)


@pytest.mark.parametrize("rule", ["mean", "zero"])
def test_planes_are_matched_by_name(rule: str, tmp_path: Path) -> None:
    network = source(planes=4)
    path = save(network.state_dict(), tmp_path / "w.pth")
    model = {"init_channels": ["valid", "hv", "red", "hh"], "init_adapt": rule}
    data = {"channels": ["hh", "incidence", "hv"], "valid_plane": True}
    ours, _, notes = start(path, model=model, data=data)
    theirs, own = network.patch_embed.proj.weight, ours.encoder.patch_embed.proj.weight
    blank = torch.zeros_like(theirs[:, 0])
    new = (theirs[:, 1] + theirs[:, 2] + theirs[:, 3]) / 3 if rule == "mean" else blank
    for plane, wanted in enumerate([theirs[:, 3], new, theirs[:, 1], theirs[:, 0]]):
        torch.testing.assert_close(own[:, plane], wanted, rtol=1e-6, atol=1e-7)
    rest = encoder_of(network).keys() - {"patch_embed.proj.weight"}
    assert all(torch.equal(ours.encoder.state_dict()[name], network.state_dict()[name]) for name in rest)
    (text,) = (text for text in notes if "planes that it has" in text)
    assert "nersc_sar_primary, nersc_sar_secondary, valid" in text
    assert "sar_incidenceangle" in text
    assert text.endswith("left out: red")


def test_a_flag_that_the_source_lacks_starts_from_zero(tmp_path: Path) -> None:
    path = save(source(planes=2).state_dict(), tmp_path / "w.pth")
    model, _, _ = start(path, model=HH_HV | {"init_adapt": "mean"}, data={"valid_plane": True})
    assert not model.encoder.patch_embed.proj.weight[:, 2].any()


def test_three_planes_are_red_green_and_blue(tmp_path: Path) -> None:
    network = source(planes=3)
    path = save(network.state_dict(), tmp_path / "w.pth")
    model, warnings, _ = start(path, model={"init_adapt": "mean"})
    mean = network.patch_embed.proj.weight.mean(dim=1)
    for plane in (0, 1):
        torch.testing.assert_close(model.encoder.patch_embed.proj.weight[:, plane], mean)
    assert any("red, green and blue" in text for text in warnings)
    with pytest.raises(ConfigError, match=r"'model\.init_adapt' is None; .*red, green, blue.*set mean or zero"):
        start(path)
    with pytest.raises(ConfigError, match=r"'model\.init_adapt' is 'zero'; set mean"):
        start(path, model={"init_adapt": "zero"})


CHANGES: dict[str, tuple[Any, str]] = {
    "less depth": (lambda w: {k: v for k, v in w.items() if "blocks.1." not in k}, r"blocks\.1\.attn\.proj\.bias"),
    "more depth": (lambda w: w | {k.replace("s.1.", "s.2."): v for k, v in w.items()}, r"unknown.*blocks\.2\."),
    "one missing": (
        lambda w: {k: v for k, v in w.items() if k != "blocks.1.mlp.fc2.bias"},
        r"blocks\.1\.mlp\.fc2\.bias",
    ),
    "a stranger": (lambda w: w | {"dist_token": torch.ones(1, 1, 32)}, r"dist_token"),
    "another width": (
        lambda w: w | {"blocks.0.mlp.fc1.weight": torch.ones(64, 32)},
        r"blocks\.0\.mlp\.fc1\.weight.*64",
    ),
    "no class token": (lambda w: {k: v for k, v in w.items() if k != "cls_token"}, r"has not cls_token.*gap_224"),
    "not square": (lambda w: w | {"pos_embed": torch.ones(1, 14, 32)}, r"pos_embed has 14 positions.*no square grid"),
    "NaN": (lambda w: w | {"cls_token": torch.full((1, 1, 32), float("nan"))}, r"cls_token' is NaN"),
    "other planes": (
        lambda w: w | {"patch_embed.proj.weight": torch.ones(32, 5, 16, 16)},
        r"init_channels.*the 5 input",
    ),
    "unknown": (lambda w: {"vit.layer.0.q": torch.ones(3)}, r"its layout is not known.*vit\.layer\.0\.q.*mmselfsup"),
    "two": (lambda w: w | as_openmmlab(w), r"its names are those of .* and .*; give a file of one network"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_encoder_is_refused_by_name(change: str, tmp_path: Path) -> None:
    spoil, told = CHANGES[change]
    path = save(spoil(encoder_of(source())), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=told) as caught:
        start(path, model=HH_HV)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_planes_without_names_are_refused(tmp_path: Path) -> None:
    path = save(encoder_of(source()), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"'model\.init_channels' is \[\]; name the 2 input planes of .*w\.pth"):
        start(path)
    with pytest.raises(ConfigError, match=r"'model\.init_adapt' is None; .*nersc_sar_secondary, nersc_sar_primary"):
        start(path, model={"init_channels": ["hv", "hh"]})


def test_heads_that_differ_from_what_is_published_are_told(tmp_path: Path) -> None:
    network = source(embed_dim=192, num_heads=6)
    path = save(encoder_of(network), tmp_path / "w.pth")
    encoder = {"name": "vit_tiny_patch16_224", "depth": 2, "num_heads": 6}
    _, warnings, _ = start(path, model=HH_HV | {"encoder": encoder})
    assert any("has 6 attention heads; networks like" in text and "published with 3" in text for text in warnings)


def test_weights_without_a_last_norm_say_so(tmp_path: Path) -> None:
    weights = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: value
               for name, value in encoder_of(source()).items()}  # fmt: skip
    model, _, notes = start(save(weights, tmp_path / "w.pth"), model=HH_HV)
    assert any("no norm behind the last block" in text for text in notes)
    assert torch.equal(model.encoder.norm.weight, torch.ones(32))

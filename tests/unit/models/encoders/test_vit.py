"""Vision transformers of timm as encoders."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode

from arcticseg.errors import ConfigError
from arcticseg.models.encoders.vit import build_vit, evenly_spaced, timm

SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}


@pytest.mark.parametrize(
    ("depth", "expected"), [(12, [2, 5, 8, 11]), (24, [5, 11, 17, 23]), (4, [0, 1, 2, 3]), (2, [0, 0, 1, 1])]
)
def test_evenly_spaced(depth: int, expected: list[int]) -> None:
    assert evenly_spaced(depth) == expected


@pytest.mark.parametrize("size", [(32, 32), (40, 64)])
def test_maps_at_any_size(size: tuple[int, int]) -> None:
    vit = build_vit(5, 32, "vit_tiny_patch16_224", **SMALL)
    maps = vit(torch.randn(2, 5, *size))
    assert vit.stride == 8
    assert [tuple(x.shape) for x in maps] == [(2, 32, size[0] // 8, size[1] // 8)] * 4


def test_last_map_is_what_timm_computes() -> None:
    vit = build_vit(3, 32, "vit_tiny_patch16_224", **SMALL).eval()
    x = torch.randn(2, 3, 32, 32)
    tokens = vit.forward_features(x)[:, 1:]
    torch.testing.assert_close(vit(x)[-1].flatten(2).transpose(1, 2), tokens, rtol=0, atol=0)


class Copied(TorchDispatchMode):
    """Counts the values of each tensor that an operation makes anew."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not function.is_view:
            self.sizes.append(made.numel())
        return made


def test_only_the_kept_patches_are_copied_out_of_an_image() -> None:
    vit = build_vit(26, 32, "vit_tiny_patch16_224", **SMALL)
    x, kept = torch.randn(2, 26, 32, 32), torch.tensor([[0, 5, 6, 9], [1, 2, 3, 4]])
    with Copied() as copied:
        vit.patch_embed(x, kept)
    assert max(copied.sizes) == x.numel() // 4


def test_kept_patches_do_not_see_the_others() -> None:
    vit = build_vit(3, 32, "vit_tiny_patch16_224", **SMALL).eval()
    x = torch.randn(1, 3, 32, 32)
    kept = torch.tensor([[0, 5, 6]])
    other = x.clone()
    other[..., 16:, :] += 1  # patches 8..15
    torch.testing.assert_close(vit(x, kept)[0], vit(other, kept)[0], rtol=0, atol=0)
    other[..., 8:16, 8:16] += 1  # patch 5
    assert not torch.allclose(vit(x, kept)[0], vit(other, kept)[0])


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_clip_224",
        "vit_medium_patch16_reg4_gap_256",
        "vit_base_patch16_siglip_224",
        "deit3_small_patch16_224",
    ],
)
def test_variants(name: str) -> None:
    vit = build_vit(4, 64, name, patch_size=16, embed_dim=32, depth=2, num_heads=2)
    maps = vit(torch.randn(1, 4, 64, 96))
    sum(x.square().sum() for x in maps).backward()  # type: ignore[union-attr]
    assert maps[-1].shape == (1, 32, 4, 6)
    assert [name for name, p in vit.named_parameters() if p.grad is None] == []


# Weights of timm's classifiers of 224 pixels, 3 planes and 1,000 classes, as published; width.
SIZES = [
    ("vit_tiny_patch16_224", 5_717_416, 192),
    ("vit_small_patch16_224", 22_050_664, 384),
    ("vit_base_patch16_224", 86_567_656, 768),
    ("vit_large_patch16_224", 304_326_632, 1024),
    ("vit_huge_patch14_224", 632_045_800, 1280),
]


@pytest.mark.parametrize(("name", "whole", "width"), SIZES)
def test_as_many_weights_as_published_less_the_classifier(name: str, whole: int, width: int) -> None:
    with torch.device("meta"):
        encoder = build_vit(3, 224, name)
        own = timm.create_model(name, num_classes=0)
    weights = [sum(p.numel() for p in network.parameters()) for network in (encoder, own)]
    assert weights == [whole - 1000 * (width + 1)] * 2
    assert encoder.strides == (encoder.stride,) * 4


@pytest.mark.parametrize(
    ("name", "changes", "tile", "told"),
    [
        ("resnet50", {}, 64, "'resnet50'.*a plain one"),
        ("vit_of_my_own", {}, 64, "'vit_of_my_own'; timm has no such network"),
        ("vit_tiny_patch16_224.my_tag", {}, 64, "'vit_tiny_patch16_224.my_tag'.*my_tag"),
        ("deit_tiny_distilled_patch16_224", {}, 64, "'deit_tiny_distilled_patch16_224'.*a plain one"),
        ("vit_relpos_small_patch16_224", {}, 64, "'vit_relpos_small_patch16_224'.*a plain one"),
        ("vit_small_patch16_dinov3", {}, 64, "'vit_small_patch16_dinov3'.*plain"),
        ("vit_base_resnet50d_224", {"depth": 1}, 64, "'vit_base_resnet50d_224'.*HybridEmbed.*a plain one"),
        ("vit_tiny_patch16_224", {"embed_dim": 30, "num_heads": 4}, 64, "'num_heads': 4.*multiple of num_heads"),
        ("vit_tiny_patch16_224", {}, 100, r"'model\.encoder\.patch_size' is 16; .*\(100 pixels\)"),
    ],
)
def test_what_cannot_be_built(name: str, changes: dict[str, int], tile: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_vit(3, tile, name, **changes)


def test_drop_path_is_off_by_default_and_repeatable() -> None:
    x = torch.randn(2, 3, 32, 32)
    outs = []
    for _ in range(2):
        torch.manual_seed(3)
        outs.append(build_vit(3, 32, "vit_tiny_patch16_224", **SMALL).train()(x)[-1])
    torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=0)

"""Networks of timm that give a pyramid of features."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn

from arcticseg import config
from arcticseg.errors import ConfigError
from arcticseg.models.config import EncoderConfig, FeaturesConfig, ModelConfig, ViTConfig
from arcticseg.models.encoders.features import Features, build_features, timm


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# Network, weights of timm's classifier of 3 planes and 1,000 classes as published, what of it is head, its maps.
NETWORKS = [
    ("resnet50d", 25_576_264, 2048 * 1000 + 1000, (256, 512, 1024, 2048)),
    ("resnet50", 25_557_032, 2048 * 1000 + 1000, (256, 512, 1024, 2048)),
    ("convnext_base", 88_591_464, 2 * 1024 + 1024 * 1000 + 1000, (128, 256, 512, 1024)),
    ("swin_tiny_patch4_window7_224", 28_288_354, 2 * 768 + 768 * 1000 + 1000, (96, 192, 384, 768)),
    ("swin_base_patch4_window7_224", 87_768_224, 2 * 1024 + 1024 * 1000 + 1000, (128, 256, 512, 1024)),
]


@pytest.mark.parametrize(("name", "whole", "head", "dims"), NETWORKS)
def test_as_many_weights_as_published_less_the_classifier(
    name: str, whole: int, head: int, dims: tuple[int, ...]
) -> None:
    chosen = EncoderConfig.named(name)
    with torch.device("meta"):
        encoder = chosen.make(3, 224)
        own = timm.create_model(name, features_only=True)
    assert parameters(encoder) == parameters(own) == whole - head
    assert (encoder.dims, encoder.strides, encoder.stride) == (dims, (4, 8, 16, 32), 32)


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224", "pvt_v2_b0"])
def test_the_maps_are_those_of_timm_for_any_size_and_planes(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_features(5, 64, name).eval()
    sized = {"img_size": 64, "strict_img_size": False} if name.startswith("swin") else {}
    own = timm.create_model(name, features_only=True, in_chans=5, **sized).eval()
    own.load_state_dict(encoder.network.state_dict())
    for size in ((64, 64), (32, 96)):
        x = torch.randn(2, 5, *size)
        maps, theirs = encoder(x), own(x)
        if name.startswith("swin"):
            theirs = [y.permute(0, 3, 1, 2) for y in theirs]
        for y, expected, dim, stride in zip(maps, theirs[-4:], encoder.dims, (4, 8, 16, 32), strict=True):
            torch.testing.assert_close(y, expected)
            assert y.shape == (2, dim, size[0] // stride, size[1] // stride)


def test_nothing_is_dropped_in_training() -> None:
    # timm drops 10 % of Swin's paths by default.
    encoder = build_features(3, 32, "swin_tiny_patch4_window7_224").train()
    x = torch.randn(2, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(encoder(x), encoder(x), strict=True))


def test_any_other_network_of_timm_by_its_full_name() -> None:
    encoder = EncoderConfig.named("timm/ghostnet_050").make(4, 64)
    assert isinstance(encoder, Features)
    assert [tuple(y.shape[2:]) for y in encoder(torch.randn(2, 4, 64, 64))] == [(16, 16), (8, 8), (4, 4), (2, 2)]


def test_names_that_are_not_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'model\.encoder\.name' is 'resnet51'; timm has no such network; set one"):
        build_features(3, 64, "resnet51")
    with pytest.raises(ConfigError, match=r"'model\.encoder\.name' is 'unte'; set one of vit_\*, .*, resnet\*, "):
        config.build(ModelConfig, {"encoder": "unte"}, "model.")
    with pytest.raises(
        ConfigError, match=r"'timm/crossvit_tiny_240'; .* \(its maps stand at strides 12, 17\); set one"
    ):
        build_features(3, 64, "timm/crossvit_tiny_240")


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'model\.encoder\.name' .*maps do not fit \(\d+ x \d+ pixels at stride 4"):
        build_features(3, 96, "timm/inception_v3")(torch.randn(2, 3, 96, 96))


HYBRIDS = [
    "vit_base_r50_s16_224",
    "vit_small_r26_s32_384",
    "vit_tiny_r_s16_p8_224",
    "vit_base_resnet50d_224",
    "timm/coatnet_0_rw_224",
    "timm/maxvit_tiny_tf_224",
    "timm/levit_128",
]


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrids_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"'model\.encoder\.name' is '{name}'; it is a hybrid of CNN and ViT"):
        config.build(ModelConfig, {"encoder": name}, "model.")


def test_of_timms_vits_hybrids_alone_are_refused_as_such() -> None:
    refused = set()
    for name in timm.list_models("vit_*"):
        try:
            assert isinstance(EncoderConfig.named(name), ViTConfig)
        except ConfigError:
            refused.add(name)
    # A hybrid has a CNN of timm's in the place of its patch embedding.
    assert refused == {
        name
        for name in timm.list_models("vit_*")
        if "_resnet" in name or "_r26_" in name or "_r50_" in name or "_r_s16" in name
    }
    assert not refused & set(timm.list_models("vit_*_patch*"))
    assert isinstance(EncoderConfig.named("resnet50d"), FeaturesConfig)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", {"conv1.": 0, "bn1.": 0, "layer1.": 1, "layer2.": 2, "layer4.": 4}),
        ("convnext_atto", {"stem_": 0, "stages_0.": 1, "stages_3.": 4}),
        (
            "efficientnet_b0",
            {"conv_stem.": 0, "blocks.0.": 1, "blocks.1.": 2, "blocks.3.": 4, "blocks.4.": 4, "blocks.6.": 5},
        ),
    ],
)
def test_its_layers_are_its_stages(name: str, layers: dict[str, int]) -> None:
    with torch.device("meta"):
        encoder = build_features(3, 64, name)
    for start, layer in layers.items():
        of_start = {
            encoder.layer_of(key) for key, _ in encoder.named_parameters() if key.startswith(f"network.{start}")
        }
        assert of_start == {layer}, start
    assert encoder.n_layers == max(layers.values()) + 1
    assert {encoder.layer_of(key) for key, _ in encoder.named_parameters()} == set(range(encoder.n_layers))

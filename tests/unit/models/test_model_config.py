"""Configs of networks: what is chosen where nothing is said."""

from __future__ import annotations

import pytest

from arcticseg import config
from arcticseg.errors import ConfigError
from arcticseg.models.config import (
    ClassificationConfig,
    DecoderConfig,
    DeepLabConfig,
    EncoderConfig,
    FCNConfig,
    Light3Config,
    LightConfig,
    ModelConfig,
    RegressionConfig,
    SegFormerConfig,
    UNetConfig,
    UNetDecoderConfig,
    UPerNetConfig,
    ViTConfig,
    check_width,
)


def test_each_encoder_brings_a_decoder_that_fits() -> None:
    for kind in set(EncoderConfig.table.values()):
        model = ModelConfig(encoder=kind())  # type: ignore[call-arg]
        assert model.decoder is None
        assert model.encoder.halving or not model.decoding.halving
    assert ModelConfig().decoding == LightConfig(channels=256)
    assert ModelConfig(encoder=UNetConfig()).decoding == UNetDecoderConfig()


def test_decoders_have_widths_of_their_own() -> None:
    assert config.build(ModelConfig, {"decoder": "light"}).decoding == LightConfig(channels=256)
    assert config.build(ModelConfig, {"decoder": "upernet"}).decoding == UPerNetConfig(channels=768)
    kinds = LightConfig, Light3Config, UPerNetConfig, FCNConfig, DeepLabConfig, SegFormerConfig, UNetDecoderConfig
    assert [kind().for_all for kind in kinds] == [True, False, False, True, True, True, True]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", [LightConfig, UPerNetConfig, UNetDecoderConfig])
def test_any_decoder_is_shared_or_not_as_the_user_says(kind: type[DecoderConfig], shared: bool) -> None:
    chosen = kind(shared=shared)  # type: ignore[call-arg]
    assert chosen.for_all is shared
    assert "shared" not in chosen.arguments()


def test_the_way_up_of_the_unet_needs_its_way_down() -> None:
    with pytest.raises(ConfigError, match=r"'decoder\.name' is 'unet'; set light, or null"):
        config.build(ModelConfig, {"decoder": "unet"})


@pytest.mark.parametrize(
    "name", ["vit_base_patch16_224", "deit3_small_patch16_224", "flexivit_base", "eva_large_patch14_196"]
)
def test_families_of_timm_are_vits(name: str) -> None:
    chosen = EncoderConfig.named(name)
    assert isinstance(chosen, ViTConfig)
    assert chosen.arguments()["name"] == chosen.name == name
    assert chosen.pretrains


def test_an_encoder_takes_its_keys_without_the_name() -> None:
    assert UNetConfig(filters=(1, 2)).arguments() == {"filters": (1, 2), "norm": "group"}
    assert not UNetConfig.pretrains


def test_heads_are_regression_for_sic_and_classification_for_the_rest() -> None:
    model = ModelConfig()
    assert [model.head(chart) for chart in model.charts] == [
        RegressionConfig(),
        ClassificationConfig(),
        ClassificationConfig(),
    ]
    other = config.build(ModelConfig, {"heads": {"SIC": "classification"}, "charts": ["SIC"]})
    assert other.head("SIC") == ClassificationConfig()


def test_the_name_of_a_decoder_may_be_left_out() -> None:
    assert config.build(ModelConfig, {"decoder": {"channels": 8}}).decoder == LightConfig(channels=8)
    assert config.build(ModelConfig, {"encoder": "unet", "decoder": {}}).decoder == UNetDecoderConfig()
    keys = {"encoder": {"name": "unet"}, "decoder": {"channels": 8}}
    with pytest.raises(ConfigError, match=r"'decoder\.channels' \(value 8\)"):
        config.build(ModelConfig, keys)


@pytest.mark.parametrize("width", [0, -4, 6])
def test_widths_are_multiples_of_4(width: int) -> None:
    with pytest.raises(ConfigError, match=rf"'width' is {width}; set a positive multiple of 4"):
        check_width("width", width)
    for kind in (LightConfig, Light3Config, UPerNetConfig, FCNConfig, DeepLabConfig, SegFormerConfig):
        with pytest.raises(ConfigError, match=rf"'channels' is {width}"):
            kind(channels=width)
    names = {"light", "light3", "upernet", "fcn", "deeplabv3plus", "segformer", "unet"}
    assert set(DecoderConfig.table) == names

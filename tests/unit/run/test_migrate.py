"""What version 0.1 wrote is read: flat keys and the configs that its runs stored, which are in `version_0_1`."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import yaml

from arcticseg import config
from arcticseg.errors import ConfigError
from arcticseg.models.config import LightConfig, ModelConfig, UNetConfig, UPerNetConfig, ViTConfig
from arcticseg.run import config as run_config
from arcticseg.run.config import RunConfig
from arcticseg.run.migrate import hook_states, renamed, stored

OLD = Path(__file__).parent / "version_0_1"


@pytest.fixture
def plain(tmp_path: Path) -> str:
    (tmp_path / "plain.yaml").write_text("steps: 10\n")
    return str(tmp_path / "plain.yaml")


def model_of(plain: str, *overrides: str) -> ModelConfig:
    return run_config.load(plain, overrides).model


@pytest.mark.parametrize(
    ("flat", "new"),
    [
        ("model.patch_size=8", "model.encoder.patch_size=8"),
        ("model.embed_dim=192", "model.encoder.embed_dim=192"),
        ("model.depth=4", "model.encoder.depth=4"),
        ("model.num_heads=6", "model.encoder.num_heads=6"),
        ("model.drop_path=0.1", "model.encoder.drop_path=0.1"),
        ("model.decoder_channels=64", "model.decoder.channels=64"),
        ("model.sic=classification", "model.heads.SIC=classification"),
    ],
)
def test_a_flat_key_gives_the_same_config_and_a_warning_with_the_new_key(plain: str, flat: str, new: str) -> None:
    old_key, new_key = flat.partition("=")[0], new.partition("=")[0]
    with pytest.warns(FutureWarning, match=f"'{old_key}'.*'{new_key}'"):
        old = run_config.load(plain, [flat])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_config.load(plain, [new]) == old
    assert old != run_config.load(plain)


def test_flat_keys_of_a_command_line_of_version_0_1_mean_what_they_did(plain: str) -> None:
    with pytest.warns(FutureWarning, match=r"'model\.(depth|decoder_channels)'"):
        vit = model_of(plain, "model.depth=4", "model.encoder=vit_tiny_patch16_224", "model.decoder_channels=16")
    assert vit.encoder == ViTConfig("vit_tiny_patch16_224", depth=4)
    assert vit.decoding == LightConfig(channels=16)
    with pytest.warns(FutureWarning, match="unet_filters"):
        unet = model_of(plain, "model.unet_filters=[4, 8]", "model.encoder=unet")
    assert unet.encoder == UNetConfig(filters=(4, 8))
    with pytest.warns(FutureWarning, match="decoder_channels"):
        upernet = model_of(plain, "model.decoder_channels=64", "model.decoder=upernet")
    assert upernet.decoding == UPerNetConfig(channels=64)


def test_flat_keys_of_a_file_are_read_and_overridden(tmp_path: Path) -> None:
    model = {"encoder": "vit_small_patch16_224", "depth": 3, "decoder": "upernet", "decoder_channels": 16}
    model |= {"sic": "classification"}
    (tmp_path / "old.yaml").write_text(yaml.safe_dump({"steps": 1, "model": model}))
    with pytest.warns(FutureWarning, match=r"model\.(encoder\.depth|decoder\.channels|heads\.SIC)"):
        cfg = run_config.load(tmp_path / "old.yaml", ["model.encoder.num_heads=3", "model.heads.SIC=regression"])
    assert cfg.model.encoder == ViTConfig("vit_small_patch16_224", depth=3, num_heads=3)
    assert cfg.model.decoder == UPerNetConfig(channels=16)
    assert cfg.model.head("SIC").name == "regression"


def test_a_flat_key_that_the_network_ignored_is_refused_now(plain: str) -> None:
    with (
        pytest.raises(ConfigError, match=r"'model\.encoder\.depth' \(value 4\)"),
        pytest.warns(FutureWarning, match=r"'model\.depth'"),
    ):
        model_of(plain, "model.encoder=unet", "model.depth=4")


def test_stored_configs_are_read_without_what_their_network_ignored() -> None:
    vit, unet, mae = (
        config.build(RunConfig, stored(config.read(OLD / f"{name}.yaml"))) for name in ("vit", "unet", "pretrain")
    )
    tiny = ViTConfig("vit_tiny_patch16_224", patch_size=4, embed_dim=16, depth=1, num_heads=1)
    assert vit.model.encoder == ViTConfig(**{**vars(tiny), "drop_path": 0.1})
    assert vit.model.decoder == mae.model.decoder == LightConfig(channels=8)
    assert vit.model.head("SIC").name == "classification"
    assert unet.model == ModelConfig(encoder=UNetConfig(filters=(4, 4)), heads={"SIC": unet.model.head("SIC")})
    assert unet.model.decoding.name == "unet"
    assert unet.model.head("SIC").name == "regression"
    assert (mae.task, mae.model.encoder) == ("pretrain", tiny)
    assert [cfg.data.names for cfg in (vit, unet, mae)] == [("nersc_sar_primary", "nersc_sar_secondary")] * 3


@pytest.mark.parametrize("name", ["vit", "unet", "pretrain"])
def test_a_stored_config_starts_a_run_without_warnings(name: str) -> None:
    """It is complete, so what it holds of other networks is no wish."""
    keys = config.read(OLD / f"{name}.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_config.load(OLD / f"{name}.yaml") == config.build(RunConfig, stored(keys))


def test_configs_of_now_stay_as_they_are() -> None:
    now = config.to_dict(RunConfig(steps=1))
    assert stored(now) == renamed(now) == now
    assert stored({"steps": 1}) == renamed({"steps": 1}) == {"steps": 1}


def test_best_scores_of_an_old_checkpoint_go_to_their_hook() -> None:
    assert hook_states({"best": {"SIC": 1.0}}) == {"best": {"scores": {"SIC": 1.0}}}
    assert hook_states({"hooks": {"mean": {"n": 2}}}) == {"mean": {"n": 2}}


@pytest.mark.parametrize(("given", "means"), [({}, False), ({"normalise_targets": True}, True)])
def test_a_stored_pretraining_that_does_not_say_so_did_not_normalise_its_targets(
    given: dict[str, bool], means: bool
) -> None:
    kept = stored({"steps": 1, "task": "pretrain", "pretrain": {"mask_ratio": 0.6} | given})
    assert config.build(RunConfig, kept).pretrain.normalise_targets is means
    # A config that a user writes means what is the default today.
    assert config.build(RunConfig, renamed({"steps": 1, "pretrain": {"mask_ratio": 0.6}})).pretrain.normalise_targets

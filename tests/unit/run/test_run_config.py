"""Shipped configs, defaults, and what follows from several sections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from arcticseg import config
from arcticseg.engine.config import HookConfig
from arcticseg.errors import ConfigError
from arcticseg.models.config import LightConfig, UNetConfig, UPerNetConfig, ViTConfig
from arcticseg.run import config as run_config
from arcticseg.run.config import RunConfig
from arcticseg.tasks.config import AdversarialConfig
from tests.outside import forgotten

# Sweeps are read by a loader of their own.
RUNS = [name for name in config.shipped() if "finetune" not in config.read(name)]


def completed(name: str) -> list[str]:
    """What the user must add to a config that only others extend."""
    return [] if {"steps", "epochs"} & set(config.read(name)) else ["steps=1"]


@pytest.fixture
def plain(tmp_path: Path) -> str:
    (tmp_path / "plain.yaml").write_text("steps: 10\n")
    return str(tmp_path / "plain.yaml")


def test_runs_are_shipped() -> None:
    assert {"pretrain_vit.yaml", "finetune_vit.yaml", "scratch_vit.yaml", "scratch_unet.yaml"} <= set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_every_shipped_config_loads_and_is_read_back(name: str, tmp_path: Path) -> None:
    cfg = run_config.load(name, completed(name))
    (tmp_path / "a.yaml").write_text(config.dump(cfg))
    assert run_config.load(tmp_path / "a.yaml") == cfg
    # Where groups may be missing, shipped configs name whole groups.
    groups = len(cfg.data.channels) if cfg.data.missing_planes else 0
    assert cfg.data.in_chans == len(cfg.data.names) + cfg.data.valid_plane + groups


@pytest.mark.parametrize("name", RUNS)
def test_shipped_configs_hold_no_machines_path(name: str) -> None:
    cfg = run_config.load(name, completed(name))
    for place in (cfg.out, *cfg.data.places, cfg.data.cache, cfg.model.init_from):
        assert place is None or not Path(place).is_absolute()


def test_shipped_networks_are_what_they_say() -> None:
    base = run_config.load("scratch_vit").model
    assert (base.encoder, base.decoding) == (ViTConfig(drop_path=0.1), LightConfig())
    light, stock = (run_config.load(name).pretrain for name in ("pretrain_vit", "pretrain_vit_stock"))
    assert (light.decoder_depth, stock) == (4, replace(light, decoder_depth=8))
    unet = run_config.load("scratch_unet").model
    assert (unet.encoder, unet.decoding.name, unet.init_from) == (UNetConfig(), "unet", None)
    demo = run_config.load("demo_unet").model
    assert (demo.encoder, demo.decoding.name) == (UNetConfig(filters=(16, 32, 32, 64)), "unet")
    assert run_config.load("demo_vit").model.decoding == LightConfig(channels=64)


def test_every_default_is_the_type_that_its_key_takes(plain: str) -> None:
    cfg = run_config.load(plain)
    assert config.build(RunConfig, config.to_dict(cfg)) == cfg == RunConfig(steps=10)
    assert cfg.data.names[:2] == ("nersc_sar_primary", "nersc_sar_secondary")
    assert len(cfg.data.names) == 24
    assert cfg.data.in_chans == 25


def test_auto_mix(plain: str) -> None:
    assert run_config.load(plain).mix == "none"
    assert run_config.load(plain, ["task=pretrain"]).mix == "weights"
    assert run_config.load(plain, ["task=pretrain", "data.mix=none"]).mix == "none"
    assert run_config.load(plain, ["task=pretrain", "data.reader=webdataset"]).mix == "none"


def test_shards_are_one_place_or_several(plain: str, tmp_path: Path) -> None:
    assert run_config.load(plain, ["data.shards=a/b"]).data.places == ("a/b",)
    cfg = run_config.load(plain, ["data.shards=[a, s3://b/c]"])
    assert cfg.data.places == ("a", "s3://b/c")
    (tmp_path / "again.yaml").write_text(config.dump(cfg))
    assert run_config.load(tmp_path / "again.yaml") == cfg
    with pytest.raises(ConfigError, match=r"key 'data\.shards' is 3; set a text"):
        run_config.load(plain, ["data.shards=3"])


def test_targets_are_the_planes_of_their_channels(plain: str) -> None:
    cfg = run_config.load(plain, ["task=pretrain", "data.channels=[time, hv, hh]", "pretrain.targets=[hh, month]"])
    assert cfg.targets == [3, 0]


def test_keys_of_another_encoder_or_decoder_are_not_inherited(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: demo_vit.yaml\nmodel: {encoder: unet, decoder: null, init_from: null}\n")
    model = run_config.load(tmp_path / "mine.yaml").model
    assert (model.encoder, model.decoder) == (UNetConfig(), None)
    small = run_config.load("demo_vit", ["model.encoder=vit_small_patch16_224", "model.decoder=upernet"]).model
    assert small.encoder == ViTConfig("vit_small_patch16_224", 8, 128, 6, 4)
    assert small.decoder == UPerNetConfig()


@pytest.mark.parametrize(
    ("overrides", "decoder"),
    [
        (["model.decoder.channels=64"], LightConfig(channels=64)),
        (["model.decoder.channels=64", "model.encoder=vit_tiny_patch16_224"], LightConfig(channels=64)),
        (["model.decoder={channels: 64}", "model.decoder.name=upernet"], UPerNetConfig(channels=64)),
    ],
)
def test_a_decoder_without_a_name_is_the_encoders_own(plain: str, overrides: list[str], decoder: object) -> None:
    assert run_config.load(plain, overrides).model.decoder == decoder


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with two modules that add a hook each."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        (tmp_path / f"adds_{name}.py").write_text(
            "from dataclasses import dataclass\nfrom arcticseg.engine.config import HookConfig\n"
            f"@dataclass(frozen=True)\nclass Added(HookConfig):\n    name: str = '{name}'\n    every: int = 3\n"
            f"HookConfig.table['{name}'] = Added\n"
        )
    with forgotten(tmp_path, HookConfig):
        yield tmp_path


def test_imports_add_to_the_tables_before_anything_is_chosen(modules: Path) -> None:
    (modules / "low.yaml").write_text("steps: 1\nimports: [adds_first]\nhooks: [first]\n")
    (modules / "top.yaml").write_text("base: low.yaml\nhooks: [{name: first, every: 5}]\n")
    (hook,) = run_config.load("top.yaml").hooks
    assert config.to_dict(hook) == {"name": "first", "every": 5}
    cfg = run_config.load("top.yaml", ["hooks=[second, first]"], imports=["adds_second.py", "adds_first"])
    assert [hook.name for hook in cfg.hooks] == ["second", "first"]
    assert cfg.imports == ("adds_first", "adds_second.py")
    (modules / "again.yaml").write_text(config.dump(cfg))
    assert run_config.load("again.yaml") == cfg


def test_later_imports_replace_earlier_ones_and_may_be_none(modules: Path) -> None:
    (modules / "low.yaml").write_text("steps: 1\nimports: [adds_first]\n")
    assert run_config.load("low.yaml", ["imports=[adds_second]"]).imports == ("adds_second",)
    assert run_config.load("low.yaml", ["imports=[]"]).imports == ()


def test_every_key_can_be_overridden_with_its_own_default() -> None:
    def paths(keys: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
        leaves: list[tuple[str, object]] = []
        for key, value in keys.items():
            leaves += paths(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [(prefix + key, value)]
        return leaves

    defaults = config.to_dict(RunConfig(steps=1))
    for path, value in paths(defaults):
        text = "null" if value is None else str(value)
        assert config.build(RunConfig, config.override(defaults, [f"{path}={text}"])) == RunConfig(steps=1)


def test_a_discriminator_is_off_unless_asked_for_and_refuses_fp16(plain: str) -> None:
    assert run_config.load(plain).pretrain.adversarial is None
    assert run_config.load(plain, ["pretrain.adversarial={}"]).pretrain.adversarial == AdversarialConfig()
    on = ["task=pretrain", "pretrain.adversarial.depth=2", "engine.precision=fp16", "engine.zero_stage=1"]
    with pytest.raises(ConfigError, match=r"'engine\.precision' is 'fp16'; set fp32 or bf16"):
        run_config.load(plain, on)
    with pytest.raises(ConfigError, match=r"'pretrain\.adversarial\.weight' is 0"):
        run_config.load(plain, ["pretrain.adversarial.weight=0"])

from pathlib import Path

import pytest

from arcticseg import config
from arcticseg.engine.config import EngineConfig, accumulation_steps
from arcticseg.errors import ConfigError
from arcticseg.run import config as run_config
from arcticseg.run.config import RunConfig

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
    assert cfg.in_chans == len(cfg.channels) + cfg.data.valid_plane


@pytest.mark.parametrize("name", RUNS)
def test_shipped_configs_hold_no_machines_path(name: str) -> None:
    cfg = run_config.load(name, completed(name))
    for place in (cfg.out, *cfg.data.places, cfg.data.cache, cfg.model.init_from):
        assert place is None or not Path(place).is_absolute()


def test_every_default_is_the_type_that_its_key_takes(plain: str) -> None:
    cfg = run_config.load(plain)
    assert config.build(RunConfig, config.to_dict(cfg)) == cfg
    assert cfg.channels[:2] == ("nersc_sar_primary", "nersc_sar_secondary")
    assert len(cfg.channels) == 24
    assert cfg.in_chans == 25


def test_auto_mix(plain: str) -> None:
    assert run_config.load(plain).mix == "none"
    assert run_config.load(plain, ["task=pretrain"]).mix == "weights"
    assert run_config.load(plain, ["task=pretrain", "data.mix=none"]).mix == "none"


def test_shards_are_one_place_or_several(plain: str, tmp_path: Path) -> None:
    assert run_config.load(plain, ["data.shards=a/b"]).data.places == ("a/b",)
    cfg = run_config.load(plain, ["data.shards=[a, s3://b/c]"])
    assert cfg.data.places == ("a", "s3://b/c")
    (tmp_path / "again.yaml").write_text(config.dump(cfg))
    assert run_config.load(tmp_path / "again.yaml") == cfg
    with pytest.raises(ConfigError, match=r"key 'data\.shards' is 3; set a text"):
        run_config.load(plain, ["data.shards=3"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.channels=[hh, hx]"], "key 'data.channels' is ['hh', 'hx']; unknown channel 'hx'; groups: hh, hv"),
        (["data.channels=[]"], "key 'data.channels' is []; name at least one channel"),
        (["data.label_fraction=0"], "key 'data.label_fraction' is 0.0; set a share in (0, 1]"),
        (["data.label_fraction=1.5"], "key 'data.label_fraction' is 1.5"),
        (["data.workers=-1"], "key 'data.workers' is -1; set 0 or more"),
        (["data.block=0"], "key 'data.block' is 0; set 1 or more"),
        (["data.factors=[0]"], "key 'data.factors' is [0]; set factors of 1 or more"),
        (["data.weights={2: 1}"], "key 'data.weights' is {2: 1.0}; set data.mix to weights, too"),
        (["data.mix=weights", "data.weights={2: 0}"], "key 'data.weights' is {2: 0.0}; set positive weights"),
        (["data.augment.drop_groups={x: 0.1}"], "key 'data.augment.drop_groups.x' is 0.1; name one of hh, hv"),
        (["data.augment.drop_groups.hh=1"], "key 'data.augment.drop_groups.hh' is 1.0; set a probability in [0, 1)"),
        (["data.augment.crop=0"], "key 'data.augment.crop' is 0.0; set a share of the edge in (0, 1]"),
        (["data.augment.cutmix=1.5"], "key 'data.augment.cutmix' is 1.5; set a probability in [0, 1]"),
        (
            ["task=pretrain", "data.augment.cutmix=0.5"],
            "key 'data.augment.cutmix' is 0.5; set 0: pretraining mixes no scenes",
        ),
        (["task=pretrain", "model.encoder=unet"], "key 'model.encoder' is 'unet'; set a ViT to pretrain"),
        (["model.encoder=unet", "model.init_from=x"], "key 'model.init_from' is 'x'; set null: a UNet has no MAE"),
        (["model.drop_path=1"], "key 'model.drop_path' is 1.0; set a share in [0, 1)"),
        (["pretrain.mask_ratio=1"], "key 'pretrain.mask_ratio' is 1.0; set a share in (0, 1)"),
        (["pretrain.targets=[]", "task=pretrain"], "key 'pretrain.targets' is []; name at least one channel"),
        (["pretrain.targets=[x]"], "key 'pretrain.targets' is ['x']; unknown channel 'x'"),
        (
            ["task=pretrain", "data.channels=[hh]"],
            "key 'pretrain.targets' is ['hh', 'hv']; set channels that data.channels has, too",
        ),
        (["segment.weights={SIC: 1, SOD: 0, FLOE: -1}"], "set weights of 0 or more, not all 0"),
        (["segment.weights.SIX=1"], "set SIC, SOD, FLOE"),
        (["segment.weights={SIC: 0, SOD: 0, FLOE: 0}"], "set weights of 0 or more, not all 0"),
        (["optim.lr=0"], "key 'optim.lr' is 0.0; set a positive learning rate"),
        (["optim.weight_decay=-0.1"], "key 'optim.weight_decay' is -0.1; set 0 or more"),
        (["optim.warmup=1"], "key 'optim.warmup' is 1.0; set a share of the steps in [0, 1)"),
        (["optim.final_lr=2"], "key 'optim.final_lr' is 2.0; set a share of lr in [0, 1]"),
        (["optim.betas=[0.9, 1]"], "key 'optim.betas' is [0.9, 1.0]; set two values in [0, 1)"),
        (["optim.clip=-1"], "key 'optim.clip' is -1.0; set 0 (off) or more"),
        (["engine.global_batch_size=0"], "key 'engine.global_batch_size' is 0; set 1 or more"),
        (["engine.threads=0"], "key 'engine.threads' is 0; set 1 or more"),
        (
            ["engine.micro_batch_size=5"],
            "key 'engine.micro_batch_size' is 5; set a divisor of engine.global_batch_size",
        ),
        (["engine.micro_batch_size=0"], "key 'engine.micro_batch_size' is 0"),
        (["engine.precision=bf16", "engine.zero_stage=0"], "key 'engine.zero_stage' is 0; set 1"),
        (["epochs=3"], "key 'steps' is 10; set either steps or epochs"),
        (["steps=null"], "key 'steps' is None; set either steps or epochs"),
        (["steps=0"], "key 'steps' is 0; set 1 or more"),
        (["steps=null", "epochs=0"], "key 'epochs' is 0.0; set a positive number"),
        (["validate_every=-1"], "key 'validate_every' is -1; set 0 (only at the end) or more"),
        (["checkpoint_every=-1"], "key 'checkpoint_every' is -1"),
        (["tracking.every=0"], "key 'tracking.every' is 0; set 1 or more"),
        (
            ["data.reader=webdataset", "data.mix=weights"],
            "key 'data.mix' is 'weights'; set none: the webdataset reader",
        ),
        (["data.reader=webdataset", "steps=null", "epochs=1"], "key 'epochs' is 1.0; set steps: the webdataset reader"),
        (
            ["data.reader=webdataset", "data.shards=[a, s3://b/c]"],
            "key 'data.reader' is 'webdataset'; set index: webdataset reads no s3",
        ),
        (["data.reader=webdataset", "data.cache=c"], "key 'data.cache' is 'c'; set null"),
        (["data.shards=[]"], "key 'data.shards' is (); name at least one folder or address"),
        (["data.shards=[a, b, a]"], "key 'data.shards' is ['a', 'b', 'a']; name each once"),
        (["data.window=0"], "key 'data.window' is 0; set 1 or more"),
        (["data.cache_bytes=-1"], "key 'data.cache_bytes' is -1; set 0 (all of the disk) or more"),
        (["data.max_damaged=-1"], "key 'data.max_damaged' is -1; set 0 or more"),
        (["data.patience=0"], "key 'data.patience' is 0.0; set a positive number of seconds"),
        (["data.retries=-1"], "key 'data.retries' is -1; set 0 or more"),
        (
            ["data.set_weights=[1, 1]"],
            "key 'data.set_weights' is [1.0, 1.0]; set data.mix to weights and one weight for",
        ),
        (
            ["data.mix=weights", "data.shards=[a, b]", "data.set_weights=[1]"],
            "key 'data.set_weights' is [1.0]; set data.mix to weights and one weight for each of data.shards (2)",
        ),
        (
            ["data.mix=weights", "data.shards=[a, b]", "data.set_weights=[1, 0]"],
            "key 'data.set_weights' is [1.0, 0.0]; set positive weights",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_key_value_and_remedy(plain: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_config.load(plain, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("total", "micro", "world_size", "expected"),
    [
        (16, None, 1, (16, 1)),
        (16, 4, 1, (4, 4)),
        (16, 4, 2, (4, 2)),
        # More ranks than before: the micro batch shrinks to a rank's share.
        (16, 8, 4, (4, 1)),
        (12, 4, 3, (4, 1)),
    ],
)
def test_batch_arithmetic(total: int, micro: int | None, world_size: int, expected: tuple[int, int]) -> None:
    found = accumulation_steps(EngineConfig(global_batch_size=total, micro_batch_size=micro), world_size)
    assert found == expected
    assert found[0] * found[1] * world_size == total


@pytest.mark.parametrize(
    ("total", "micro", "world_size", "message"),
    [
        (16, None, 3, r"key 'engine\.global_batch_size' is 16; set a multiple of the number of ranks \(3\)"),
        (24, 8, 2, r"key 'engine\.micro_batch_size' is 8; set a divisor of 12, the share of one of 2 ranks"),
    ],
)
def test_batches_that_do_not_divide(total: int, micro: int | None, world_size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        accumulation_steps(EngineConfig(global_batch_size=total, micro_batch_size=micro), world_size)


def test_cutmix_needs_even_micro_batches() -> None:
    assert accumulation_steps(EngineConfig(global_batch_size=12), 3, pairs=True) == (4, 1)
    with pytest.raises(
        ConfigError, match=r"key 'data\.augment\.cutmix' mixes pairs .* of 3; set an even engine\.micro"
    ):
        accumulation_steps(EngineConfig(global_batch_size=12), 4, pairs=True)


def test_settings_are_documented() -> None:
    """The path of every key of the defaults can be overridden with its own value."""

    def paths(keys: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
        found: list[tuple[str, object]] = []
        for key, value in keys.items():
            found += paths(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [(prefix + key, value)]
        return found

    defaults = config.to_dict(RunConfig(steps=1))
    for path, value in paths(defaults):
        text = "null" if value is None else str(value)
        assert config.build(RunConfig, config.override(defaults, [f"{path}={text}"])) == RunConfig(steps=1)

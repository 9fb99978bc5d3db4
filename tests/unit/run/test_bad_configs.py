"""Configs that cannot work, each refused by `--dry-run` in one line that names the key, the value and what to set."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from arcticseg import config
from arcticseg.data.manifest import Manifest, write_manifest
from arcticseg.engine.config import HookConfig
from launchers.cli import main
from tests.archive import BUILDER
from tests.outside import forgotten

# Without it the network is not built.
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")

# Overrides as a shell takes them; then parts of the message in their order: key, value, remedy.
CASES: list[tuple[str, ...]] = [
    # The run.
    ("steps=null", "'steps' is None", "set either steps or epochs"),
    ("epochs=3", "'steps' is 10", "set either steps or epochs"),
    ("steps=0", "'steps' is 0", "set 1 or more"),
    ("steps=2.5", "'steps' is 2.5", "a whole number"),
    ("steps=null epochs=0", "'epochs' is 0.0", "a positive number"),
    ("task=classify", "'task' is 'classify'", "pretrain, segment"),
    ("out=", "'out' is None", "a text"),
    ("'out=\"\"'", "'out' is ''", "a folder"),
    ("seed=-1", "'seed' is -1", "from 0"),
    ("seed=9223372036854775808", "'seed' is 9223372036854775808", "from 0"),
    ("validate_every=-1", "'validate_every' is -1", "0 (only at the end) or more"),
    ("checkpoint_every=-1", "'checkpoint_every' is -1", "0 (only at the end) or more"),
    ("stps=3", "'stps'", "value 3", "did you mean 'steps'"),
    ("steps", "'steps'", "expected key=value"),
    ("steps=[1", "'steps=[1'", "YAML"),
    # Modules from outside, and hooks.
    ("imports=no_such_module", "'imports' is 'no_such_module'", "a list"),
    ("imports=[no_such_module]", "--import no_such_module", "the dotted name of a module"),
    ("--import no_such_module", "--import no_such_module", "the dotted name of a module"),
    ("imports=[fails.py]", "--import fails.py", "ZeroDivisionError", "the path of a .py file"),
    ("hooks=[watch]", "'hooks[0].name' is 'watch'", "--import"),
    ("hooks=watch", "'hooks' is 'watch'", "a list"),
    ("imports=[adds.py] hooks=[odd]", "'hooks[0].name' is 'odd'", "set one of early_stop, ", "mean, or give"),
    ("hooks='[{name: early_stop, patience: 0}]'", "'hooks[0].patience' is 0", "1 or more"),
    ("hooks='[{name: early_stop, window: 0}]'", "'hooks[0].window' is 0", "1 or more"),
    ("hooks='[{name: early_stop, min_delta: -1}]'", "'hooks[0].min_delta' is -1", "0 or more"),
    ("hooks='[{name: early_stop, score: SIK}]'", "'hooks[0].score' is 'SIK'", "combined, SIC, SOD, FLOE"),
    ("hooks='[{name: early_stop, score: combined}]' model.charts=[SIC]", "'hooks[0].score'", "set one of SIC"),
    ("hooks='[{name: early_stop, score: SIC}]' task=pretrain", "'hooks[0].score'", "set one of reconstruction"),
    ("imports=[adds.py] hooks=[mean,mean]", "'hooks' is ['mean', 'mean']", "each once"),
    (
        "imports=[adds.py] 'hooks=[{name: mean, evry: 2}]'",
        "'hooks[0].evry'",
        "value 2",
        "did you mean 'hooks[0].every'",
    ),
    ("imports=[adds.py] hooks='[{name: mean, every: -1}]'", "'hooks[0].every' is -1", "1 or more"),
    # Data.
    ("data.chanels=[hh]", "'data.chanels'", "did you mean 'data.channels'"),
    ("data.channels=[hh,hx]", "'data.channels' is ['hh', 'hx']", "'hx'", "groups: hh, hv"),
    ("data.channels=[]", "'data.channels' is []", "at least one channel"),
    ("data.channels=hh", "'data.channels' is 'hh'", "a list"),
    ("data.label_fraction=0", "'data.label_fraction' is 0.0", "in (0, 1]"),
    ("data.label_fraction=1.5", "'data.label_fraction' is 1.5", "in (0, 1]"),
    ("data.workers=-1", "'data.workers' is -1", "0 or more"),
    ("data.workers=true", "'data.workers' is True", "a whole number"),
    ("data.block=0", "'data.block' is 0", "1 or more"),
    ("data.mix=weights data.factors=[2,4,8] data.block=2", "'data.block' is 2", "set more"),
    ("data.window=0", "'data.window' is 0", "1 or more"),
    ("data.factors=[0]", "'data.factors' is [0]", "1 or more"),
    ("'data.weights={2: 1}'", "'data.weights' is {2: 1.0}", "data.mix to weights"),
    ("data.mix=weights 'data.weights={2: 0}'", "'data.weights' is {2: 0.0}", "positive"),
    ("data.mix=weights data.factors=[2,4] data.weights.2=1", "'data.weights' is {2: 1.0}", "[2, 4]"),
    ("data.set_weights=[1,1]", "'data.set_weights' is [1.0, 1.0]", "data.mix to weights"),
    ("data.mix=weights data.shards=[a,b] data.set_weights=[1]", "'data.set_weights' is [1.0]", "data.shards (2)"),
    ("data.mix=weights data.shards=[a,b] data.set_weights=[1,0]", "'data.set_weights' is [1.0, 0.0]", "positive"),
    ("data.shards=[]", "'data.shards' is ()", "at least one folder"),
    ("'data.shards=\"\"'", "'data.shards' is ''", "at least one folder"),
    ("data.shards=3", "'data.shards' is 3", "a text"),
    ("data.shards=[a,b,a]", "'data.shards' is ['a', 'b', 'a']", "each once"),
    ("'data.scenes=\"\"'", "'data.scenes' is ''", "a path, or null"),
    ("'data.cache=\"\"'", "'data.cache' is ''", "a path, or null"),
    ("data.cache_bytes=-1", "'data.cache_bytes' is -1", "0 (all of the disk) or more"),
    ("data.max_damaged=-1", "'data.max_damaged' is -1", "0 or more"),
    ("data.patience=0", "'data.patience' is 0.0", "a positive number"),
    ("data.patience=.inf", "'data.patience' is inf", "a finite number"),
    ("data.retries=-1", "'data.retries' is -1", "0 or more"),
    ("data.tail=keep", "'data.tail' is 'keep'", "drop, pad"),
    ("data.reader=tar", "'data.reader' is 'tar'", "index, webdataset"),
    ("data.reader=webdataset data.shards=[a,s3://b/c]", "'data.reader' is 'webdataset'", "index"),
    ("data.reader=webdataset data.mix=weights", "'data.mix' is 'weights'", "none"),
    ("data.reader=webdataset steps=null epochs=1", "'epochs' is 1.0", "set steps"),
    ("data.reader=webdataset data.cache=c", "'data.cache' is 'c'", "null"),
    ("data.reader=webdataset task=pretrain 'data.weights={2: 1}'", "'data.weights' is {2: 1.0}", "data.mix"),
    ("'data.augment.drop_groups={x: 0.1}'", "'data.augment.drop_groups.x' is 0.1", "hh, hv"),
    ("data.augment.drop_groups.hh=1", "'data.augment.drop_groups.hh' is 1.0", "in [0, 1)"),
    ("data.augment.crop=0", "'data.augment.crop' is 0.0", "in (0, 1]"),
    ("data.augment.rotate=181", "'data.augment.rotate' is 181", "degrees in [0, 180]"),
    ("data.augment.zoom_out=0.5", "'data.augment.zoom_out' is 0.5", "a factor in [1, 4]"),
    ("data.augment.speckle=-1", "'data.augment.speckle' is -1", "dB in [0, 10]"),
    ("data.augment.incidence_trend=3", "'data.augment.incidence_trend' is 3", "dB per degree in [0, 2]"),
    ("data.augment.speckle=1 data.channels=[era5]", "'data.augment.speckle' is 1.0", "has no backscatter"),
    (
        "data.augment.rotate=9 data.augment.quarter_turns=false data.channels=[hh,u10m_rotated]",
        "'data.channels' is ['hh', 'u10m_rotated']",
        "augment.rotate=0",
    ),
    ("data.augment.cutmix=1.5", "'data.augment.cutmix' is 1.5", "in [0, 1]"),
    ("data.augment.cutmix=0.5 task=pretrain", "'data.augment.cutmix' is 0.5", "set 0"),
    ("data.augment.cutmix=0.5 engine.global_batch_size=1", "'engine.global_batch_size' is 1", "an even number"),
    ("data.augment.cutmix=0.5 engine.micro_batch_size=1", "'engine.micro_batch_size' is 1", "an even number"),
    # The network.
    ("model=3", "'model' is 3", "a mapping"),
    ("model.encoder=3", "'model.encoder' is 3", "a name"),
    ("model.encoder=lenet", "'model.encoder.name' is 'lenet'", "vit_*"),
    ("model.encoder.embed_dim=-3", "'model.encoder.embed_dim' is -3", "1 or more"),
    ("model.encoder.patch_size=0", "'model.encoder.patch_size' is 0", "1 or more"),
    ("model.encoder.depht=4", "'model.encoder.depht'", "value 4", "did you mean 'model.encoder.depth'"),
    (
        "model.encoder.embed_dim=96 model.encoder.num_heads=5",
        "'model.encoder.num_heads' is 5",
        "a divisor of embed_dim (96)",
    ),
    ("model.encoder.drop_path=1", "'model.encoder.drop_path' is 1.0", "in [0, 1)"),
    ("model.encoder.filters=[4]", "'model.encoder.filters'", "value", "[4]", "known: name, patch_size"),
    ("model.encoder.patch_size=8 model.encoder=unet", "'model.encoder.patch_size'", "value 8", "known: name, filters"),
    ("'model.encoder={name: unet, filters: []}'", "'model.encoder.filters' is []", "positive"),
    ("'model.encoder={name: unet, filters: [8,0]}'", "'model.encoder.filters' is [8, 0]", "positive"),
    ("model.decoder=heavy", "'model.decoder.name' is 'heavy'", "light, light3, upernet, "),
    ("model.decoder.channels=7", "'model.decoder.channels' is 7", "a positive multiple of 4"),
    ("'model.decoder={name: upernet, channels: 0}'", "'model.decoder.channels' is 0", "a positive multiple of 4"),
    ("model.decoder=unet", "'model.decoder.name' is 'unet'", "light, or null"),
    ("model.encoder=unet model.decoder.channels=64", "'model.decoder.channels'", "value 64", "known: name"),
    ("model.charts=[]", "'model.charts' is []", "SIC, SOD, FLOE"),
    ("model.charts=[SIC,ICE]", "'model.charts' is 'ICE'", "SIC, SOD, FLOE"),
    ("model.charts=[SOD,SIC]", "'model.charts' is ['SOD', 'SIC']", "the order SIC, SOD, FLOE"),
    ("model.charts=[SIC,SIC]", "'model.charts' is ['SIC', 'SIC']", "each once"),
    ("model.heads.FLOE=ordinal", "'model.heads.FLOE' is 'ordinal'", "SIC, SOD only"),
    ("model.heads.SIC=both", "'model.heads.SIC.name' is 'both'", "regression, classification"),
    ("model.heads.ICE=classification", "'model.heads.ICE' is 'ICE'", "SIC, SOD, FLOE"),
    ("'model.init_from=\"\"'", "'model.init_from' is ''", "or null"),
    ("model.init_adapt=mean", "'model.init_adapt' is 'mean'", "set init_from, too"),
    ("'model.init_channels=[hh]'", "'model.init_channels' is", "set init_from, too"),
    ("model.init_from=x 'model.init_channels=[hh, nersc_sar_primary]'", "'model.init_channels' is", "once"),
    ("model.encoder=vit_base_patch16_224.mae", "'vit_base_patch16_224.mae'; set vit_base_patch16_224", "init_from"),
    # The tasks.
    ("task=pretrain model.encoder=unet", "'model.encoder.name' is 'unet'", "a ViT"),
    ("pretrain.mask_ratio=1", "'pretrain.mask_ratio' is 1.0", "in (0, 1)"),
    ("pretrain.targets=[]", "'pretrain.targets' is []", "at least one channel"),
    ("pretrain.targets=[x]", "'pretrain.targets' is ['x']", "groups: hh, hv"),
    ("task=pretrain data.channels=[hh]", "'pretrain.targets' is ['hh', 'hv']", "data.channels"),
    ("pretrain.decoder_depth=0", "'pretrain.decoder_depth' is 0", "1 or more"),
    ("pretrain.decoder_heads=0", "'pretrain.decoder_heads' is 0", "1 or more"),
    ("pretrain.decoder_heads=3", "'pretrain.decoder_dim' is 512", "decoder_heads (3)"),
    ("pretrain.decoder_dim=18 pretrain.decoder_heads=2", "'pretrain.decoder_dim' is 18", "multiple of 4"),
    (
        "'segment.weights={SIC: 1, SOD: 0, FLOE: -1}'",
        "'segment.weights' is {'SIC': 1.0, 'SOD': 0.0, 'FLOE': -1.0}",
        "0 or more",
    ),
    ("'segment.weights={SIC: 0, SOD: 0, FLOE: 0}'", "'segment.weights' is {'SIC': 0.0", "above 0"),
    ("segment.weights.SIX=1", "'segment.weights.SIX' is 'SIX'", "SIC, SOD, FLOE"),
    ("model.charts=[SIC] segment.weights.SIC=0", "'segment.weights' is {'SIC': 0.0", "above 0"),
    ("segment.losses.SIC=both", "'segment.losses.SIC.name' is 'both'", "cross_entropy, squared_error"),
    ("segment.losses.SIC=cross_entropy", "'segment.losses.SIC' is 'cross_entropy'", "model.heads.SIC is regression"),
    ("segment.losses.SOD=squared_error", "'segment.losses.SOD' is 'squared_error'", "regression"),
    ("'segment.losses.SOD=[dice, cross_entropy, dice]'", "'segment.losses.SOD' is ['dice', 'cross_", "each once"),
    ("segment.losses.SOD=[]", "'segment.losses.SOD' is []", "one loss or more"),
    ("'segment.losses.SOD=[cross_entropy, huber]'", "'segment.losses.SOD' is 'huber'", "heads regression"),
    ("'segment.losses.SOD={name: dice, weight: 0}'", "'segment.losses.SOD.weight' is 0", "positive"),
    ("segment.class_weights.ICE=inverse", "'segment.class_weights.ICE' is 'ICE'", "SIC, SOD, FLOE"),
    ("segment.class_weights.SOD=rare", "'segment.class_weights.SOD.name' is 'rare'", "inverse, effective"),
    ("'segment.class_weights.SOD={name: effective, beta: 1}'", "'segment.class_weights.SOD.beta' is 1", "[0, 1)"),
    ("'segment.class_weights.SOD={name: inverse, cap: 0.5}'", "'segment.class_weights.SOD.cap' is 0.5", "1 or more"),
    (
        "segment.losses.SOD=dice segment.class_weights.SOD=inverse",
        "'segment.class_weights.SOD.name' is 'inverse'",
        "no loss of SOD (dice)",
    ),
    ("segment.losses.SIC=soft model.heads.SIC=classification", "'segment.losses.SIC' is 'soft'", "SOD, FLOE"),
    ("'segment.losses.SOD={name: soft, soft_weight: 0}'", "'segment.losses.SOD.soft_weight' is 0", "positive"),
    ("segment.losses.SOD.name=soft segment.losses.SOD.where=some", "'segment.losses.SOD.where' is 'some'", "masked"),
    ("segment.losses.SOD=soft model.heads.SOD=regression", "'segment.losses.SOD' is 'soft'", "regression"),
    ("segment.polygons.SIC.weight=1", "'segment.polygons.SIC' is 'SIC'", "SOD, FLOE"),
    ("segment.polygons.SOD.weight=0", "'segment.polygons.SOD.weight' is 0", "leave the chart out"),
    ("segment.polygons.SOD.least=0", "'segment.polygons.SOD.least' is 0", "set 1 or more"),
    ("segment.polygons.SOD.weight=1 model.heads.SOD=ordinal", "'segment.polygons.SOD' is 'ordinal'", "classification"),
    ("segment.polygons.SOD.weight=1 data.reader=webdataset", "'data.reader' is 'webdataset'", "set index"),
    ("segment.consistency=-1", "'segment.consistency' is -1", "0 (none) or more"),
    ("segment.consistency=1 model.charts=[SOD]", "'segment.consistency' is 1", "one chart"),
    ("segment.consistency=1 data.channels=[era5]", "'segment.consistency' is 1", "hh or hv"),
    ("segment.balance=even", "'segment.balance' is 'even'", "fixed, uncertainty, gradient"),
    ("segment.balance=gradient model.charts=[SOD]", "'segment.balance' is 'gradient'", "fewer than two"),
    (
        "'segment.losses.SOD={name: dice, over: batch}' engine.micro_batch_size=2",
        "'engine.micro_batch_size' is 2",
        "dice of SOD is over the batch",
    ),
    ("segment.losses.ICE=cross_entropy", "'segment.losses.ICE' is 'ICE'", "SIC, SOD, FLOE"),
    # Optimiser, engine, logs.
    ("optim.lr=0", "'optim.lr' is 0.0", "a positive learning rate"),
    ("optim.lr=fast", "'optim.lr' is 'fast'", "a number"),
    ("optim.lr=.nan", "'optim.lr' is nan", "a finite number"),
    ("optim.learning_rate=1", "'optim.learning_rate'", "value 1", "known: name, lr"),
    ("optim.weight_decay=-0.1", "'optim.weight_decay' is -0.1", "0 or more"),
    ("optim.warmup=1", "'optim.warmup' is 1.0", "in [0, 1)"),
    ("optim.final_lr=2", "'optim.final_lr' is 2.0", "in [0, 1]"),
    ("optim.betas=[0.9,1]", "'optim.betas' is [0.9, 1.0]", "in [0, 1)"),
    ("optim.betas=[0.9]", "'optim.betas' is [0.9]", "a list of 2 values"),
    ("optim.clip=-1", "'optim.clip' is -1.0", "0 (off) or more"),
    ("engine.zero_stage=4", "'engine.zero_stage' is 4", "0, 1, 2, 3"),
    ("engine.precision=int8", "'engine.precision' is 'int8'", "fp32, bf16, fp16"),
    ("engine.precision=bf16 engine.zero_stage=0", "'engine.zero_stage' is 0", "set 1"),
    ("engine.global_batch_size=0", "'engine.global_batch_size' is 0", "1 or more"),
    ("engine.micro_batch_size=5", "'engine.micro_batch_size' is 5", "a divisor of global_batch_size (16)"),
    ("engine.micro_batch_size=0", "'engine.micro_batch_size' is 0", "a divisor of"),
    ("engine.threads=0", "'engine.threads' is 0", "1 or more"),
    ("tracking.every=0", "'tracking.every' is 0", "1 or more"),
    ("tracking.wandb=maybe", "'tracking.wandb' is 'maybe'", "auto, offline, off"),
    ("'tracking.project=\"\"'", "'tracking.project' is ''", "a name"),
    ("tracking.project=ice/2020", "'tracking.project' is 'ice/2020'", "without / "),
    ("'tracking.group=\"\"'", "'tracking.group' is ''", "a name, or null"),
]

# Those that show when the network is built, on the meta device, for tiles of 384 pixels.
BUILDING: list[tuple[str, ...]] = [
    ("model.encoder=vit_of_my_own", "'model.encoder.name' is 'vit_of_my_own'", "vit_base_patch16_224"),
    (
        "model.encoder=vit_base_patch16_224.own",
        "'model.encoder.name' is 'vit_base_patch16_224.own'",
        "vit_base_patch16_224",
    ),
    ("model.encoder=deit_tiny_distilled_patch16_224", "'deit_tiny_distilled_patch16_224'", "a plain one"),
    ("model.encoder=vit_relpos_small_patch16_224", "'vit_relpos_small_patch16_224'", "a plain one"),
    ("model.encoder=vit_base_resnet50d_224", "'vit_base_resnet50d_224'", "a hybrid of CNN and ViT", "a plain network"),
    ("model.encoder.num_heads=5", "'model.encoder.name'", "{'num_heads': 5}", "a multiple of num_heads"),
    ("model.encoder.patch_size=7", "'model.encoder.patch_size' is 7", "a divisor of the tile (384 pixels)"),
    ("task=pretrain model.encoder.patch_size=10", "'model.encoder.patch_size' is 10", "a divisor of the tile"),
    ("data.shards=tiny model.encoder.patch_size=48", "'model.encoder.patch_size' is 48", "the tile (32 pixels)"),
    ("data.augment.crop=0.001", "'data.augment.crop' is 0.001", "384 pixels"),
    ("task=pretrain pretrain.mask_ratio=0.001", "'pretrain.mask_ratio' is 0.001", "at least 1 of a tile's 576 patches"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a config and modules; what they load and add is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    (tmp_path / "plain.yaml").write_text("steps: 10\n")
    (tmp_path / "fails.py").write_text("1 / 0\n")
    (tmp_path / "adds.py").write_text(
        "from dataclasses import dataclass\n"
        "from arcticseg.engine.config import HookConfig\n"
        "from arcticseg.errors import need\n"
        "@dataclass(frozen=True)\n"
        "class MeanConfig(HookConfig):\n"
        "    name: str = 'mean'\n"
        "    every: int = 1\n"
        "    def __post_init__(self):\n"
        "        need(self.every > 0, 'every', self.every, 'set 1 or more')\n"
        "HookConfig.table['mean'] = MeanConfig\n"
    )
    (tmp_path / "tiny").mkdir()
    write_manifest(tmp_path / "tiny", Manifest(32, (4,), {"train": ()}, {}, {}, BUILDER, True, "f" * 32))
    with forgotten(tmp_path, HookConfig):
        yield tmp_path


def refusal(capsys: pytest.CaptureFixture[str], overrides: str) -> str:
    """What a dry run with these overrides says: one line, and nothing on stdout."""
    assert main(["train", "--config", "plain.yaml", "--dry-run", *shlex.split(overrides)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("arcticseg: error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def assert_tells(message: str, *parts: str) -> None:
    """See that a message has these parts, in this order."""
    place = 0
    for part in parts:
        assert part in message[place:], message
        place = message.index(part, place) + len(part)


def test_there_are_many() -> None:
    assert len({case[0] for case in CASES}) == len(CASES) > 100


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_a_config_that_cannot_work_is_refused(case: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert_tells(refusal(capsys, case[0]), *case[1:])


@needs_timm
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("case", BUILDING, ids=[case[0] for case in BUILDING])
def test_a_network_that_cannot_be_built_is_refused(case: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert_tells(refusal(capsys, case[0]), *case[1:])


def test_a_config_that_is_not_there_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "nowhere", "--dry-run"]) == 2
    assert_tells(capsys.readouterr().err, "'nowhere'", "scratch_vit.yaml")
    (folder / "top.yaml").write_text("base: nowhere\n")
    assert main(["train", "--config", "top.yaml", "--dry-run"]) == 2
    assert_tells(capsys.readouterr().err, "'nowhere'", "scratch_vit.yaml")


@needs_timm
@pytest.mark.parametrize("name", [name for name in config.shipped() if "finetune" not in config.read(name)])
def test_every_shipped_config_passes(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    length = [] if {"steps", "epochs"} & set(config.read(name)) else ["steps=1"]
    assert main(["train", "--config", name, "--dry-run", *length]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    (folder / "again.yaml").write_text(printed.out)
    assert main(["train", "--config", "again.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out == printed.out

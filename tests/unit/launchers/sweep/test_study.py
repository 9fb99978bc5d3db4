"""A study's YAML and the trials that follow from it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import yaml

from arcticseg import config
from arcticseg.errors import ConfigError
from arcticseg.run.config import RunConfig
from arcticseg.tracking import TrackingConfig
from launchers.sweep import study

TINY = {
    "out": "st",
    "common": {"steps": 3, "data": {"shards": "s", "channels": ["hh", "hv"]}, "engine": {"global_batch_size": 4}},
    "pretrain": {"mae": {"task": "pretrain"}},
    "finetune": {"vit": {"init": "mae"}, "unet": {"model": {"encoder": "unet"}}},
    "grid": {"data.label_fraction": [0.2, 1.0]},
}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def write(**changes: object) -> str:
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(config.merge(TINY, changes), sort_keys=False))
        return "study.yaml"

    return write


def test_trials_are_each_model_with_each_value_of_the_grid(write, tmp_path: Path) -> None:
    sweep, trials = study.load(write())
    assert sweep.out == "st"
    assert [trial.key for trial in trials] == [
        "pretrain/mae",
        "finetune/vit-label_fraction-0.2",
        "finetune/vit-label_fraction-1.0",
        "finetune/unet-label_fraction-0.2",
        "finetune/unet-label_fraction-1.0",
    ]
    mae, vit, _, unet, _ = trials
    assert mae.config.task == "pretrain"
    assert vit.config.model.init_from == mae.config.out == str(tmp_path / "st" / "pretrain" / "mae")
    assert vit.config.data.label_fraction == 0.2
    assert vit.init == "mae"
    assert (unet.config.model.encoder.name, unet.config.model.init_from, unet.init) == ("unet", None, None)
    for trial in trials:
        assert trial.config.data.shards == str(tmp_path / "s")
        assert trial.config.tracking.group == "st"
        assert Path(trial.config.out).is_absolute()


def test_overrides_reach_common_single_runs_and_the_grid(write) -> None:
    overrides = ["out=other", "common.optim.lr=1e-3", "finetune.unet.steps=7", "grid.data.label_fraction=[0.5]"]
    _, (mae, vit, unet) = study.load(write(), overrides)
    assert [trial.config.optim.lr for trial in (mae, vit, unet)] == [1e-3] * 3
    assert [trial.config.steps for trial in (mae, vit, unet)] == [3, 3, 7]
    assert unet.config.data.label_fraction == 0.5
    assert unet.config.tracking.group == "other"


def test_a_grid_of_two_keys_and_of_the_pretraining_itself(write) -> None:
    grid = {"seed": [0, 1], "init": ["mae", None], "data.label_fraction": [1.0]}
    _, trials = study.load(write(finetune={"unet": None}, grid=grid))
    tuned = [trial for trial in trials if trial.model == "vit"]
    assert [(trial.config.seed, trial.init) for trial in tuned] == [(0, "mae"), (0, None), (1, "mae"), (1, None)]
    assert tuned[1].name == "vit-label_fraction-1.0-seed-0-init-null"


def test_an_entry_may_have_a_grid_of_its_own(write) -> None:
    _, trials = study.load(write(finetune={"unet": {"grid": {"data.label_fraction": [0.5]}}}))
    assert [trial.name for trial in trials if trial.model == "unet"] == ["unet-label_fraction-0.5"]
    assert [trial.config.data.label_fraction for trial in trials if trial.model == "vit"] == [0.2, 1.0]


def test_equal_pretrainings_run_once(write) -> None:
    pretrain = {
        "again": {"task": "pretrain", "tracking": {"every": 5}, "data": {"workers": 2}},
        "longer": {"task": "pretrain", "steps": 4},
    }
    _, trials = study.load(write(pretrain=pretrain), ["finetune.vit.init=again"])
    assert [trial.name for trial in trials if trial.phase == "pretrain"] == ["mae", "longer"]
    vit = next(trial for trial in trials if trial.model == "vit")
    assert vit.init == "mae"
    assert vit.config.model.init_from == trials[0].config.out


def test_each_seed_has_its_own_pretraining(write) -> None:
    _, trials = study.load(write(seeds=[0, 7]))
    assert [trial.key for trial in trials] == [
        "pretrain/mae-seed-0",
        "pretrain/mae-seed-7",
        *(
            f"finetune/{model}-label_fraction-{share}-seed-{seed}"
            for model in ("vit", "unet")
            for share in (0.2, 1.0)
            for seed in (0, 7)
        ),
    ]
    for trial in trials:
        assert trial.config.seed == trial.grid["seed"] == int(trial.name.rpartition("-")[2])
    starts = {trial.config.seed: trial.config.model.init_from for trial in trials if trial.model == "vit"}
    assert {seed: Path(start).name for seed, start in starts.items()} == {0: "mae-seed-0", 7: "mae-seed-7"}


def test_seeds_stand_once_and_in_one_place(write) -> None:
    with pytest.raises(ConfigError, match=r"key 'seeds' is \[1, 1\]"):
        study.load(write(seeds=[1, 1]))
    with pytest.raises(ConfigError, match=r"key 'grid.seed' is \[1, 2\].*'seeds' is set"):
        study.load(write(seeds=[3], grid={"seed": [1, 2]}))


def test_a_base_beside_the_study_lies_under_common_and_entry(write, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.yaml").write_text("steps: 9\nseed: 5\noptim: {lr: 0.5, clip: 3}\n")
    path = Path(write(finetune={"vit": {"base": "mine.yaml", "optim": {"lr": 0.25}}})).rename(
        tmp_path / "sub" / "s.yaml"
    )
    cfg = next(trial for trial in study.load(path)[1] if trial.model == "vit").config
    assert (cfg.steps, cfg.seed, cfg.optim.lr, cfg.optim.clip) == (3, 5, 0.25, 3)


def test_threads_are_the_cpus_that_a_rank_has(write) -> None:
    _, trials = study.load(write(resources={"finetune": {"ranks": 2, "cpus": 6}}))
    assert [trial.config.engine.threads for trial in trials] == [1, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"finetunes": {}}, "unknown key 'finetunes'.*'finetune'"),
        ({"max_concurrent": 0}, "max_concurrent.*0"),
        ({"common": {"optim": {"rate": 1}}}, "pretrain 'mae'.*'optim.rate'"),
        ({"common": {"out": "x"}}, "'common.out'.*'x'"),
        ({"common": 3}, "'common'.*3"),
        ({"finetune": {"vit": {"init": "mea"}}}, "finetune 'vit-label_fraction-0.2'.*'init'.*'mea'.*mae"),
        ({"pretrain": {"mae": {"init": "mae"}}}, "pretrain 'mae'.*'init'.*'mae'"),
        ({"finetune": {"vit": {"model": {"encoder": {"depth": 6}}}}}, "'model.encoder.depth'.*6.*'mae'.*None"),
        (
            {"finetune": {"vit": {"model": {"encoder": "vit_tiny"}}}},
            "'model.encoder.name'.*'vit_tiny'.*'mae'",
        ),
        ({"finetune": {"vit": {"data": {"channels": ["hh"]}}}}, r"'data.channels'.*\['hh'\].*'mae'"),
        ({"finetune": {"vit": {"data": {"valid_plane": False}}}}, "'data.valid_plane'.*False.*'mae'.*True"),
        (
            {"finetune": {"unet": {"init": "mae"}}},
            "finetune 'unet-.*'model.encoder.name' is 'unet'; pretraining 'mae'",
        ),
        ({"finetune": {"vit": {"task": "pretrain"}}}, "finetune 'vit-.*'task'.*'pretrain'"),
        ({"finetune": {"a/b": {}}}, "'finetune'.*'a/b'"),
        ({"grid": {"data.label_fraction": 0.2}}, "'grid.data.label_fraction'.*0.2"),
        ({"grid": {"data.label_fraction": [0.2, 0.2]}}, "finetune 'vit-label_fraction-0.2'.*'grid'"),
        ({"grid": {"data.label_fraction": [2.0]}}, "'data.label_fraction'.*2.0"),
        ({"grid": {"data.label": [2.0]}}, "'data.label'"),
        ({"finetune": {"unet": {"grid": {"optim.lr": [1]}}}}, r"'finetune.unet.grid.optim.lr' is \[1\]; name a key"),
        ({"finetune": {"unet": {"grid": {"data.label_fraction": 1}}}}, "'finetune.unet.grid.data.label_fraction' is 1"),
        ({"pretrain": {"mae": {"grid": {"data.label_fraction": [1]}}}}, "pretrain 'mae'.*'grid'"),
        ({"resources": {"finetune": {"ranks": 3}}}, "'engine.global_batch_size'.*4.*3"),
        ({"resources": {"finetune": {"ranks": 2, "gpus": 1}}}, "'resources.finetune.gpus'.*1.0.*2"),
        ({"scheduler": "pbt"}, "'scheduler'.*'pbt'.*none, asha"),
        ({"asha": {"reduction": 1}}, "'asha.reduction'.*1"),
        ({"common": {"imports": ["no_such"]}}, "pretrain 'mae'.*no_such"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes: dict, told: str, write) -> None:
    with pytest.raises(ConfigError, match=told):
        study.load(write(**changes))


def test_each_trial_imports_what_the_command_line_and_its_config_name(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_by_all.py").write_text("")
    (tmp_path / "imported_by_name.py").write_text("")
    monkeypatch.setattr("sys.path", list(sys.path))
    file = write(finetune={"unet": {"imports": ["imported_by_name"]}})
    _, trials = study.load(file, imports=["imported_by_all.py"])
    both = {module: sys.modules.pop(module, None) for module in ("imported_by_all", "imported_by_name")}
    assert all(both.values())
    everywhere = str(tmp_path / "imported_by_all.py")
    assert trials[0].config.imports == (everywhere,)
    assert trials[-1].config.imports == ("imported_by_name", everywhere)


def test_an_empty_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("out: x\n")
    with pytest.raises(ConfigError, match="'finetune'"):
        study.load(tmp_path / "empty.yaml")


def test_identity_knows_what_changes_the_weights() -> None:
    cfg = RunConfig(steps=1)
    same = dataclasses.replace(cfg, out="elsewhere", tracking=TrackingConfig(every=3))
    other = dataclasses.replace(cfg, seed=1)
    assert study.identity(cfg) == study.identity(same) != study.identity(other)
    assert study.changes(cfg, same) == []
    assert study.changes(cfg, other) == [("seed", 0, 1)]


def test_short_names_stay_apart() -> None:
    keys = ["data.label_fraction", "optim.lr", "other.lr"]
    assert [study.short(key, keys) for key in keys] == ["label_fraction", "optim.lr", "other.lr"]


def test_the_shipped_study_asks_its_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, trials = study.load("study")
    assert sum(trial.phase == "pretrain" for trial in trials) == 1
    tuned = [trial for trial in trials if trial.phase == "finetune"]
    assert len(tuned) == 15
    assert {trial.config.data.label_fraction for trial in tuned} == {0.2, 0.4, 0.6, 0.8, 1.0}
    assert {trial.model for trial in tuned if trial.init} == {"vit_pretrained"}
    pretrained, scratch = (
        next(trial.config for trial in tuned if trial.model == name) for name in ("vit_pretrained", "vit_scratch")
    )
    # A comparison: nothing but the start differs.
    assert [key for key, _, _ in study.changes(pretrained, scratch)] == ["model.init_from"]


def test_the_small_study_asks_it_with_three_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, trials = study.load("studies/label_efficiency_small")
    pretrained = [trial for trial in trials if trial.phase == "pretrain"]
    assert [(trial.model, trial.config.seed) for trial in pretrained] == [
        (model, seed) for model in ("mae", "mae_deep") for seed in (0, 1, 2)
    ]
    # Both masked autoencoders differ in the depth of their decoder, and in nothing else.
    for mae, deep in zip(pretrained[:3], pretrained[3:], strict=True):
        assert [key for key, _, _ in study.changes(mae.config, deep.config)] == ["pretrain.decoder_depth"]
    alike: dict[tuple, dict] = {}
    for trial in trials[len(pretrained) :]:
        alike.setdefault((trial.grid["data.label_fraction"], trial.grid["seed"]), {})[trial.model] = trial.config
    assert sorted(alike) == [(fraction, seed) for fraction in (0.1, 0.2, 0.4, 1.0) for seed in (0, 1, 2)]
    # Both ViTs differ in where they start, and in nothing else.
    for (fraction, _), networks in alike.items():
        deep = {"vit_deep"} if fraction == 0.2 else set()
        assert set(networks) == {"vit_pretrained", "vit_scratch", "unet"} | deep
        for name in {"vit_pretrained"} | deep:
            changes = study.changes(networks[name], networks["vit_scratch"])
            assert [key for key, _, _ in changes] == ["model.init_from"]

"""The parts of a sweep that need no Ray."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from arcticseg import config
from arcticseg.data.manifest import Manifest, write_manifest
from arcticseg.errors import ConfigError, ShardError
from launchers.sweep import ray, study
from launchers.sweep import sweep as sweeps
from launchers.sweep.sweep import sweep
from tests.archive import BUILDER

STUDY = """
out: st
common: {steps: 3, data: {shards: s}, engine: {global_batch_size: 4}}
pretrain: {mae: {task: pretrain}}
finetune: {vit: {init: mae}, unet: {model: {encoder: unet}}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def shards(folder: Path, *splits: str, simulated: bool = False) -> None:
    folder.mkdir()
    write_manifest(folder, Manifest(32, (4,), dict.fromkeys(splits, ()), {}, {}, BUILDER, simulated, "f" * 32))


def test_dry_run_prints_every_trial_and_its_config(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("study.yaml", ["finetune.unet.seed=7"], dry_run=True) == 0
    printed = capsys.readouterr().out
    documents = printed.split("--- # ")
    assert documents[0] == "# pretrainings: 1, fine-tunings: 2\n"
    assert [text.splitlines()[0] for text in documents[1:]] == [
        "pretrain/mae",
        "finetune/vit, after pretrain/mae",
        "finetune/unet",
    ]
    _, (_, _, unet) = study.load("study.yaml", ["finetune.unet.seed=7"])
    assert documents[3].partition("\n")[2] == config.dump(unet.config)
    assert list(folder.iterdir()) == [folder / "study.yaml"]


def test_dry_run_needs_neither_ray_nor_torch(folder: Path) -> None:
    code = (
        "import sys; from launchers.cli import main; assert main(['sweep', 'study.yaml', '--dry-run']) == 0;"
        "sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_inputs_are_checked_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(ShardError, match=str(folder / "s")):
        sweep("study.yaml")
    shards(folder / "s", "train")
    with pytest.raises(ConfigError, match=r"s: .*'val'"):
        sweep("study.yaml")
    shards(folder / "s2", "train", "val")
    with pytest.raises(ConfigError, match=r"finetune 'unet'.*'model.init_from'.*nowhere"):
        sweep("study.yaml", ["common.data.shards=s2", "finetune.unet.model={init_from: nowhere, encoder: vit_tiny}"])
    assert not (folder / "st").exists()


def finish(trial: study.Trial, lines: list[dict[str, Any]]) -> None:
    """Leave what a finished run leaves."""
    (trial.folder / "weights").mkdir(parents=True)
    (trial.folder / "weights" / "last.safetensors").touch()
    (trial.folder / "config.yaml").write_text(config.dump(trial.config))
    (trial.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_finished_study_is_only_told_again(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards(folder / "s", "train", "val", simulated=True)
    cfg, trials = study.load("study.yaml")
    sweeps._prepare(folder / "st", cfg, trials, resume=False)
    for trial in trials:
        scores = {"SIC": 1.0, "SOD": 2.0, "FLOE": 3.0, "combined": 1.8, "reconstruction": 0.5}
        finish(trial, [{"step": 3, "kind": "validation", **scores}])
    with pytest.raises(ConfigError, match=r"'out'.*st'.*--resume"):
        sweep("study.yaml")
    # Nothing is left to do, so Ray is not started.
    monkeypatch.setattr(ray, "started", None)
    assert sweep("study.yaml", resume=True) == 0
    printed = capsys.readouterr().out
    assert "unet   1.00  2.00  3.00      1.80" in printed
    assert "SIMULATED" in printed
    with pytest.raises(ConfigError, match=r"finetune 'unet'.*'optim.lr'.*0.5.*0.0001"):
        sweep("study.yaml", ["finetune.unet.optim.lr=0.5"], resume=True)


def test_a_trial_too_large_for_every_machine_is_refused(folder: Path) -> None:
    cfg, _ = study.load("study.yaml", ["resources.finetune={cpus: 8, gpus: 1}"])
    small = {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}
    with pytest.raises(ConfigError, match=r"'resources.finetune.cpus'.*8.*4 CPUs"):
        ray._check_resources(cfg, [small, {"Alive": False, "Resources": {"CPU": 64.0}}])
    with pytest.raises(ConfigError, match=r"'resources.finetune.gpus'.*1.0.*0 GPUs"):
        ray._check_resources(cfg, [{"Alive": True, "Resources": {"CPU": 8.0}}])
    ray._check_resources(cfg, [small, {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}])


def test_ray_lives_in_the_study_only_where_its_sockets_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert ray.ray_folder(Path("/data/study")) == Path("/data/study/.ray")
    assert ray.ray_folder(Path("/data") / ("x" * 60)).parent == tmp_path

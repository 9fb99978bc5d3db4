"""Studies through Ray Tune, with real trainings."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from arcticseg.run.folder import CHECKPOINTS, LOG
from launchers.sweep.standings import RESULTS, TABLE
from tests.training import SLOW, lines

pytest.importorskip("ray", reason="Ray is not installed: pip install 'arcticseg[sweep]'")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(tiny_shards: Path, tmp_path: Path) -> dict:
    """One pretraining, two models, two shares of the labels."""
    return {
        "out": str(tmp_path / "study"),
        "common": {
            "steps": 2,
            "validate_every": 0,
            "checkpoint_every": 0,
            "data": {"shards": str(tiny_shards), "channels": ["hh", "hv", "incidence"]},
            "model": {
                "encoder": {
                    "name": "vit_tiny_patch16_224",
                    "patch_size": 8,
                    "embed_dim": 32,
                    "depth": 2,
                    "num_heads": 2,
                }
            },
            "engine": {"global_batch_size": 4, "zero_stage": 0},
            "tracking": {"every": 1, "wandb": "off"},
        },
        "pretrain": {
            "mae": {"task": "pretrain", "pretrain": {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}}
        },
        "finetune": {
            "vit": {"init": "mae", "model": {"decoder": {"channels": 16}}},
            "unet": {"model": {"encoder": {"name": "unet", "filters": [4, 8]}}},
        },
        "grid": {"data.label_fraction": [0.4, 1.0]},
    }


@pytest.fixture
def sweep(study: dict, tmp_path: Path) -> Iterator:
    """Start `arcticseg sweep` in a process group of its own, in the folder of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        command = [sys.executable, "-m", "launchers.cli", "sweep", str(tmp_path / "study.yaml"), *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_one_pretraining_and_four_fine_tunings(sweep, study: dict, tmp_path: Path) -> None:
    study["common"]["tracking"]["wandb"] = "offline"
    process = sweep()
    printed, told = process.communicate(timeout=600)
    assert process.returncode == 0, printed + told
    out = tmp_path / "study"
    assert told.count("pretrain/mae: started") == 1
    assert [line["step"] for line in lines(out / "pretrain" / "mae", "train")] == [1, 2]
    with open(out / TABLE) as file:
        rows = list(csv.DictReader(file))
    names = [(row["model"], row["data.label_fraction"], row["status"]) for row in rows]
    assert names == [(model, share, "finished") for model in ("vit", "unet") for share in ("0.4", "1.0")]
    for row in rows:
        (validation,) = lines(out / row["run"], "validation")
        assert float(row["combined"]) == validation["combined"]
        config = yaml.safe_load((out / row["run"] / "config.yaml").read_text())
        assert config["tracking"]["group"] == "study"
        start = str(out / "pretrain" / "mae") if row["model"] == "vit" else None
        assert config["model"]["init_from"] == start
        assert f"{validation['combined']:.2f}" in printed
        assert list((out / row["run"] / "wandb").glob("offline-run-*"))
    assert "SIMULATED" in printed
    # Nothing of Ray stays behind.
    assert not list(out.glob(".*"))

    process = sweep("--resume")
    again, told = process.communicate(timeout=120)
    assert (process.returncode, again) == (0, printed)
    assert "started" not in told


def test_goes_on_after_sigkill_and_without_what_fails(sweep, study: dict, tmp_path: Path) -> None:
    steps = 40
    study["common"] |= {"checkpoint_every": 5}
    # A module beside the study, which trials find by its name, makes the pretraining long enough to be ended.
    shutil.copy(str(SLOW), tmp_path / "slow_steps.py")
    study["pretrain"]["mae"] |= {"steps": steps, "hooks": ["slow"]}
    study["grid"] = {"data.label_fraction": [1.0]}
    # A scheduler reads a score in every report, and a trial that fails has none.
    study |= {"scheduler": "asha", "asha": {"grace": 1000, "reduction": 4}, "max_concurrent": 1}
    study["finetune"]["vit"]["optim"] = {"lr": 1e30, "clip": 0.0}
    study["finetune"]["vit"]["steps"] = 4
    first, run = sweep("--import", "slow_steps"), tmp_path / "study" / "pretrain" / "mae"
    until = time.monotonic() + 300
    while not (run / CHECKPOINTS / "last").exists():
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()

    second = sweep("--import", "slow_steps", "--resume")
    printed, told = second.communicate(timeout=600)
    assert second.returncode == 1, printed + told
    # The pretraining went on, each step stands once; what failed has a reason; the other ran to its end.
    assert [line["step"] for line in lines(run, "train")] == list(range(1, steps + 1))
    log = tmp_path / "study" / "finetune" / "vit-label_fraction-1.0" / LOG
    reasons = [line for line in told.splitlines() if line.startswith("finetune/vit-label_fraction-1.0: failed: ")]
    assert "optim.lr (1e+30)" in reasons[-1]
    assert str(log) in reasons[-1]
    trials = json.loads((tmp_path / "study" / RESULTS).read_text())["trials"]
    assert [trial["status"] for trial in trials] == ["finished", "failed", "finished"]

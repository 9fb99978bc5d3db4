"""Tiny training runs that tests start, forked (see `tests.forked`) or through the real launchers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from arcticseg.ranks import without_rank_variables
from arcticseg.run.folder import METRICS
from launchers.command import command
from tests.forked import Forked

# To --import: a hook `slow`. By its path, since what is imported here would add to the tables of all tests.
SLOW = Path(__file__).parent / "slow.py"

# Small enough for seconds on one core; the learning rate moves the weights well in a few steps.
COMMON = {
    "optim.lr": 3e-3,
    "engine.precision": "fp32",
    "engine.global_batch_size": 4,
    "engine.threads": 1,
    "tracking.every": 1,
    "tracking.wandb": "off",
    "tracking.mfu": False,
    "validate_every": 0,
    "checkpoint_every": 0,
    "data.workers": 0,
}
VIT = {
    "model.encoder.name": "vit_tiny_patch16_224",
    "model.encoder.patch_size": 8,
    "model.encoder.embed_dim": 32,
    "model.encoder.depth": 4,
    "model.encoder.num_heads": 2,
    "model.decoder.channels": 16,
}
UNET = {"model.encoder.name": "unet", "model.encoder.filters": "[4, 8]"}
MAE = VIT | {"task": "pretrain", "pretrain.decoder_dim": 16, "pretrain.decoder_depth": 1, "pretrain.decoder_heads": 2}
# Its running statistics are no parameters, and other on each rank.
BATCH = UNET | {"model.encoder.norm": "batch", "model.decoder.norm": "batch"}
NETWORKS = {"vit": VIT, "unet": UNET, "mae": MAE, "batch": BATCH}


def overrides(shards: Path, out: Path, *parts: dict[str, Any]) -> list[str]:
    """`key=value` arguments."""
    merged: dict[str, Any] = {"data.shards": shards, "out": out} | COMMON
    for part in parts:
        merged |= part
    return [f"{key}={value}" for key, value in merged.items()]


def empty_config(folder: Path) -> str:
    """A config file of defaults; overrides say the rest."""
    path = folder / "defaults.yaml"
    path.write_text("{}\n")
    return str(path)


Training = subprocess.Popen[str] | Forked


def start(config: str, arguments: Sequence[str], ranks: int = 1, resume: bool = False) -> Forked:
    """Start a training in a process group of its own, standard error in its output."""
    return Forked("launchers.train", command(config, arguments, resume)[3:], ranks, merged=True)


def launch(config: str, arguments: Sequence[str], ranks: int = 1, resume: bool = False) -> subprocess.Popen[str]:
    """As `start`, by the command line that `arcticseg train` and sweeps use."""
    return subprocess.Popen(
        command(config, arguments, resume, ranks),
        env={"DS_ACCELERATOR": "cpu", **without_rank_variables(os.environ), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def train(
    config: str,
    arguments: Sequence[str],
    ranks: int = 1,
    resume: bool = False,
    starting: Callable[..., Training] = start,
) -> str:
    """Train to the end, started by `start` or `launch`; return what was printed."""
    process = starting(config, arguments, ranks, resume)
    try:
        printed, _ = process.communicate(timeout=600)
    finally:
        kill(process)
    assert process.returncode == 0, printed
    return printed


def kill(process: Training, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal a training with all its ranks."""
    if process.poll() is None:
        os.killpg(process.pid, number)


def lines(out: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that are of a kind."""
    records = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def wait_for_step(process: Training, out: Path, step: int, seconds: float = 300) -> None:
    """Wait until metrics.jsonl holds a step."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        text = (out / METRICS).read_text() if (out / METRICS).exists() else ""
        if f'"step": {step}, "kind": "train"' in text:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    raise AssertionError(f"no step {step} within {seconds} s")

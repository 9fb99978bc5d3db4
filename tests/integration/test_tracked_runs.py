"""What wandb and metrics.jsonl hold of a run that was stopped twice."""

from __future__ import annotations

import itertools
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arcticseg.ice.score import detailed_scores, scores
from arcticseg.ice.sigrid import CHARTS, CLASS_NAMES
from arcticseg.run.folder import finished
from launchers.status import STOPPED
from tests import wandb_files
from tests.training import MAE, UNET, empty_config, kill, lines, overrides, start, train, wait_for_step
from tests.wandb_files import Logged

pytest.importorskip("wandb")

STEPS = 10
TRACKED = {
    "tracking.wandb": "offline",
    "tracking.mfu": True,
    "hooks": "[{name: pictures, samples: 2}]",
    "validate_every": 2,
    "steps": STEPS,
}

# What the page on tracking promises of a segmentation on two ranks without a GPU.
PROMISED = {
    *("step", "train/loss", "train/lr", "train/lr/x1", "train/lr/x0.5", "train/grad_norm", "train/skipped"),
    *(f"train/loss/{chart}" for chart in CHARTS),
    *("speed/samples_per_s", "speed/samples_per_s_a_gpu", "speed/tflops_a_gpu", "speed/mfu", "speed/data_wait"),
    *(f"speed/step_ms_{name}/rank_{rank}" for name in ("p50", "p99") for rank in (0, 1)),
    *(f"memory/host_gb/rank_{rank}" for rank in (0, 1)),
    *(f"validation/{score}" for score in ("SIC", "SOD/mIoU", "SOD/macro_F1")),
    *(f"confusion/{chart}_table" for chart in CHARTS),
    "pictures/validation",
}


def files(out: Path) -> list[Path]:
    return sorted(out.glob("wandb/offline-run-*/*.wandb"))


def rows(parts: list[Logged]) -> list[tuple[int, dict[str, Any]]]:
    return [row for part in parts for row in part.rows.items()]


@pytest.fixture(scope="module")
def stopped_twice(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmentation on two ranks, stopped by SLURM's signals after a few steps, again, and trained to its end."""
    folder = tmp_path_factory.mktemp("tracked")
    config, out = empty_config(folder), folder / "run"
    settings = UNET | TRACKED | {"optim.encoder_rate": 0.5, "tracking.tensorboard": True}
    arguments = overrides(tiny_shards, out, settings)
    for step, number in ((3, signal.SIGUSR1), (7, signal.SIGTERM)):
        process = start(config, arguments, 2, resume=step > 3)
        try:
            wait_for_step(process, out, step)
            # All processes get it, wandb's service, too.
            kill(process, number)
            process.communicate(timeout=120)
        finally:
            kill(process)
        assert process.returncode == STOPPED
        assert not finished(out)
        # Folders of wandb are named by the second.
        time.sleep(1)
    train(config, arguments, 2, resume=True)
    return out


def test_a_run_stopped_twice_is_one_run_with_every_promised_series(stopped_twice: Path) -> None:
    parts = [wandb_files.read(file) for file in files(stopped_twice)]
    assert len(parts) == 3
    assert {part.id for part in parts} == {json.loads((stopped_twice / "wandb.json").read_text())["id"]}
    logged = rows(parts)
    steps = [number for number, _ in logged]
    assert all(before < after for before, after in itertools.pairwise(steps))
    assert [row["step"] for _, row in logged if "train/loss" in row] == list(range(1, STEPS + 1))
    assert set().union(*(part.series for part in parts)) >= PROMISED
    assert PROMISED - parts[-1].series == set()
    for part in parts:
        facts = part.config["run"]
        assert facts["version"]
        assert facts["ranks"] == 2
        assert facts["fingerprint"] == lines(stopped_twice, "run")[0]["fingerprint"]
        assert part.config["model"]["encoder"]["name"] == "unet"


def test_wandb_and_metrics_hold_the_same_series(stopped_twice: Path) -> None:
    logged = rows([wandb_files.read(file) for file in files(stopped_twice)])
    train_rows = {row["step"]: row for _, row in logged if "train/loss" in row}
    for line in lines(stopped_twice, "train"):
        row = train_rows[line["step"]]
        assert row["train/loss/SIC"] == line["loss_SIC"]
        assert row["speed/data_wait"] == line["data_wait"]
        assert row["train/lr/x0.5"] == line["lr/x0.5"] == pytest.approx(0.5 * line["lr"])
        same = {name: value for name, value in line.items() if name.startswith(("speed/", "memory/"))}
        assert same.items() <= row.items()
        assert line["speed/step_ms_p50/rank_1"] <= line["speed/step_ms_p99/rank_1"]
        assert 0 < line["speed/mfu"] < 1
    assert [line["ranks"] for line in lines(stopped_twice, "run")] == [2, 2, 2]
    assert [line["step"] for line in lines(stopped_twice, "validation")] == list(range(2, STEPS + 1, 2))


def test_confusion_matrices_are_those_of_the_scores(stopped_twice: Path) -> None:
    validations, matrices = (lines(stopped_twice, kind) for kind in ("validation", "confusion"))
    assert [line["step"] for line in matrices] == [line["step"] for line in validations]
    for line, validation in zip(matrices, validations, strict=True):
        counts = {chart: np.array(line[chart]) for chart in CHARTS}
        told = scores(counts) | detailed_scores("SOD", counts["SOD"])
        assert {name: validation[name] for name in told} == told
    file = files(stopped_twice)[-1]
    shown = wandb_files.read(file).rows[STEPS]["confusion/SOD_table"]
    table = json.loads((file.parent / "files" / shown["path"]).read_text())
    counts = {(row[0], row[1]): row[2] for row in table["data"]}
    names = CLASS_NAMES["SOD"]
    assert [[counts[actual, predicted] for predicted in names] for actual in names] == matrices[-1]["SOD"]


def test_pictures_are_in_wandb_as_on_disk(stopped_twice: Path) -> None:
    told = lines(stopped_twice, "picture")
    shown = {}
    for file in files(stopped_twice):
        for row in wandb_files.read(file).rows.values():
            if "pictures/validation" in row:
                shown[row["step"]] = (file.parent / "files" / row["pictures/validation"]["path"]).read_bytes()
    assert shown == {line["step"]: (stopped_twice / "pictures" / line["file"]).read_bytes() for line in told}
    assert list(shown) == list(range(2, STEPS + 1, 2))


def test_event_files_for_tensorboard_hold_the_series(stopped_twice: Path) -> None:
    pb = pytest.importorskip("tensorboardX.proto.event_pb2")
    scalars: dict[str, dict[int, float]] = {}
    images = set()
    for file in sorted((stopped_twice / "tensorboard").iterdir()):
        for data in events(file.read_bytes()):
            event = pb.Event.FromString(data)
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars.setdefault(value.tag, {})[event.step] = value.simple_value
                elif value.HasField("image"):
                    images.add(value.tag)
    losses = {line["step"]: line["loss_SIC"] for line in lines(stopped_twice, "train")}
    assert scalars["train/loss/SIC"] == pytest.approx(losses)
    assert {name for name in PROMISED if name.split("/")[0] in ("train", "speed", "memory")} <= scalars.keys()
    assert images == {"pictures/validation", *(f"confusion/{chart}" for chart in CHARTS)}


def events(data: bytes) -> list[bytes]:
    """The records of an event file: length, its checksum, data, its checksum."""
    out, place = [], 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 8], "little")
        out.append(data[place + 12 : place + 12 + size])
        place += 16 + size
    return out


def test_reconstructions_of_a_pretraining_are_logged(tiny_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(empty_config(tmp_path), overrides(tiny_shards, out, MAE | TRACKED | {"steps": 2}))
    (file,) = files(out)
    logged = wandb_files.read(file)
    assert {
        "train/loss/reconstruction",
        "validation/reconstruction",
        "pictures/validation",
        "speed/mfu",
    } <= logged.series

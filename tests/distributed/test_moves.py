"""Damage, sources and moves through the whole trainer, on real ranks."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arcticseg.data.manifest import read_index, read_manifest
from tests.served import serve
from tests.training import UNET, empty_config, kill, lines, overrides, start, train, wait_for_step


def events(out: Path, name: str) -> list[dict[str, Any]]:
    return [line for line in lines(out, "event") if line["event"] == name]


def harm(folder: Path, split: str, number: int) -> tuple[str, int]:
    """Flip a bit of the labels of a sample of the first shard of a split; its shard and offset."""
    name = read_manifest(folder).splits[split][0].name
    entry = read_index(folder / name)[number]
    data = bytearray((folder / name).read_bytes())
    data[entry.offset + entry.size - 1] ^= 1
    (folder / name).write_bytes(data)
    return name, entry.offset


@pytest.fixture
def damaged(tiny_shards: Path, tmp_path: Path) -> Path:
    """Shards with two damaged training samples and one validation sample."""
    folder = Path(shutil.copytree(tiny_shards, tmp_path / "damaged"))
    for split, number in (("train", 0), ("train", 3), ("val", 1)):
        harm(folder, split, number)
    return folder


def test_damage_is_agreed_replaced_and_told_by_two_ranks_as_by_one(damaged: Path, tmp_path: Path) -> None:
    config = empty_config(tmp_path)
    losses, told = {}, {}
    for ranks, workers in ((1, 0), (2, 1)):
        out = tmp_path / str(ranks)
        settings = UNET | {"epochs": 1, "data.workers": workers, "engine.zero_stage": 0}
        with serve(damaged) as server:
            place = damaged if ranks == 1 else server.address
            printed = train(config, overrides(damaged, out, settings, {"data.shards": place}), ranks)
        losses[ranks] = [line["loss"] for line in lines(out, "train")]
        replaced = events(out, "damaged sample, replaced")
        told[ranks] = [(line["step"], line["number"], line["offset"], line["reason"]) for line in replaced]
        assert all(line["shard"].endswith("/train-000000.tar") for line in replaced)
        assert "damaged sample, replaced at step" in printed
        (validated,) = events(out, "damaged validation sample, left out")
        assert validated["shard"].endswith("/val-000000.tar")
        (summary,) = events(out, "summary")
        assert summary["damaged"] == 2
        assert summary["samples"] == 4 * len(losses[ranks])
        n = sum(shard.samples for shard in read_manifest(damaged).splits["train"])
        assert summary["dropped"] == n - summary["samples"] < 4
    assert [number for _, number, _, _ in told[1]] == sorted({0, 3}, key=[n for _, n, _, _ in told[1]].index)
    assert told[1] == told[2]
    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-4)


def test_too_much_damage_ends_all_ranks_with_one_clear_error(damaged: Path, tmp_path: Path) -> None:
    with serve(damaged) as server:
        settings = UNET | {"steps": 50, "data.shards": server.address, "data.max_damaged": 0}
        process = start(empty_config(tmp_path), overrides(damaged, tmp_path / "run", settings), ranks=2)
        try:
            printed, _ = process.communicate(timeout=200)
        finally:
            kill(process)
    assert process.returncode != 0
    said = {line for line in printed.splitlines() if "arcticseg: error: " in line}
    (message,) = said  # the launcher may end the other rank before it prints the same
    assert re.search(
        r"[12] samples are damaged, more than data\.max_damaged \(0\), such as http://.*train-000000\.tar", message
    )
    assert "Traceback" not in printed


def test_a_run_moves_to_other_ranks_and_another_batch_size(tiny_shards: Path, tmp_path: Path) -> None:
    """Stopped in mid-epoch, and on with twice the ranks and twice the batch: no sample lost, none twice."""
    config, out = empty_config(tmp_path), tmp_path / "run"
    settings = UNET | {"epochs": 6, "engine.zero_stage": 0}
    process = start(config, overrides(tiny_shards, out, settings))
    wait_for_step(process, out, 3)
    kill(process, signal.SIGUSR1)
    process.wait(timeout=120)
    assert process.returncode == 3
    state = json.loads(next((out / "checkpoints").glob("step-*/state.json")).read_text())["position"]
    before = state["loader"]["consumed"]
    assert before == 4 * state["step"]
    rates = [line["lr"] for line in lines(out, "train")]
    settings |= {"engine.global_batch_size": 8, "data.tail": "pad"}
    train(config, overrides(tiny_shards, out, settings), ranks=2, resume=True)
    n = 6 * sum(shard.samples for shard in read_manifest(tiny_shards).splits["train"])
    done = lines(out, "train")[-1]["step"] - state["step"]
    (*_, summary) = events(out, "summary")
    assert summary["samples"] == before + 8 * done
    assert summary["padded"] == before + 8 * done - n < 8
    assert summary["dropped"] == 0
    # The learning rate goes on where it was.
    after = [line["lr"] for line in lines(out, "train")][len(rates) :]
    assert abs(after[0] - rates[-1]) < 0.2 * max(rates)

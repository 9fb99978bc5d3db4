"""Logs of a run."""

from __future__ import annotations

import json
import socket
import struct
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from arcticseg import tracking
from arcticseg.tracking import Jsonl, TrackingConfig, Wandb, make_trackers, wandb_mode


def test_jsonl_keeps_what_a_checkpoint_covers_and_drops_half_lines(tmp_path: Path) -> None:
    first = Jsonl(tmp_path)
    for step in range(1, 6):
        first.log("train", step, {"loss": 1.0 / step})
    first.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "kind": "tr')
    again = Jsonl(tmp_path, keep_until=3)
    again.log("train", 4, {"loss": 0.5})
    again.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.5)]


def records(path: Path) -> list[bytes]:
    """The records of a .wandb file: LevelDB log framing in 32 KiB blocks after a 7-byte header."""
    data = path.read_bytes()
    out, partial, place = [], b"", 7
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        partial += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            out.append(partial)
            partial = b""
    return out


def finished_records(path: Path, seconds: float = 20) -> list[Any]:
    """The parsed records of a run that has ended: wandb's service writes the last of them after `finish` returns."""
    from wandb.proto import wandb_internal_pb2

    until = time.monotonic() + seconds
    while True:
        parsed = [wandb_internal_pb2.Record.FromString(data) for data in records(path)]
        if parsed and parsed[-1].HasField("exit"):
            return parsed
        assert time.monotonic() < until, f"{path}: {len(parsed)} records and no end"
        time.sleep(0.05)


def test_wandb_offline_run_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    tracker = Wandb(tmp_path, TrackingConfig(project="ice", group="study"), {"optim": {"lr": 0.5}}, "run")
    for step in (1, 2):
        tracker.log("train", step, {"loss": 3.0 / step, "note": "text is left out"})
    tracker.log("validation", 2, {"SIC": 12.5, "SOD/F1/old_ice": 31.25, "SOD": None})
    tracker.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    history, runs = {}, []
    for record in finished_records(file):
        if record.HasField("run"):
            runs.append((record.run.project, record.run.run_group, record.run.display_name))
        if record.HasField("history"):
            items = {
                (item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item
            }
            history.setdefault(items["_step"], {}).update(items)
    assert runs[0] == ("ice", "study", "run")
    assert history[1]["train/loss"] == 3.0
    assert history[2]["train/loss"] == 1.5
    assert history[2]["validation/SIC"] == 12.5
    assert history[2]["validation/SOD/F1/old_ice"] == 31.25
    assert "validation/SOD" not in history[2]


def test_wandb_can_be_switched_off(tmp_path: Path) -> None:
    trackers = make_trackers(tmp_path, TrackingConfig(wandb="off"), {}, "run")
    assert len(trackers) == 1
    for tracker in trackers:
        tracker.close()
    assert not (tmp_path / "wandb").exists()


VARIABLES = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED", "WANDB_DIR", "WANDB_BASE_URL")


@pytest.mark.parametrize(
    ("config", "variables", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "dryrun"}, "offline"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "off"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_DISABLED": "true"}, "off"),
        ("auto", {"WANDB_MODE": "online"}, "online"),
        ("offline", {"WANDB_API_KEY": "k", "WANDB_MODE": "online"}, "offline"),
        ("offline", {"WANDB_MODE": "disabled"}, "off"),
        ("off", {"WANDB_API_KEY": "k", "WANDB_MODE": "online"}, "off"),
    ],
)
def test_wandb_own_variables_are_obeyed(
    config: Any, variables: dict[str, str], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode(TrackingConfig(wandb=config)) == mode


def test_wandb_in_another_folder_offline_as_its_server_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setattr(tracking, "_ANSWER", 0.3)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "logs"))
    # It takes connections, and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        tracker = Wandb(tmp_path / "run", TrackingConfig(), {}, "run")
    tracker.log("train", 1, {"loss": 1.0})
    tracker.close()
    assert "does not answer" in capsys.readouterr().err
    assert list(tmp_path.glob("logs/wandb/offline-run-*"))
    assert not (tmp_path / "run").exists()


def test_pictures_are_listed_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "step-00000003.png"
    path.parent.mkdir()
    Image.new("RGB", (4, 4)).save(path)
    listed = Jsonl(tmp_path)
    listed.picture(3, "validation", path)
    listed.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line == {"step": 3, "kind": "picture", "name": "validation", "file": path.name}
    pytest.importorskip("wandb")
    shown: list[tuple[dict[str, Any], int]] = []
    tracker = object.__new__(Wandb)
    tracker._run = SimpleNamespace(log=lambda values, step: shown.append((values, step)))
    tracker.picture(3, "validation", path)
    ((values, step),) = shown
    assert step == 3
    assert type(values["pictures/validation"]).__name__ == "Image"

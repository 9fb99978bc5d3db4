"""Logs of a run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from arcticseg.errors import ConfigError
from arcticseg.tracking import (
    Jsonl,
    RunFacts,
    TrackingConfig,
    Wandb,
    check_installed,
    make_trackers,
    wandb_mode,
    wandb_run,
)
from arcticseg.tracking.identity import Identity
from tests import wandb_files


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


@pytest.fixture(autouse=True)
def _no_wandb_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("NETRC", raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_wandb_offline_run_is_read_back(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    cfg, facts = TrackingConfig(project="ice", group="study"), {"optim": {"lr": 0.5}}
    tracker = Wandb(tmp_path, cfg, facts, "run", Identity("ab12cd34", str(tmp_path)))
    for step in (1, 2):
        tracker.log("train", step, {"loss": 3.0 / step, "loss_SIC": 4.0, "data_wait": 0.5, "note": "text is left out"})
    tracker.log("validation", 2, {"SIC": 12.5, "SOD/F1/old_ice": 31.25, "SOD": None})
    tracker.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    logged = wandb_files.read(file)
    assert (logged.id, logged.project, logged.group, logged.name) == ("ab12cd34", "ice", "study", "run")
    assert logged.config["optim"] == {"lr": 0.5}
    first, second = ({k: v for k, v in row.items() if k[0] != "_"} for row in logged.rows.values())
    assert first == {"step": 1, "train/loss": 3.0, "train/loss/SIC": 4.0, "speed/data_wait": 0.5}
    assert second == first | {
        "step": 2,
        "train/loss": 1.5,
        "validation/SIC": 12.5,
        "validation/SOD/F1/old_ice": 31.25,
    }
    assert (file.parent / "arcticseg-run").read_text() == f"{tmp_path}\n"


def test_wandb_can_be_switched_off(tmp_path: Path) -> None:
    trackers = make_trackers(tmp_path, TrackingConfig(wandb="off"), RunFacts("run", {}))
    assert len(trackers) == 1
    for tracker in trackers:
        tracker.close()
    assert {path.name for path in tmp_path.iterdir()} == {"home", "metrics.jsonl"}


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
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode(TrackingConfig(wandb=config)) == mode


@pytest.mark.parametrize("variable", [False, True])
def test_a_login_is_a_key_for_its_server_alone(variable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    login = tmp_path / "logins" if variable else tmp_path / "home" / ".netrc"
    login.write_text("machine api.wandb.ai\n  login user\n  password 0000\n")
    login.chmod(0o600)
    if variable:
        monkeypatch.setenv("NETRC", str(login))
    assert wandb_mode(TrackingConfig()) == "online"
    assert wandb_mode(TrackingConfig(wandb="offline")) == "offline"
    settings = tmp_path / "home" / ".config" / "wandb" / "settings"
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\nbase_url = https://ice.example\n")
    assert wandb_mode(TrackingConfig()) == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://api.wandb.ai")
    assert wandb_mode(TrackingConfig()) == "online"
    # What `wandb offline` leaves in the working folder.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nmode = offline\n")
    assert wandb_mode(TrackingConfig()) == "offline"


def test_config_and_variables_name_the_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Explicit keys go before variables, variables before defaults; what is not ours wandb reads itself."""
    # wandb reads its variables once a process.
    sdk = pytest.importorskip("wandb")
    sdk.teardown()
    given = {
        "PROJECT": "floes",
        "RUN_GROUP": "theirs",
        "NAME": "named",
        "TAGS": "a,b",
        "NOTES": "words",
        "ENTITY": "us",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for folder, cfg in (("a", TrackingConfig()), ("b", TrackingConfig(project="ice", group="mine"))):
        (tmp_path / folder).mkdir()
        Wandb(tmp_path / folder, cfg, {}, "run", Identity("ab12cd34", "")).close()
    told = []
    for folder in "ab":
        (file,) = tmp_path.glob(f"{folder}/wandb/offline-run-*/*.wandb")
        run = next(record.run for record in wandb_files.finished_records(file) if record.HasField("run"))
        told.append((run.project, run.run_group, run.display_name, list(run.tags), run.notes, run.entity))
    assert told[0] == ("floes", "theirs", "named", ["a", "b"], "words", "us")
    assert told[1] == ("ice", "mine", "named", ["a", "b"], "words", "us")
    sdk.teardown()


def test_tensorboard_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    check_installed(TrackingConfig())
    with pytest.raises(ConfigError, match=r"tracking.tensorboard.*pip install 'arcticseg\[tensorboard\]'"):
        check_installed(TrackingConfig(tensorboard=True))


def test_wandb_in_another_folder_offline_as_its_server_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setattr(wandb_run, "_ANSWER", 0.3)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "logs"))
    # It takes connections, and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        tracker = Wandb(tmp_path / "run", TrackingConfig(), {}, "run", Identity("ab12cd34", ""))
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
    tracker = Wandb(tmp_path, TrackingConfig(), {}, "run", Identity("ab12cd34", str(tmp_path)))
    tracker.picture(3, "validation", path)
    tracker.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    ((step, row),) = wandb_files.read(file).rows.items()
    shown = row["pictures/validation"]
    assert (step, row["step"], shown["_type"], shown["width"]) == (3, 3, "image-file", 4)
    assert (file.parent / "files" / shown["path"]).is_file()


def test_steps_rise_where_a_run_that_was_killed_begins_again(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    # It had no checkpoint, and wandb has seen up to 50; what is logged before the first step comes behind that.
    tracker = Wandb(tmp_path, TrackingConfig(), {}, "run", Identity("ab12cd34", str(tmp_path), behind=50))
    tracker.log("scores", 0, {"probe_SIC": 60.0})
    tracker.log("train", 1, {"loss": 1.0})
    tracker.log("train", 2, {"loss": 1.0})
    tracker.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert list(wandb_files.read(file).rows) == [51, 52]


def test_a_training_has_a_service_of_wandb_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    code = f"""
from pathlib import Path
from arcticseg.tracking import TrackingConfig, Wandb
from arcticseg.tracking.identity import Identity
tracker = Wandb(Path({str(tmp_path)!r}), TrackingConfig(), {{}}, "run", Identity("ab12cd34", ""))
tracker.log("train", 1, {{"loss": 1.0}})
tracker.close()
"""
    # That of the process that started it, which may end at any time.
    environment = os.environ | {"WANDB_SERVICE": "3-1-unix-/tmp/gone", "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert list(wandb_files.read(file).rows) == [1]

"""What a Ray worker does for a trial, without Ray."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from launchers.sweep import trial as trials
from launchers.sweep.trial import Specification, TrialError, Validations, run_trial


def test_validations_follow_a_file_that_grows_and_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    validations = Validations(path)
    assert validations.new() == []
    first = (
        '{"step": 1, "kind": "train", "loss": 2.0}\n{"step": 1, "kind": "validation", "combined": 1.5, "SOD": null}\n'
    )
    path.write_text(first + '{"step": 2, "kind": "valid')
    assert validations.new() == [{"step": 1, "combined": 1.5}]
    with open(path, "a") as file:
        file.write('ation", "combined": 2.5, "SOD/F1/old_ice": 3.5}\n')
    assert validations.new() == [{"step": 2, "combined": 2.5}]
    assert validations.new() == []
    # As a resumed run does: another file, whose first lines are known.
    other = tmp_path / "other"
    other.write_text(first + '{"step": 3, "kind": "validation", "combined": 3.5}\n')
    other.replace(path)
    assert validations.new() == [{"step": 3, "combined": 3.5}]


def test_a_trial_reports_its_validations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("PYTHONPATH", "before")
    (tmp_path / "source").write_text('{"step": 1, "kind": "validation", "combined": 2.0}\n')
    script = (
        "import os, shutil; assert 'RANK' not in os.environ; assert os.environ['PYTHONPATH'] == 'mine:before';"
        f"shutil.copy({str(tmp_path / 'source')!r}, {str(tmp_path / 'metrics.jsonl')!r})"
    )
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(trials, "command", lambda *_, **__: [sys.executable, "-c", script])
    run_trial(Specification("c.yaml", str(tmp_path), ranks=1, resume=False, path="mine"), reports.append)
    assert reports == [{"step": 1, "combined": 2.0}]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            "import sys; print('arcticseg: error: key x is 3; set 4', file=sys.stderr); print('noise'); sys.exit(2)",
            "key x is 3; set 4 (log: {log})",
        ),
        ("raise ValueError('odd')", "exit status 1, ValueError: odd (log: {log})"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "exit status -9, no output (log: {log})"),
        ("raise SystemExit(3)", "stopped by a signal after a checkpoint; go on with --resume (log: {log})"),
    ],
)
def test_a_failed_trial_tells_why(script: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # What an earlier attempt has written is not the reason of this failure.
    (tmp_path / "train.log").write_text("arcticseg: error: an earlier reason\n")
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(trials, "command", lambda *_, **__: [sys.executable, "-c", script])
    with pytest.raises(TrialError) as caught:
        run_trial(Specification("c.yaml", str(tmp_path), ranks=1, resume=False), reports.append)
    assert str(caught.value) == told.format(log=tmp_path / "train.log")
    assert reports == [{"failure": str(caught.value)}]

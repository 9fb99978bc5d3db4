"""Locks of compilations: those of the living stay, those of the dead go, and neither is waited for in silence."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

from arcticseg.engine import compiled


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compiled, "_TELL", 0.0)
    monkeypatch.setattr(compiled, "_POLL", 0.02)
    path = tmp_path / "lock"
    path.touch()
    return path


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def watch(lock: Path) -> None:
    with compiled._watched(lock):
        time.sleep(0.3)


def test_an_old_lock_that_nobody_holds_is_removed(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    age(lock, 1000)
    watch(lock)
    assert not lock.exists()
    assert f"removed the lock {lock}" in capsys.readouterr().err


def test_a_new_lock_may_be_another_machines(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch(lock)
    assert lock.exists()
    printed = capsys.readouterr().err
    assert f"waits for the lock {lock}" in printed
    assert printed.count("\n") == 1


def test_a_lock_that_a_process_holds_stays(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    age(lock, 1000)
    with open(lock):
        watch(lock)
    assert lock.exists()
    assert str(lock) in capsys.readouterr().err


def test_without_a_lock_nothing_is_said(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock.unlink()
    watch(lock)
    assert capsys.readouterr().err == ""

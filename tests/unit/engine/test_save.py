"""A checkpoint that is written beside the training is the same, and its failure is told when it is asked for."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from arcticseg.engine import save
from arcticseg.engine.checksums import verify
from arcticseg.engine.save import Saver
from arcticseg.engine.tensor_files import TensorFiles
from tests.unit.engine.trainings import ALONE


def test_tensors_may_change_while_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, go, written = tmp_path / "run" / "step-1", threading.Event(), []
    write = save.write_tensors

    def slow(*arguments: Any) -> tuple[int, str]:
        assert go.wait(20)
        return write(*arguments)

    monkeypatch.setattr(save, "write_tensors", slow)
    saver = Saver(ALONE, beside=True, done=written.append)
    value = torch.ones(3)
    saver.save(whole, {"a": saver.kept(value)}, {"position": {}}, {})
    assert not whole.exists()
    value.zero_()
    go.set()
    assert saver.settle() is None
    assert written == [whole]
    verify(whole)
    assert TensorFiles([whole / "model-00000.safetensors"])["a"].tolist() == [1, 1, 1]
    assert [path.name for path in whole.parent.iterdir()] == ["step-1"]


def test_an_error_beside_the_training_waits_until_it_is_asked_for(tmp_path: Path) -> None:
    saver = Saver(ALONE, beside=True, done=lambda whole: None)
    saver.save(tmp_path / "step-1", {"a": saver.kept(torch.ones(1))}, {}, {"metrics.jsonl": tmp_path / "missing"})
    assert "missing" in str(saver.settle())
    assert saver.settle() is None
    assert not list(tmp_path.iterdir())


def test_files_that_go_along_are_copied_and_verified(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("line\n")
    saver = Saver(ALONE, beside=False, done=lambda whole: None)
    saver.save(tmp_path / "step-1", {}, {"n": 1}, {"m.txt": tmp_path / "m"})
    assert saver.settle() is None
    assert (tmp_path / "step-1" / "m.txt").read_text() == "line\n"
    state = json.loads((tmp_path / "step-1" / "state.json").read_text())
    assert (state["n"], state["files"]["m.txt"][0]) == (1, 5)

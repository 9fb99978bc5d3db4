"""Which wandb run a run folder is."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest

from arcticseg.run.folder import WANDB, forget_wandb
from arcticseg.tracking import Jsonl
from arcticseg.tracking.identity import begin


@pytest.fixture(autouse=True)
def _no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)


def run(folder: Path, after: int, steps: range) -> tuple[str, list[int]]:
    """A start of a training that logs steps: the id of the run, and wandb's steps."""
    folder.mkdir(exist_ok=True)
    identity = begin(folder, after)
    jsonl = Jsonl(folder, after)
    for step in steps:
        jsonl.log("train", step, {"loss": 1.0})
    jsonl.close()
    return identity.id, [identity.behind + step for step in steps]


def test_steps_rise_though_a_killed_run_goes_on_from_before(tmp_path: Path) -> None:
    # Checkpoints at 5 and at 8; killed after 7, after 9, and stopped after 12.
    starts = [(0, range(1, 8)), (5, range(6, 10)), (8, range(9, 13)), (12, range(13, 15))]
    ids, steps = zip(*(run(tmp_path, after, logged) for after, logged in starts), strict=True)
    assert len(set(ids)) == 1
    assert [*itertools.chain(*steps)] == [*range(1, 8), 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]
    assert len(ids[0]) == 8


def test_a_start_that_logs_nothing_does_not_count(tmp_path: Path) -> None:
    _, first = run(tmp_path, 0, range(1, 8))
    run(tmp_path, 5, range(0))
    _, last = run(tmp_path, 5, range(6, 8))
    assert [*first, *last] == list(range(1, 10))


def test_a_moved_folder_is_the_same_run_and_a_copy_another(tmp_path: Path) -> None:
    first, _ = run(tmp_path / "run", 0, range(1, 4))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    copied, steps = run(tmp_path / "copy", 3, range(4, 6))
    assert copied != first
    assert steps == [4, 5]
    again, _ = run(tmp_path / "run", 3, range(4, 6))
    assert again == first
    (tmp_path / "run").rename(tmp_path / "moved")
    moved, _ = run(tmp_path / "moved", 5, range(6, 8))
    assert moved == first
    assert run(tmp_path / "copy", 5, range(6, 7))[0] == copied


def test_a_folder_under_another_path_is_the_same_run(tmp_path: Path) -> None:
    first, _ = run(tmp_path, 0, range(1, 4))
    kept = json.loads((tmp_path / WANDB).read_text())
    # As where a file system is mounted in two places.
    (tmp_path / WANDB).write_text(json.dumps(kept | {"folder": f"/proc/self/root{kept['folder']}"}))
    assert run(tmp_path, 3, range(4, 6))[0] == first


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 3, "folder": "x", "behind": 0}', '{"id": "ab"}'])
def test_a_damaged_file_or_none_gives_a_new_run(text: str, tmp_path: Path) -> None:
    (tmp_path / WANDB).write_text(text)
    identity = begin(tmp_path, 7)
    assert identity.behind == 0
    assert json.loads((tmp_path / WANDB).read_text())["id"] == identity.id
    forget_wandb(tmp_path)
    assert begin(tmp_path, 0).id != identity.id


def test_wandb_run_id_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = begin(tmp_path, 0).id
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert begin(tmp_path, 0).id == "mine"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert begin(tmp_path, 0).id == "mine" != first

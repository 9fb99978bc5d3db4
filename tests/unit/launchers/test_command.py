"""The command line that `arcticseg train` and sweeps start trainings with."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from launchers import local, train
from launchers.command import command
from launchers.imports import absolute


def test_several_ranks_have_a_launcher() -> None:
    single = command("c.yaml", resume=True)
    assert single[1:] == ["-m", "launchers.train", "--config", "c.yaml", "--resume"]
    pair = command("c.yaml", ranks=2)
    assert pair[1:] == ["-m", "launchers.local", "--ranks", "2", "--config", "c.yaml"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_training_takes_what_the_command_line_says(
    ranks: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    line = command("c.yaml", ["steps=3", "seed=1"], True, ranks, ["my.networks", "mine.py", "/a/b.py"])
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    local.add_ranks_argument(parser)
    arguments = parser.parse_args(line[3:])
    assert arguments.ranks == ranks
    assert (arguments.config, arguments.resume, arguments.overrides) == ("c.yaml", True, ["steps=3", "seed=1"])
    assert arguments.imports == ["my.networks", str(tmp_path / "mine.py"), "/a/b.py"]


def test_files_are_found_from_another_folder_and_names_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute(["a.b", "../c.py"]) == ("a.b", str(tmp_path.parent / "c.py"))

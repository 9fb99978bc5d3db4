"""The command line that `arcticseg train` and sweeps start trainings with."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from launchers import train
from launchers.command import command
from launchers.imports import absolute


def test_several_ranks_get_a_port_and_the_devices_that_are_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    single = command("c.yaml", resume=True)
    assert single[1:] == ["-m", "launchers.train", "--config", "c.yaml", "--resume"]
    pair = command("c.yaml", ranks=2)
    assert pair[pair.index("--num_accelerators") + 1] == "2"
    assert int(pair[pair.index("--master_port") + 1]) > 1023
    assert pair[-4:] == ["--module", "launchers.train", "--config", "c.yaml"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    lent = command("c.yaml", ranks=2)
    assert lent[lent.index("--include") + 1] == "localhost:2,5"
    assert "--num_accelerators" not in lent


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_training_takes_what_the_command_line_says(
    ranks: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    line = command("c.yaml", ["steps=3", "seed=1"], True, ranks, ["my.networks", "mine.py", "/a/b.py"])
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    arguments = parser.parse_args(line[line.index("launchers.train") + 1 :])
    assert (arguments.config, arguments.resume, arguments.overrides) == ("c.yaml", True, ["steps=3", "seed=1"])
    assert arguments.imports == ["my.networks", str(tmp_path / "mine.py"), "/a/b.py"]


def test_files_are_found_from_another_folder_and_names_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute(["a.b", "../c.py"]) == ("a.b", str(tmp_path.parent / "c.py"))

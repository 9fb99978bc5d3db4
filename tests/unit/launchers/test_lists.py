import json
from pathlib import Path

import pytest

from launchers.cli import main
from launchers.lists import pick_scenes
from shards.split import read_lists, shared_passes
from tests import scenes


def name(orbit: int, minute: int = 0) -> str:
    start = f"2020{1 + orbit % 12:02d}{1 + orbit // 12:02d}T10{minute:02d}00"
    service = "cis" if orbit % 3 else "dmi"
    return f"S1A_EW_GRDM_1SDH_{start}_{start}_{orbit:06d}_02FA72_C465_icechart_{service}_X"


NAMES = [name(orbit, minute) for orbit in range(30) for minute in range(1 + orbit % 2)]


def listed(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def test_lists_of_names_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "all.json").write_text(json.dumps([f"{one}.nc" for one in NAMES]))
    (tmp_path / "test.txt").write_text(f"{NAMES[1]}\n{NAMES[5]}\n")  # each one of two frames of a pass
    out = tmp_path / "lists"
    arguments = ["--val", "0.1", "--test-list", str(tmp_path / "test.txt"), "--fractions", "20,60,100", "--seed", "2"]
    assert main(["shards", "split", str(tmp_path / "all.json"), "--out", str(out), *arguments]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    written = ["train", "val", "test", "left_out", "labels_20", "pretrain_80", "labels_60", "pretrain_40", "labels_100"]
    assert [line[0] for line in lines] == written
    for line in lines:
        assert len(listed(out / f"{line[0]}.txt")) == int(line[1])
    train = listed(out / "train.txt")
    assert listed(out / "labels_100.txt") == train
    assert set(listed(out / "labels_20.txt")) < set(listed(out / "labels_60.txt")) < set(train)
    for percent in (20, 60):
        parts = {"a": listed(out / f"labels_{percent}.txt"), "b": listed(out / f"pretrain_{100 - percent}.txt")}
        assert sorted(parts["a"] + parts["b"]) == train
        assert shared_passes(parts) == []
    assert listed(out / "left_out.txt") == [NAMES[2], NAMES[4]]
    head = (out / "labels_20.txt").read_text().splitlines()[:2]
    assert head[0].startswith(f"# {len(listed(out / 'labels_20.txt'))} of {len(train)} training scenes with charts")
    assert head[1].endswith("seed 2.")
    assert "service" in " ".join(lines[4])
    # As the build reads them.
    assert {part: len(found) for part, found in read_lists(out).items()} == {
        line[0]: int(line[1]) for line in lines[:4]
    }


def test_a_given_training_list_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, found in {"all": NAMES, "train": NAMES[1:], "test": NAMES[:1] + NAMES[2:3]}.items():
        (tmp_path / f"{part}.txt").write_text("\n".join(found))
    arguments = [f"--{part}-list={tmp_path / part}.txt" for part in ("train", "test")]
    command = ["shards", "split", str(tmp_path / "all.txt"), "--out", str(tmp_path / "lists"), *arguments]
    assert main(command) == 2
    assert f"the test list holds {NAMES[2]}, which is on another list, too" in capsys.readouterr().err
    (tmp_path / "train.txt").write_text("\n".join(NAMES[1:2] + NAMES[3:]))
    assert main(command) == 0
    err = capsys.readouterr().err
    assert f"share 1 pairs of one pass: train: {NAMES[1]} and test: {NAMES[2]}" in err
    with pytest.warns(UserWarning, match="share 1 pairs"):
        read_lists(tmp_path / "lists")


def test_scenes_without_chart_are_no_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, one in enumerate(NAMES[:6]):
        scenes.write_raw(tmp_path / "scenes" / f"{one}.nc", lines=60, samples=60, chart=i != 1)
    out = tmp_path / "lists"
    out.mkdir()
    (out / "val.txt").write_text(f"{NAMES[0]}\n")  # of an earlier split
    arguments = ["--val", "0", "--test", "0", "--fractions", "50,100"]
    assert main(["shards", "split", str(tmp_path / "scenes"), "--out", str(out), *arguments]) == 0
    assert list(read_lists(out)) == ["train"]
    assert len(listed(out / "train.txt")) == 6
    assert listed(out / "labels_100.txt") == sorted(NAMES[:1] + NAMES[2:6])
    assert NAMES[1] not in listed(out / "labels_50.txt")
    capsys.readouterr()


@pytest.mark.parametrize("text", ["a", "20;40", "0", "101", "20,"])
def test_fractions_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "all.txt").write_text("\n".join(NAMES))
    command = ["shards", "split", str(tmp_path / "all.txt"), "--out", str(tmp_path / "lists"), "--fractions", text]
    assert main(command) == 2
    assert "set percentages of 1 to 100" in capsys.readouterr().err
    assert not (tmp_path / "lists").exists()


def test_scenes_by_list(tmp_path: Path) -> None:
    for one in "ab":
        (tmp_path / f"{one}.nc").touch()
    (tmp_path / "list.txt").write_text("# mine\nb.nc\n")
    assert pick_scenes(tmp_path, None) == [tmp_path / "a.nc", tmp_path / "b.nc"]
    assert pick_scenes(tmp_path, tmp_path / "list.txt") == [tmp_path / "b.nc"]

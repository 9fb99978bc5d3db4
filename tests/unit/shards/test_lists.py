"""Lists of scenes as files: written, read, assigned to files, made by the command."""

import json
from pathlib import Path

import pytest

from arcticseg.errors import ConfigError
from launchers.cli import main
from shards import split
from shards.lists import assign, pick_scenes, read_lists, write_lists
from shards.split import shared_passes
from tests import scenes
from tests.archive import NAMES


def name(orbit: int, minute: int = 0) -> str:
    start = f"2020{1 + orbit % 12:02d}{1 + orbit // 12:02d}T10{minute:02d}00"
    service = "cis" if orbit % 3 else "dmi"
    return f"S1A_EW_GRDM_1SDH_{start}_{start}_{orbit:06d}_02FA72_C465_icechart_{service}_X"


SCENES = [name(orbit, minute) for orbit in range(30) for minute in range(1 + orbit % 2)]


def listed(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def test_lists_are_written_and_read(tmp_path: Path) -> None:
    lists = split.split(NAMES, {"val": 0.2, "test": 0.2})
    written = write_lists(lists, tmp_path / "lists")
    assert [path.name for path in written] == ["train.txt", "val.txt", "test.txt"]
    assert read_lists(tmp_path / "lists") == lists


def test_lists_may_name_files_and_hold_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(f"{NAMES[0]}.nc\n\n  {NAMES[1]}  \n")
    assert read_lists(tmp_path) == {"train": [NAMES[0], NAMES[1]]}


def test_a_pass_in_two_lists_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(f"{NAMES[0]}\n{NAMES[2]}\n")
    (tmp_path / "val.txt").write_text(f"{NAMES[1]}\n")
    with pytest.raises(ConfigError, match=rf"^{tmp_path}: .*train: {NAMES[0]} and val: {NAMES[1]}"):
        read_lists(tmp_path)
    # A list that says that it is given is taken, and the pair is named.
    (tmp_path / "val.txt").write_text(f"# taken as given from x.json\n{NAMES[1]}\n")
    with pytest.warns(UserWarning, match=rf"1 pairs.*train: {NAMES[0]} and val: {NAMES[1]}$"):
        assert read_lists(tmp_path) == {"train": [NAMES[0], NAMES[2]], "val": [NAMES[1]]}


def test_a_scene_in_two_lists_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(f"{NAMES[0]}\n{NAMES[2]}\n")
    (tmp_path / "test.txt").write_text(f"# taken as given\n{NAMES[2]}\n")
    with pytest.raises(ConfigError, match=rf"^{tmp_path}: {NAMES[2]} .*train\.txt and test\.txt"):
        read_lists(tmp_path)


def test_a_folder_without_lists_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^{tmp_path}: .*train\.txt"):
        read_lists(tmp_path)


def test_assign_wants_a_file_for_each_name_and_a_name_for_each_file() -> None:
    paths = [Path(f"{name}.nc") for name in "abc"]
    lists = {"train": ["b", "a"], "val": ["c"]}
    assert assign(paths, lists) == {"train": paths[:2], "val": paths[2:]}
    with pytest.raises(ConfigError, match=r"1 listed scenes.* d;"):
        assign(paths, {**lists, "test": ["d"]})
    with pytest.raises(ConfigError, match=r"1 scenes.* c;"):
        assign(paths, {"train": ["a", "b"]})


def test_scenes_left_out_need_no_file_and_no_split() -> None:
    paths = [Path(f"{name}.nc") for name in "abc"]
    assert assign(paths, {"train": ["a", "b"], "left_out": ["c", "d"]}) == {"train": paths[:2]}


def test_lists_of_names_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "all.json").write_text(json.dumps([f"{scene}.nc" for scene in SCENES]))
    (tmp_path / "test.txt").write_text(f"{SCENES[1]}\n{SCENES[5]}\n")  # each is one of two frames of a pass
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
    assert listed(out / "left_out.txt") == [SCENES[2], SCENES[4]]
    head = (out / "labels_20.txt").read_text().splitlines()[:2]
    assert head[0].startswith(f"# {len(listed(out / 'labels_20.txt'))} of {len(train)} training scenes with charts")
    assert head[1].endswith("seed 2.")
    assert "service" in " ".join(lines[4])
    # As the build reads them.
    assert {part: len(names) for part, names in read_lists(out).items()} == {
        line[0]: int(line[1]) for line in lines[:4]
    }


def test_a_given_training_list_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, names in {"all": SCENES, "train": SCENES[1:], "test": SCENES[:1] + SCENES[2:3]}.items():
        (tmp_path / f"{part}.txt").write_text("\n".join(names))
    arguments = [f"--{part}-list={tmp_path / part}.txt" for part in ("train", "test")]
    command = ["shards", "split", str(tmp_path / "all.txt"), "--out", str(tmp_path / "lists"), *arguments]
    assert main(command) == 2
    assert f"test list holds {SCENES[2]}" in capsys.readouterr().err
    (tmp_path / "train.txt").write_text("\n".join(SCENES[1:2] + SCENES[3:]))
    assert main(command) == 0
    assert f"train: {SCENES[1]} and test: {SCENES[2]}" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="1 pairs"):
        read_lists(tmp_path / "lists")


def test_scenes_without_chart_are_no_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, scene in enumerate(SCENES[:6]):
        scenes.write_raw(tmp_path / "scenes" / f"{scene}.nc", lines=60, samples=60, chart=i != 1)
    out = tmp_path / "lists"
    out.mkdir()
    (out / "val.txt").write_text(f"{SCENES[0]}\n")  # of an earlier split
    arguments = ["--val", "0", "--test", "0", "--fractions", "50,100"]
    assert main(["shards", "split", str(tmp_path / "scenes"), "--out", str(out), *arguments]) == 0
    assert list(read_lists(out)) == ["train"]
    assert len(listed(out / "train.txt")) == 6
    assert listed(out / "labels_100.txt") == sorted(SCENES[:1] + SCENES[2:6])
    assert SCENES[1] not in listed(out / "labels_50.txt")
    capsys.readouterr()


@pytest.mark.parametrize("text", ["a", "20;40", "0", "101", "20,"])
def test_fractions_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "all.txt").write_text("\n".join(SCENES))
    command = ["shards", "split", str(tmp_path / "all.txt"), "--out", str(tmp_path / "lists"), "--fractions", text]
    assert main(command) == 2
    assert "percentages of 1 to 100" in capsys.readouterr().err
    assert not (tmp_path / "lists").exists()


def test_scenes_by_list(tmp_path: Path) -> None:
    for scene in "ab":
        (tmp_path / f"{scene}.nc").touch()
    (tmp_path / "list.txt").write_text("# mine\nb.nc\n")
    assert pick_scenes(tmp_path, None) == [tmp_path / "a.nc", tmp_path / "b.nc"]
    assert pick_scenes(tmp_path, tmp_path / "list.txt") == [tmp_path / "b.nc"]
    (tmp_path / "list.txt").write_text("c\n")
    with pytest.raises(ConfigError, match=rf"^{tmp_path / 'list.txt'}: .* c, .*{tmp_path}"):
        pick_scenes(tmp_path, tmp_path / "list.txt")


def test_lists_claim_whole_passes_only_where_the_passes_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (file, original) in enumerate(zip("abcde", [*SCENES[1:3], "", SCENES[4], SCENES[6]], strict=True)):
        attributes = {"original_id": f"{original}.nc"}
        scenes.write(tmp_path / "scenes" / f"{file}.nc", scenes.raw(60, 60, number, chart=False), attributes)
    command = ["shards", "split", str(tmp_path / "scenes"), "--out", str(tmp_path / "lists"), "--val", "0.3"]
    assert main(command) == 0
    assert "neither name nor file of 1 scenes, such as c," in capsys.readouterr().err
    for part in ("train", "val"):
        head = (tmp_path / "lists" / f"{part}.txt").read_text().splitlines()[0]
        assert "whole" not in head
        assert "nothing tells the satellite pass of 1 of 5 scenes" in head
    # The files of a and b say that they are of one pass.
    parts = [listed(path) for path in (tmp_path / "lists").glob("*.txt")]
    assert [{"a", "b"} <= set(names) for names in parts].count(True) == 1
    (tmp_path / "scenes" / "c.nc").unlink()
    assert main(command) == 0
    assert capsys.readouterr().err == ""
    assert "whole satellite passes" in (tmp_path / "lists" / "train.txt").read_text()

"""Builds that are done again: on other workers, in another order, after an end half-way, beside another build."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from arcticseg.data.manifest import read_index, read_manifest
from arcticseg.errors import OutputError
from arcticseg.ice.layers import LayerConfig
from shards import build as builder
from shards.build import build
from shards.machines import Machine
from tests.archive import CONFIG, NAMES, contents, quiet, telling

pytestmark = pytest.mark.slow


def test_two_workers_write_the_same_bytes(built: Path, splits: dict[str, list[Path]], tmp_path: Path) -> None:
    build(splits, tmp_path / "out", CONFIG, Machine(workers=2), report=quiet)
    assert contents(tmp_path / "out") == contents(built)


@pytest.mark.usefixtures("in_this_process")
def test_the_order_of_scenes_given_does_not_matter(built: Path, splits: dict[str, list[Path]], tmp_path: Path) -> None:
    turned = {split: splits[split][::-1] for split in ("test", "val", "train")}
    build(turned, tmp_path / "out", CONFIG, report=quiet)
    assert contents(tmp_path / "out") == contents(built)


@pytest.mark.usefixtures("in_this_process")
def test_a_seed_changes_the_order_and_nothing_else(built: Path, splits: dict[str, list[Path]], tmp_path: Path) -> None:
    build(splits, tmp_path, replace(CONFIG, seed=1), report=quiet)

    def keys(folder: Path) -> list[tuple[str, str]]:
        shards = read_manifest(folder).splits["train"]
        return [(entry.key, entry.xxh3) for shard in shards for entry in read_index(folder / shard.name)]

    assert keys(tmp_path) != keys(built)
    assert sorted(keys(tmp_path)) == sorted(keys(built))


class Killed(BaseException):
    """Stands for what nothing can catch."""


@pytest.mark.usefixtures("in_this_process")
def test_a_killed_build_goes_on_with_the_parts_that_are_whole(
    built: Path, splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def kill_after_two(done: int, total: int) -> None:
        if done == 2:
            # A kill leaves everything as it lies: copy it before the build can clean up.
            part = next((tmp_path / "out" / ".parts").glob("*.tar"))
            (part.parent / f".{part.stem}.1.tmp.tar").write_bytes(b"half a part")
            (tmp_path / "out" / "train-000000.tar").write_bytes(b"half a shard")
            (tmp_path / "out" / ".train-000001.1.tmp.tar").write_bytes(b"half a shard")
            shutil.copytree(tmp_path / "out", tmp_path / "killed")
            raise Killed

    with pytest.raises(Killed):
        build(splits, tmp_path / "out", CONFIG, report=quiet, progress=telling(kill_after_two))
    seen: list[tuple[int, int]] = []
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / ".parts").glob("*.tar")}
    cut: list[Path] = []
    real = builder.build_part
    monkeypatch.setattr(builder, "build_part", lambda *a: (cut.append(a[0]), real(*a))[1])
    build(splits, tmp_path / "killed", CONFIG, report=quiet, progress=telling(lambda *at: seen.append(at)))
    assert len([path for path in before if not path.name.startswith(".")]) >= 2
    assert seen[0] == (2, 5)
    assert seen[-1] == (5, 5)
    assert len(cut) == 3
    assert contents(tmp_path / "killed") == contents(built)
    assert not (tmp_path / "killed" / ".parts").exists()


@pytest.mark.usefixtures("in_this_process")
def test_a_part_is_made_again_when_the_scene_or_the_settings_changed(archive: list[Path], tmp_path: Path) -> None:
    scene = Path(shutil.copy(archive[0], tmp_path))
    names = {builder._part_name(scene, CONFIG), builder._part_name(scene, replace(CONFIG, tile=48))}
    names.add(builder._part_name(scene, replace(CONFIG, layers=LayerConfig(rules="corrected"))))
    os.utime(scene, (1, 1))
    names.add(builder._part_name(scene, CONFIG))
    assert len(names) == 4
    # What the tiles do not depend on makes no difference.
    assert builder._part_name(scene, replace(CONFIG, seed=5, shard_bytes=1)) in names


@pytest.mark.usefixtures("in_this_process")
def test_a_failure_while_shards_are_written_leaves_whole_parts_only(
    built: Path, splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def write_index(shard: Path, samples: object) -> None:
        if len(written) == 2:
            raise OutputError("full")
        written.append(shard)

    with monkeypatch.context() as patch:
        patch.setattr(builder.manifests, "write_index", write_index)
        with pytest.raises(OutputError):
            build(splits, tmp_path, CONFIG, report=quiet)
    assert [path.name for path in tmp_path.iterdir()] == [".parts"]
    assert len(list((tmp_path / ".parts").glob("*.tar"))) == 5
    build(splits, tmp_path, CONFIG, report=quiet)
    assert contents(tmp_path) == contents(built)


@pytest.mark.usefixtures("in_this_process")
def test_files_of_others_stay_where_they_are(splits: dict[str, list[Path]], tmp_path: Path) -> None:
    others = ["backup-202401.tar", "results-000001.json", ".editor.tmp", "train-notes1.json", "train-000000.txt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    build({"train": splits["val"]}, tmp_path, CONFIG, report=quiet)
    assert all((tmp_path / name).read_text() == "mine" for name in others)


def test_a_finished_folder_is_not_written_to_again(built: Path, splits: dict[str, list[Path]]) -> None:
    before = contents(built)
    assert build(splits, built, CONFIG, report=quiet) == read_manifest(built)
    for asked, config in (({"train": splits["train"]}, CONFIG), (splits, replace(CONFIG, tile=48))):
        with pytest.raises(OutputError, match=rf"^{built}: .*--extend"):
            build(asked, built, config, report=quiet)
    assert contents(built) == before


@pytest.mark.usefixtures("in_this_process")
def test_a_part_that_was_changed_is_not_used(splits: dict[str, list[Path]], tmp_path: Path) -> None:

    parts = tmp_path / "out" / ".parts"

    def damage(done: int, total: int) -> None:
        for part in parts.glob("*.tar"):
            data = bytearray(part.read_bytes())
            data[700] ^= 1
            part.write_bytes(data)

    with pytest.raises(OutputError, match=rf"{parts}/.*\.tar: changed"):
        build({"train": splits["val"]}, tmp_path / "out", CONFIG, report=quiet, progress=telling(damage))


@pytest.mark.usefixtures("in_this_process")
def test_two_builds_into_one_folder_refuse_each_other(splits: dict[str, list[Path]], tmp_path: Path) -> None:
    said: list[str] = []

    def build_again(done: int, total: int) -> None:
        with pytest.raises(OutputError, match=rf"^{tmp_path / 'out'}: .*process {os.getpid()} on ") as refused:
            build({"train": splits["val"]}, tmp_path / "out", CONFIG, report=quiet)
        said.append(str(refused.value))

    build({"train": splits["val"]}, tmp_path / "out", CONFIG, report=quiet, progress=telling(build_again))
    assert len(said) == 2
    assert read_manifest(tmp_path / "out").scenes.keys() == {NAMES[2]}

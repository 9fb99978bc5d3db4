"""Scenes added to finished shards."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from arcticseg.data.manifest import Manifest, read_index, read_manifest
from arcticseg.errors import ConfigError, OutputError, SceneError
from launchers.cli import main
from shards import assemble, extend, machines
from shards.build import build
from shards.check import check
from tests import scenes
from tests.archive import CONFIG, NAMES, InThisProcess, contents, leaves, quiet, scene_name

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture(scope="module")
def first(archive: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of the five."""
    out = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machines, "Workers", InThisProcess)
        build({"train": archive[:2], "val": archive[2:3]}, out, CONFIG, report=quiet)
    return out


@pytest.fixture
def shards(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "shards"))


def samples(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Key -> checksum of every sample."""
    return {e.key: e.xxh3 for shards in manifest.splits.values() for s in shards for e in read_index(folder / s.name)}


def test_added_scenes_get_shards_of_their_own(first: Path, shards: Path, archive: list[Path], tmp_path: Path) -> None:
    before, old = contents(first), read_manifest(first)
    manifest = build(
        {"train": [*archive[:2], archive[4]], "test": archive[3:4]}, shards, CONFIG, extend=True, report=quiet
    )
    after = contents(shards)
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}
    added = sorted(name for name in after if name not in before and name.endswith(".tar"))
    n = len(old.splits["train"])
    assert added[0] == "test-000000.tar"
    assert f"train-{n:06d}.tar" in added
    assert [shard.name for shard in manifest.splits["train"]] == [
        f"train-{i:06d}.tar" for i in range(len(manifest.splits["train"]))
    ]
    assert manifest.splits["train"][:n] == old.splits["train"]
    assert manifest.splits["val"] == old.splits["val"]
    assert read_manifest(shards) == manifest
    assert check(shards) == []
    assert manifest.fingerprint != old.fingerprint

    # The same samples, scenes and statistics as of all scenes built at once.
    whole = tmp_path / "whole"
    at_once = build(
        {"train": [*archive[:2], archive[4]], "val": archive[2:3], "test": archive[3:4]}, whole, CONFIG, report=quiet
    )
    assert samples(shards, manifest) == samples(whole, at_once)
    assert manifest.scenes == at_once.scenes
    assert leaves(manifest.statistics) == pytest.approx(leaves(at_once.statistics), rel=1e-9, abs=1e-9)


def test_added_scenes_do_not_depend_on_how_often_they_are_added(shards: Path, archive: list[Path]) -> None:
    added = {"train": archive[4:]}
    manifest = build(added, shards, CONFIG, extend=True, report=quiet)
    before = contents(shards)
    # Again: nothing is left to add.
    assert build(added, shards, CONFIG, extend=True, report=quiet) == manifest
    assert build({"train": [*archive[:2], archive[4]], "val": archive[2:3]}, shards, CONFIG, report=quiet) == manifest
    assert contents(shards) == before


def test_extending_nothing_is_a_build(first: Path, archive: list[Path], tmp_path: Path) -> None:
    build({"train": archive[:2], "val": archive[2:3]}, tmp_path / "out", CONFIG, extend=True, report=quiet)
    assert contents(tmp_path / "out") == contents(first)


class Killed(BaseException):
    """Stands for what nothing can catch."""


def test_an_interrupted_extension_leaves_the_old_shards_usable(
    first: Path, shards: Path, archive: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = {"train": archive[4:], "test": archive[3:4]}
    real = assemble.manifests.write_manifest

    def killed(folder: Path, manifest: Manifest) -> None:
        shutil.copytree(shards, tmp_path / "killed")
        raise Killed

    monkeypatch.setattr(assemble.manifests, "write_manifest", killed)
    with pytest.raises(Killed):
        build(added, shards, CONFIG, extend=True, report=quiet)
    monkeypatch.setattr(assemble.manifests, "write_manifest", real)
    # As the kill left it: all old files, new ones that no manifest names.
    lying = tmp_path / "killed"
    before, between = contents(first), contents(lying)
    assert {name: between[name] for name in before} == before
    assert any(name.startswith("train") and name not in before for name in between)
    assert read_manifest(lying) == read_manifest(first)
    problems = check(lying)
    new = {str(lying / name) for name in set(between) - set(before) if not name.startswith(".")}
    assert {problem.partition(": ")[0] for problem in problems} == new
    # The build itself, which was not killed, has cleaned up.
    assert {name for name in contents(shards) if not name.startswith(".parts")} == set(before)
    assert check(shards) == []
    manifest = build(added, lying, CONFIG, extend=True, report=quiet)
    build(added, shards, CONFIG, extend=True, report=quiet)
    assert contents(lying) == contents(shards)
    assert check(lying) == []
    assert not (lying / ".parts").exists()
    assert set(manifest.scenes) == set(NAMES)


def test_shards_without_a_manifest_are_not_deleted(first: Path, shards: Path, archive: list[Path]) -> None:
    """A lost manifest must not cost the shards."""
    (shards / "manifest.json").unlink()
    before = contents(shards)
    with pytest.raises(OutputError, match=rf"^{shards}/train-000000\.json: "):
        build({"train": archive[:2]}, shards, CONFIG, report=quiet)
    assert contents(shards) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile": 48}, "'tile' is 48.*32"),
        ({"factors": (2,)}, r"'factors' is \[2\].*\[2, 4\]"),
        ({"seed": 1}, "'seed' is 1.*0"),
        ({"layers": replace(CONFIG.layers, rules="corrected")}, r"'layers\.rules' is 'corrected'.*'autoice'"),
    ],
)
def test_other_options_are_refused(shards: Path, archive: list[Path], change: dict[str, object], message: str) -> None:
    before = contents(shards)
    with pytest.raises(ConfigError, match=message):
        build({"train": archive[4:]}, shards, replace(CONFIG, **change), extend=True, report=quiet)  # type: ignore[arg-type]
    assert contents(shards) == before


def test_a_scene_keeps_its_split_and_so_does_its_pass(shards: Path, archive: list[Path], tmp_path: Path) -> None:
    before = contents(shards)
    with pytest.raises(ConfigError, match=rf"{NAMES[2]} .*train.*{shards}.*val"):
        build({"train": archive[2:3]}, shards, CONFIG, extend=True, report=quiet)
    # One minute after a scene of the validation, on the same orbit.
    name = scene_name("20180801T100100", "023050", "dmi")
    neighbour = scenes.write_raw(tmp_path / f"{name}.nc", lines=300, samples=350, seed=9)
    with pytest.raises(ConfigError, match=rf"{name} .*train.*{shards}.*pass.*val"):
        build({"train": [neighbour]}, shards, CONFIG, extend=True, report=quiet)
    assert contents(shards) == before
    # Without lists it goes where its pass is, and what is new trains.
    manifest = read_manifest(shards)
    assert extend.default_splits(manifest, [name, NAMES[3], NAMES[0]]) == {"val": [name], "train": [NAMES[3], NAMES[0]]}


def test_a_scene_that_could_not_be_read_is_tried_again(archive: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "scenes" / archive[4].name
    broken.parent.mkdir()
    broken.write_bytes(archive[4].read_bytes()[:10_000])
    out = tmp_path / "out"
    splits = {"train": [archive[0], broken]}
    manifest = build(splits, out, CONFIG, on_error="skip", report=quiet)
    assert "error" in manifest.scenes[NAMES[4]]
    # A finished build stays what it is, but an extension takes up a scene that was repaired.
    assert build(splits, out, CONFIG, on_error="skip", report=quiet) == manifest
    with pytest.raises(SceneError):
        build(splits, out, CONFIG, extend=True, report=quiet)
    assert read_manifest(out) == manifest
    shutil.copy(archive[4], broken)
    repaired = build(splits, out, CONFIG, extend=True, report=quiet)
    assert "error" not in repaired.scenes[NAMES[4]]
    assert check(out) == []
    keys = list(samples(out, repaired))
    assert len(keys) == sum(sum(facts["tiles"].values()) for facts in repaired.scenes.values())
    assert np.unique(keys).size == len(keys)


def test_the_command_extends(archive: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, paths in (("old", archive[:2]), ("new", archive[2:])):
        (tmp_path / name).mkdir()
        for path in paths:
            shutil.copy(path, tmp_path / name)

    def command(name: str, *more: str) -> int:
        out = str(tmp_path / "out")
        return main(["shards", "build", str(tmp_path / name), "--out", out, "--factors=4", "--tile=32", *more])

    assert command("old") == 0
    fingerprint = capsys.readouterr().out.splitlines()[-1]
    assert command("new") == 2
    assert "--extend" in capsys.readouterr().err
    assert command("new", "--extend", "--max-memory=2G", "--workers=1", "--time-limit=5") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["train", "5", "scenes"]
    assert printed[-1].startswith("fingerprint ")
    assert printed[-1] != fingerprint
    assert main(["shards", "check", str(tmp_path / "out"), "--workers=0"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: whole\n"
    assert command("new", "--extend", "--max-memory=much") == 2
    assert "--max-memory is 'much'" in capsys.readouterr().err

"""Builds that cannot go well: bad scenes, processes that crash or hang, too little space or memory, wrong options."""

import shutil
from dataclasses import replace
from pathlib import Path

import jobs
import pytest

from arcticseg.data.manifest import read_manifest
from arcticseg.errors import ConfigError, OutputError, SceneError
from arcticseg.ice.layers import LayerConfig
from shards import build as builder
from shards import machines
from shards.build import build
from shards.machines import Machine
from shards.part import BuildConfig, build_part
from tests import scenes
from tests.archive import CONFIG, NAMES, InThisProcess, contents, quiet

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("in_this_process")
def test_a_bad_scene_stops_the_build_and_leaves_nothing(splits: dict[str, list[Path]], tmp_path: Path) -> None:
    bad = tmp_path / "bad.nc"
    bad.write_bytes(splits["val"][0].read_bytes()[:10_000])
    with pytest.raises(SceneError, match=rf"^{bad}: "):
        build({"train": [bad]}, tmp_path / "out", CONFIG, report=quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("in_this_process")
def test_a_bad_scene_is_skipped_when_asked(splits: dict[str, list[Path]], tmp_path: Path) -> None:
    bad = tmp_path / "bad.nc"
    bad.write_bytes(splits["val"][0].read_bytes()[:10_000])
    told: list[str] = []
    manifest = build({"train": [bad, *splits["val"]]}, tmp_path / "out", CONFIG, on_error="skip", report=told.append)
    assert len(told) == 1
    assert told[0].startswith(f"skipped: {bad}: ")
    assert manifest.scenes["bad"]["split"] == "train"
    assert manifest.scenes["bad"]["error"].startswith("bad.nc: ")
    assert "tiles" in manifest.scenes[NAMES[2]]
    with pytest.raises(SceneError, match=r"^none of 1 scenes.*bad\.nc"):
        build({"train": [bad]}, tmp_path / "none", CONFIG, on_error="skip", report=quiet)


@pytest.mark.usefixtures("in_this_process")
def test_warnings_are_told_and_kept(tmp_path: Path) -> None:
    rows = [scenes.ROWS[0].replace(";91;90;", ";94;90;"), *scenes.ROWS[1:]]
    path = scenes.write_raw(tmp_path / "odd.nc", lines=300, samples=350, rows=rows)
    told: list[str] = []
    manifest = build({"train": [path]}, tmp_path / "out", CONFIG, report=told.append)
    assert len(told) == 1
    assert "1 of 5 polygons" in told[0]
    assert told[0].removeprefix("warning: ") == manifest.scenes["odd"]["warnings"][0]
    strict = BuildConfig(tile=32, factors=(2,), layers=LayerConfig(strict=True))
    with pytest.raises(SceneError, match="CT 94"):
        build({"train": [path]}, tmp_path / "strict", strict, report=quiet)


def test_scenes_are_needed_each_once(splits: dict[str, list[Path]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no scenes"):
        build({"train": []}, tmp_path / "out", CONFIG)
    with pytest.raises(ConfigError, match=f"scene {NAMES[2]} .*twice"):
        build({"train": splits["val"], "val": splits["val"]}, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tile": 8}, "'tile' is 8"),
        ({"factors": ()}, r"'factors' is \(\)"),
        ({"factors": (0, 2)}, r"'factors' is \(0, 2\)"),
        ({"overlap": 384}, r"'overlap' is 384; .*384"),
        ({"min_valid": 1.5}, r"'min_valid' is 1\.5"),
        ({"layers": LayerConfig(min_valid=-1)}, r"'layers\.min_valid' is -1"),
        ({"shard_bytes": 0}, "'shard_bytes' is 0"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, object], message: str, tmp_path: Path) -> None:
    config = BuildConfig(**values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        build({"train": [tmp_path / "a.nc"]}, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_a_crash_a_hang_and_a_fault_cost_their_own_scenes_only(
    splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In real processes; the other scenes give the same shards as without these three."""
    crash, hang, fault = (Path(shutil.copy(splits["val"][0], tmp_path / f"{x}.nc")) for x in ("crash", "hang", "fault"))
    monkeypatch.setattr(builder, "build_part", jobs.fragile_part)
    told: list[str] = []
    paths = [crash, *splits["train"][:2], hang, fault, splits["train"][2]]
    machine = Machine(workers=2, time_limit=20)
    manifest = build({"train": paths}, tmp_path / "out", CONFIG, machine, "skip", report=told.append)
    reasons = {name: facts["error"] for name, facts in manifest.scenes.items() if "error" in facts}
    assert {name: reason.partition(": ")[0] for name, reason in reasons.items()} == {
        "crash": "crash.nc",
        "hang": "hang.nc",
        "fault": "fault.nc",
    }
    assert "SIGABRT" in reasons["crash"]
    assert "after 20 s" in reasons["hang"]
    assert "ZeroDivisionError('division by zero')" in reasons["fault"]
    assert sorted(told) == sorted(f"skipped: {tmp_path}/{reason}" for reason in reasons.values())
    monkeypatch.setattr(builder, "build_part", build_part)
    with monkeypatch.context() as patch:
        patch.setattr(machines, "Workers", InThisProcess)
        build({"train": splits["train"]}, tmp_path / "sound", CONFIG, report=quiet)
    whole, sound = contents(tmp_path / "out"), contents(tmp_path / "sound")
    assert {name for name in sound if whole[name] != sound[name]} == {"manifest.json"}
    assert manifest.fingerprint == read_manifest(tmp_path / "sound").fingerprint

    # By default each of them stops the build.
    monkeypatch.setattr(builder, "build_part", jobs.fragile_part)
    with pytest.raises(SceneError, match=rf"^{crash}: .*SIGABRT"):
        build({"train": [crash]}, tmp_path / "other", CONFIG, report=quiet)
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("in_this_process")
def test_a_fault_of_the_program_stops_the_build_and_keeps_its_trace(
    splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`test_workers` shows that errors come from other processes with the trace as a note."""

    def faulty_part(*_: object) -> list[str]:
        error = ZeroDivisionError()
        error.add_note("in divide")
        raise error

    monkeypatch.setattr(builder, "build_part", faulty_part)
    with pytest.raises(ZeroDivisionError) as caught:
        build({"train": splits["val"]}, tmp_path / "other", CONFIG, report=quiet)
    assert caught.value.__notes__ == ["in divide"]
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("in_this_process")
def test_too_little_space_is_told_before_the_work(
    splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "free_bytes", lambda path: 123_456)
    monkeypatch.setattr(builder, "build_part", None)
    with pytest.raises(OutputError, match=rf"^{tmp_path / 'out'}: .*\d\.\d MB.*123 kB"):
        build(splits, tmp_path / "out", CONFIG, report=quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("in_this_process")
def test_a_scene_larger_than_the_memory_asked_for_is_worked_on_and_told(
    splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    build({"train": splits["val"]}, tmp_path / "out", CONFIG, Machine(memory=1000), report=told.append)
    (text,) = told
    assert text.startswith(f"warning: {splits['val'][0]}: 300 x 370 pixels take about 302 MB")
    assert "1.0 kB" in text
    monkeypatch.setattr(machines, "machine_memory", lambda: (10**6, 10**7))
    with pytest.raises(SceneError, match=rf"^{splits['val'][0]}: .*302 MB.*10\.0 MB"):
        build({"train": splits["val"]}, tmp_path / "other", CONFIG, report=quiet)


@pytest.mark.parametrize("key", ["workers", "time_limit"])
def test_machines_that_cannot_be(key: str, splits: dict[str, list[Path]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"'{key}' is 0"):
        build(splits, tmp_path / "out", CONFIG, replace(Machine(), **{key: 0}))

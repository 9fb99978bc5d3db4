from pathlib import Path

import numpy as np
import pytest

from arcticseg.data.manifest import read_index, read_manifest
from arcticseg.errors import ShardError
from launchers.cli import main
from shards import build as builder
from shards import machines
from shards.info import summary
from shards.part import BuildConfig
from tests import scenes
from tests.archive import InThisProcess, quiet


@pytest.fixture(scope="module")
def built(archive: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("info")
    bad = folder / "bad.nc"
    bad.write_bytes(b"nothing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machines, "Workers", InThisProcess)
        config = BuildConfig(tile=32, factors=(4, 2))
        splits = {"train": [archive[0], archive[4], bad], "val": [archive[2]]}
        builder.build(splits, folder / "shards", config, on_error="skip", report=quiet)
    return folder / "shards"


def test_a_summary_says_what_there_is(built: Path) -> None:
    text = summary(built)
    manifest = read_manifest(built)
    lines = text.splitlines()
    tiles = {scene: facts["tiles"] for scene, facts in manifest.scenes.items() if "tiles" in facts}
    total = sum(sum(numbers.values()) for numbers in tiles.values())
    assert lines[0].startswith(f"{built}: 3 scenes, {total} samples, 2 shards, ")
    assert "  ice service  cis 2, dmi 1" in lines
    assert "  acquired     2018-07-21 to 2019-02-12" in lines
    assert f"  fingerprint  {manifest.fingerprint}" in lines
    assert "scenes that could not be read: 1" in lines
    assert any(line.startswith("  bad.nc: ") for line in lines)
    assert any("factors=[2, 4]" in line and "layers.rules=autoice" in line for line in lines)
    assert "SIMULATED" not in text
    row = next(line.split() for line in lines if line.startswith("train "))
    train = [numbers for scene, numbers in tiles.items() if manifest.scenes[scene]["split"] == "train"]
    assert row[:3] == ["train", "2", "1"]
    assert [int(number) for number in row[-3:]] == [
        sum(sum(numbers.values()) for numbers in train), *(sum(numbers[k] for numbers in train) for k in ("2", "4"))
    ]  # fmt: skip


def test_class_shares_are_of_labelled_pixels_at_the_finest_factor(built: Path) -> None:
    counts = np.zeros(7)
    for shard in read_manifest(built).splits["val"]:
        counts += np.sum([e.counts["SOD"] for e in read_index(built / shard.name) if e.factor == 2], axis=0)
    lines = summary(built).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("SOD"))
    # The training's column stands first.
    shares = [float(line.split()[-1].rstrip("%")) / 100 for line in lines[first + 1 : first + 8]]
    np.testing.assert_allclose(shares[:6], counts[:6] / counts[:6].sum(), atol=6e-4)
    assert shares[6] == pytest.approx(counts[6] / counts.sum(), abs=6e-4)


def test_simulated_shards_say_so(tiny_shards: Path) -> None:
    first = summary(tiny_shards).splitlines()[0]
    assert first.startswith("SIMULATED")
    assert "5 of 5" in first


@pytest.mark.usefixtures("in_this_process")
def test_shards_without_charts(tmp_path: Path) -> None:
    path = scenes.write_raw(tmp_path / "a.nc", lines=300, samples=350, chart=False)
    builder.build({"train": [path]}, tmp_path / "out", BuildConfig(tile=32, factors=(4,)), report=quiet)
    assert "share of labelled pixels" not in summary(tmp_path / "out")


def test_the_command(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "info", str(built), "--picture", str(tmp_path / "a.png"), "--tiles", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{summary(built)}\n\n{tmp_path / 'a.png'}\n"
    assert (tmp_path / "a.png").is_file()


def test_a_folder_without_shards(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=rf"^{tmp_path}: .*manifest\.json"):
        summary(tmp_path)

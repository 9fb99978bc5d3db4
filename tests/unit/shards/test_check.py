import json
import shutil
from pathlib import Path

import pytest
from archive import InThisProcess
from archive import write as write_archive

from arcticseg.data.manifest import read_index, read_manifest
from arcticseg.errors import ShardError
from shards import build as builder
from shards.check import check
from shards.part import BuildConfig


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checked")
    paths = write_archive(folder / "scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "Workers", InThisProcess)
        config = BuildConfig(tile=32, factors=(4,), shard_bytes=60_000)
        splits = {"train": [paths[0], paths[4]], "val": [paths[2]]}
        builder.build(splits, folder / "shards", config, report=lambda text: None)
    return folder / "shards"


@pytest.fixture
def shards(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "shards"))


def flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 0x10
    path.write_bytes(data)


def edit(path: Path, change: object) -> None:
    """Change a JSON file by a function of its content."""
    found = json.loads(path.read_text())
    assert callable(change)
    change(found)
    path.write_text(json.dumps(found))


def test_a_whole_folder_has_no_problem(built: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert check(built, progress=lambda done, total: seen.append((done, total))) == []
    n = sum(len(shards) for shards in read_manifest(built).splits.values())
    assert n > 2
    assert seen == [(i, n) for i in range(n + 1)]


def test_a_flipped_bit_is_found_in_its_sample(shards: Path) -> None:
    path = shards / "train-000001.tar"
    entry = read_index(path)[1]
    flip(path, entry.offset + entry.size // 2)
    found = check(shards)
    assert len(found) == 2
    assert found[0] == f"{path}: differs from the checksum in the manifest"
    assert found[1] == f"{path}: at byte {entry.offset}: sample {entry.key} differs from its checksum"


def test_every_bit_counts(shards: Path) -> None:
    path = shards / "val-000000.tar"
    whole = path.read_bytes()
    for byte in (0, 100, 130, 511, 512, len(whole) // 2, len(whole) - 1030, len(whole) - 1):
        flip(path, byte)
        assert check(shards), byte
        path.write_bytes(whole)
    assert not check(shards)


def test_a_missing_shard_is_named(shards: Path) -> None:
    (shards / "train-000000.tar").unlink()
    assert check(shards) == [f"{shards / 'train-000000.tar'}: shard is missing"]


def test_a_cut_shard_is_named_with_its_samples(shards: Path) -> None:
    path = shards / "train-000000.tar"
    last = read_index(path)[-1]
    path.write_bytes(path.read_bytes()[: last.offset + 100])
    found = check(shards)
    assert found[0].startswith(f"{path}: {last.offset + 100} bytes, the manifest says ")
    assert found[1] == f"{path}: at byte {last.offset}: sample {last.key} is cut: 100 of {last.size} bytes"
    assert len(found) == 2


def test_a_missing_index_is_named(shards: Path) -> None:
    (shards / "val-000000.json").unlink()
    (problem,) = check(shards)
    assert problem.startswith(f"{shards / 'val-000000.json'}: index cannot be read")


def test_the_index_of_another_shard_is_named(shards: Path) -> None:
    shutil.copy(shards / "train-000001.json", shards / "train-000000.json")
    (problem,) = check(shards)
    assert "train-000000.json: is the index of train-000001.tar, not of train-000000.tar" in problem


@pytest.mark.parametrize(
    ("key", "value"),
    [("offset", 512), ("size", 1 << 16), ("xxh3", "0" * 16), ("key", "other"), ("counts", {}), ("scene", "other")],
)
def test_a_wrong_index_is_named(shards: Path, key: str, value: object) -> None:
    edit(shards / "train-000000.json", lambda found: found["samples"][0].update({key: value}))
    found = check(shards)
    assert found
    assert all("train-000000.tar" in problem for problem in found)


@pytest.mark.parametrize(
    ("key", "value"), [("offset", -1), ("offset", "x"), ("size", -5), ("size", 1 << 80), ("counts", 3)]
)
def test_an_index_of_nonsense_is_named(shards: Path, key: str, value: object) -> None:
    edit(shards / "train-000000.json", lambda found: found["samples"][0].update({key: value}))
    found = check(shards)
    assert found
    assert all("train-000000" in problem for problem in found)


def test_an_index_that_lacks_a_sample_is_named(shards: Path) -> None:
    edit(shards / "train-000000.json", lambda found: found["samples"].pop())
    (problem,) = check(shards)
    assert "samples in the index, the manifest says" in problem


def test_a_damaged_index_is_named(shards: Path) -> None:
    for text in ("{", "[]", '{"schema": 2, "shard": "train-000000.tar", "samples": [1]}', '{"schema": 9}'):
        (shards / "train-000000.json").write_text(text)
        (problem,) = check(shards)
        assert "train-000000.json: " in problem


def test_a_scene_in_the_wrong_split_is_named(shards: Path) -> None:
    def move(found: dict[str, dict[str, dict[str, str]]]) -> None:
        for facts in found["scenes"].values():
            if facts["split"] == "val":
                facts["split"] = "train"

    edit(shards / "manifest.json", move)
    found = check(shards)
    assert found
    assert all("of a scene that is not in split val" in problem for problem in found)


def test_another_fingerprint_is_named(shards: Path) -> None:
    edit(shards / "manifest.json", lambda found: found.update(fingerprint="0" * 32))
    assert check(shards) == [f"{shards}: the indices do not give the manifest's fingerprint"]


def test_two_samples_exchanged_in_the_index_are_found(shards: Path) -> None:
    def exchange(found: dict[str, list[object]]) -> None:
        found["samples"][:2] = found["samples"][1::-1]

    edit(shards / "train-000000.json", exchange)
    (problem,) = check(shards)
    assert problem.startswith(
        f"{shards / 'train-000000.tar'}: the samples in the index do not lie one behind the other"
    )


def test_a_folder_without_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=rf"^{tmp_path}: holds no manifest\.json"):
        check(tmp_path)

import json
import shutil
from pathlib import Path

import pytest

from arcticseg.data.manifest import read_index, read_manifest
from arcticseg.errors import ShardError
from shards import build as builder
from shards import machines
from shards.check import check
from shards.part import BuildConfig
from tests.archive import InThisProcess, quiet, tie


@pytest.fixture(scope="module")
def built(archive: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machines, "Workers", InThisProcess)
        config = BuildConfig(tile=32, factors=(4,), shard_bytes=60_000)
        splits = {"train": [archive[0], archive[4]], "val": [archive[2]]}
        builder.build(splits, folder, config, report=quiet)
    return folder


@pytest.fixture
def shards(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "shards"))


def flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 0x10
    path.write_bytes(data)


def edit(path: Path, change: object) -> None:
    """Change a JSON file by a function of its content."""
    content = json.loads(path.read_text())
    assert callable(change)
    change(content)
    path.write_text(json.dumps(content))
    if path.name != "manifest.json":
        tie(path.parent)


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
    problems = check(shards)
    assert len(problems) == 2
    assert problems[0].startswith(f"{path}: differs from the checksum")
    assert problems[1].startswith(f"{path}: at byte {entry.offset}: sample {entry.key} differs")


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
    (problem,) = check(shards)
    assert problem.startswith(f"{shards / 'train-000000.tar'}: ")
    assert "missing" in problem


def test_a_cut_shard_is_named_with_its_samples(shards: Path) -> None:
    path = shards / "train-000000.tar"
    last = read_index(path)[-1]
    path.write_bytes(path.read_bytes()[: last.offset + 100])
    problems = check(shards)
    assert problems[0].startswith(f"{path}: {last.offset + 100} bytes")
    assert problems[1].startswith(f"{path}: at byte {last.offset}: sample {last.key} ")
    assert f"100 of {last.size} bytes" in problems[1]
    assert len(problems) == 2


def test_a_missing_index_is_named(shards: Path) -> None:
    (shards / "val-000000.json").unlink()
    (problem,) = check(shards)
    assert problem.startswith(f"{shards / 'val-000000.json'}: ")


def test_the_index_of_another_shard_is_named(shards: Path) -> None:
    shutil.copy(shards / "train-000001.json", shards / "train-000000.json")
    (problem,) = check(shards)
    assert problem.startswith(f"{shards / 'train-000000.json'}: ")
    assert "'train-000001.tar', not of train-000000.tar" in problem


@pytest.mark.parametrize(
    ("key", "value"),
    [("offset", 512), ("size", 1 << 16), ("xxh3", "0" * 16), ("key", "other"), ("counts", {}), ("scene", "other")],
)
def test_a_wrong_index_is_named(shards: Path, key: str, value: object) -> None:
    edit(shards / "train-000000.json", lambda index: index["samples"][0].update({key: value}))
    problems = check(shards)
    assert problems
    assert all("train-000000." in problem for problem in problems)


@pytest.mark.parametrize(
    ("key", "value"), [("offset", -1), ("offset", "x"), ("size", -5), ("size", 1 << 80), ("counts", 3)]
)
def test_an_index_of_nonsense_is_named(shards: Path, key: str, value: object) -> None:
    edit(shards / "train-000000.json", lambda index: index["samples"][0].update({key: value}))
    problems = check(shards)
    assert problems
    assert all("train-000000" in problem for problem in problems)


def test_an_index_that_was_changed_is_named(shards: Path) -> None:
    path = shards / "train-000000.json"
    path.write_text(path.read_text().replace('"factor": 4', '"factor": 2', 1))
    (problem,) = check(shards)
    assert problem.startswith(f"{path}: index is damaged (it differs from its checksum in the manifest)")


def test_an_index_that_lacks_a_sample_is_named(shards: Path) -> None:
    edit(shards / "train-000000.json", lambda index: index["samples"].pop())
    (problem,) = check(shards)
    n = read_manifest(shards).splits["train"][0].samples
    assert problem.startswith(f"{shards / 'train-000000.json'}: lists {n - 1} samples, the manifest {n};")


def test_a_damaged_index_is_named(shards: Path) -> None:
    for text in ("{", "[]", '{"schema": 3, "shard": "train-000000.tar", "samples": [1]}', '{"schema": 9}'):
        (shards / "train-000000.json").write_text(text)
        (problem,) = check(shards)
        assert "train-000000.json: " in problem


def test_a_scene_in_the_wrong_split_is_named(shards: Path) -> None:
    def move(manifest: dict[str, dict[str, dict[str, str]]]) -> None:
        for facts in manifest["scenes"].values():
            if facts["split"] == "val":
                facts["split"] = "train"

    edit(shards / "manifest.json", move)
    problems = check(shards)
    assert problems
    assert all(problem.startswith(f"{shards}/val-") and problem.endswith("split val") for problem in problems)


def test_another_fingerprint_is_named(shards: Path) -> None:
    edit(shards / "manifest.json", lambda manifest: manifest.update(fingerprint="0" * 32))
    (problem,) = check(shards)
    assert problem.startswith(f"{shards}: ")
    assert "fingerprint" in problem


def test_two_samples_exchanged_in_the_index_are_found(shards: Path) -> None:
    def exchange(index: dict[str, list[object]]) -> None:
        index["samples"][:2] = index["samples"][1::-1]

    edit(shards / "train-000000.json", exchange)
    (problem,) = check(shards)
    assert problem.startswith(f"{shards / 'train-000000.tar'}: the samples in the index")


def test_a_folder_without_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=rf"^{tmp_path}: .*manifest\.json"):
        check(tmp_path)

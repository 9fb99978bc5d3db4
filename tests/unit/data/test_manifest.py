import json
from dataclasses import replace
from pathlib import Path

import made
import pytest
import xxhash

from arcticseg.data import manifest as manifests
from arcticseg.data.manifest import SampleEntry
from arcticseg.errors import ShardError

COUNTS = {"SIC": [1] * 12, "SOD": [2] * 7, "FLOE": [3] * 8}
ENTRY = SampleEntry("key", "scene", 4, 0, 1024, "ab" * 8, 512, "cd" * 8, True, COUNTS)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest = made.write(tmp_path, [made.tile(i) for i in range(7)])
    assert manifests.read_manifest(tmp_path) == manifest
    assert [len(manifests.read_index(tmp_path / f"train-00000{i}.tar")) for i in (0, 1)] == [5, 2]
    shard = tmp_path / "other.tar"
    manifests.write_index(shard, [ENTRY])
    assert manifests.read_index(shard) == [ENTRY]
    # A line for each sample, so that a person can read it.
    assert len(manifests.index_path(shard).read_text().splitlines()) == 3


def test_hash_of_a_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    (tmp_path / "a").write_bytes(data)
    assert manifests.hash_file(tmp_path / "a") == xxhash.xxh3_64_hexdigest(data)


def test_the_fingerprint_changes_with_any_sample_and_the_order() -> None:
    other = replace(ENTRY, key="other")
    prints = [
        manifests.fingerprint(samples)
        for samples in ([ENTRY, other], [other, ENTRY], [ENTRY], [], [ENTRY, replace(other, xxh3="cd" * 8)])
    ]
    assert len(set(prints)) == 5
    # The place of a sample does not count.
    assert manifests.fingerprint([replace(ENTRY, offset=512), other]) == prints[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "manifest "),
        ("[]", "schema version None, .* 3;"),
        ('{"schema": 2}', "schema version 2, .* 3; .*: arcticseg shards build SCENES --out"),
        ('{"schema": 3}', "manifest .*tile"),
        ('{"schema": 3, "splits": [], "factors": [2]}', "manifest .*tile"),
        ('{"schema": 3, "splits": {"train": [1]}, "factors": [2]}', "manifest .*tile"),
        ("\udcff", "manifest "),
    ],
)
def test_a_damaged_manifest(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ShardError, match=rf"^{tmp_path}/manifest\.json: {message}"):
        manifests.read_manifest(tmp_path)


def test_a_manifest_with_unknown_keys_is_refused(tmp_path: Path) -> None:
    made.write(tmp_path, [made.tile(0)])
    content = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(content | {"colour": 1}))
    with pytest.raises(ShardError, match=r"manifest\.json: .*colour"):
        manifests.read_manifest(tmp_path)


def test_no_manifest(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ShardError, match=rf"^{folder}: .*manifest\.json.*`arcticseg shards build`"):
            manifests.read_manifest(folder)

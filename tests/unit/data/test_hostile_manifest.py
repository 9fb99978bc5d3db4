"""Manifests and indices that no build writes are refused in one line, whatever they hold."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made
import pytest
import xxhash

from arcticseg.data import schema
from arcticseg.data.manifest import index_path, read_index, read_manifest
from arcticseg.data.select import open_set, select_from
from arcticseg.errors import ShardError

Change = Callable[[dict[str, Any]], object]
SHARD = "train-000000.tar"


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def shard(key: str, value: Any) -> Change:
    return lambda manifest: manifest["splits"]["train"][0].update({key: value})


def scene(key: str, value: Any) -> Change:
    return lambda manifest: manifest["scenes"]["scene"].update({key: value})


NAMES = [
    5, None, "", ".tar", "a\0b.tar", "a\nb.tar", "\x1b[2J.tar", "/etc/passwd.tar", "../a.tar", "a/b.tar", "a\\b.tar",
    "a..tar", ".a.tar", "http://ice.example/a.tar", "pipe:rm a.tar", "a;b.tar", "a.json", "-a.tar", "a" * 300 + ".tar",
    "a\u202eb.tar", "%2e%2e%2fa.tar", "a?b.tar", ["a.tar"],
]  # fmt: skip
HASHES = [5, None, "", "ab", "AB" * 8, "../victim/evil", "/absolute/folder", "zz" * 8, "ab" * 16, "ab" * 7 + "a\n"]
NUMBERS = [-1, 0, 1.5, "64", None, True, 1 << 70, [1], {}]

CHANGES: dict[str, Change] = {
    **{f"name {name!r}": shard("name", name) for name in NAMES},
    **{f"xxh3 {value!r}": shard("xxh3", value) for value in HASHES},
    **{f"index {value!r}": shard("index", value) for value in HASHES},
    **{f"bytes {value!r}": shard("bytes", value) for value in NUMBERS},
    **{f"samples {value!r}": shard("samples", value) for value in NUMBERS},
    **{f"tile {value!r}": (lambda manifest, v=value: manifest.update(tile=v)) for value in [*NUMBERS, 1_000_000_000]},
    **{f"factors {value!r}": (lambda m, v=value: m.update(factors=v)) for value in ([], [0], ["2"], 2, [10**9], [2.0])},
    "more samples than bytes": shard("samples", 10_000),
    "a shard twice": lambda manifest: manifest["splits"]["train"].append(manifest["splits"]["train"][0]),
    "another split": lambda manifest: manifest["splits"].update({"../train": []}),
    "splits are a list": lambda manifest: manifest.update(splits=[[]]),
    "a shard is a list": lambda manifest: manifest.update(splits={"train": [["a", 1]]}),
    "a shard has another key": shard("more", 1),
    "split of a scene": scene("split", ["train"]),
    "time of a scene": scene("time", "2020-02-03T04:05:06\x1b[31m"),
    "time is a number": scene("time", 5),
    "tiles of a scene": scene("tiles", {"4": -3}),
    "tiles of another factor": scene("tiles", {"7": 3}),
    "counts of a scene": scene("counts", {"4": {"SIC": [1], "SOD": [], "FLOE": []}}),
    "counts are texts": scene("counts", {"4": {"SIC": ["1"] * 12, "SOD": [1] * 7, "FLOE": [1] * 8}}),
    "counts are huge": scene("counts", {"4": {"SIC": [1 << 80] * 12, "SOD": [1] * 7, "FLOE": [1] * 8}}),
    "warnings are a text": scene("warnings", "none"),
    "shape": scene("shape", [1, 2, 3]),
    "a deep part": scene("more", deep(900)),
    "name of a scene": lambda manifest: manifest["scenes"].update({"../x": manifest["scenes"]["scene"]}),
    "control characters in a scene": lambda manifest: manifest["scenes"].update({"\x1b]0;x\x07": {}}),
    "mean of a channel": lambda manifest: manifest["statistics"].update({"nersc_sar_primary": {"mean": "5"}}),
    "another channel": lambda manifest: manifest["statistics"].update({"colour": {}}),
    "builder": lambda manifest: manifest.update(builder=[]),
    "config of the builder": lambda manifest: manifest.update(builder={"version": "1", "config": deep(500)}),
    "fingerprint": lambda manifest: manifest.update(fingerprint=7),
    "simulated": lambda manifest: manifest.update(simulated="no"),
    "channels": lambda manifest: manifest.update(channels=deep(300)),
    "an open part": lambda _: "[" * 200_000,
    "many empty arrays": lambda _: '{"schema": 2, "a": [' + "[]," * 3_000_000 + "[]]}",
    "a key twice": lambda manifest: json.dumps(manifest).replace('"tile"', '"tile": 16, "tile"', 1),
    "NaN": lambda manifest: manifest["builder"].update(config={"x": float("nan")}),
    "infinity": lambda manifest: json.dumps(manifest).replace('"config": {}', '"config": {"x": 1e999}'),
    "a huge number": lambda manifest: json.dumps(manifest).replace('"config": {}', f'"config": {{"x": 1{"0" * 4000}}}'),
    "a huger number": lambda m: json.dumps(m).replace('"config": {}', f'"config": {{"x": 1{"0" * 9000}}}'),
    "nothing": lambda _: "",
    "a number": lambda _: "5",
    "NUL": lambda _: "\0" * 1000,
    "a number for a version": lambda manifest: manifest.update(schema=2.0000001),
    "an object for a version": lambda manifest: manifest.update(schema={"a": deep(50)}),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    made.write(folder, [made.tile(i) for i in range(7)])
    return folder


def one_line(error: ShardError, path: Path) -> None:
    """The error names the file, the remedy, and shows no control character."""
    text = str(error)
    assert text.startswith(str(path))
    assert text.isprintable()
    assert "build the shards again" in text
    assert len(text) < 700


@pytest.mark.parametrize("change", CHANGES.values(), ids=[ascii(name) for name in CHANGES])
def test_a_hostile_manifest(whole: Path, tmp_path: Path, change: Change) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    text = change(manifest)
    (tmp_path / "manifest.json").write_text(text if isinstance(text, str) else json.dumps(manifest))
    with pytest.raises(ShardError) as caught:
        read_manifest(tmp_path)
    one_line(caught.value, tmp_path / "manifest.json")


def test_statistics_are_finite(whole: Path, tmp_path: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    sound = {"mean": -12.5, "std": 3, "count": 5, "histogram": {"width": 0.5, "first": -9, "counts": [1, 4]}}
    manifest["statistics"] = {"nersc_sar_primary": {**sound, "factors": {"4": sound}}, "month": sound}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest))
    assert read_manifest(tmp_path).statistics == manifest["statistics"]
    for key, value in (
        ("mean", 1e308), ("std", -1), ("count", 0), ("count", 2.5), ("histogram", []), ("histogram", {"width": 0})
    ):  # fmt: skip
        for changed in ({**sound, key: value}, {**sound, "factors": {"4": {**sound, key: value}}}):
            path.write_text(json.dumps(manifest | {"statistics": {"month": changed}}))
            with pytest.raises(ShardError, match=r"statistics.*month") as caught:
                read_manifest(tmp_path)
            one_line(caught.value, path)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    os.mkfifo(path)
    for make in (path.unlink, path.mkdir, path.rmdir, lambda: path.symlink_to("/dev/zero")):
        if path.exists():
            with pytest.raises(ShardError, match=r"manifest\.json: manifest .* (plain file|folder)"):
                read_manifest(tmp_path)
        make()
    with pytest.raises(ShardError, match="plain file"):
        read_manifest(tmp_path)


def test_a_manifest_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "manifest.json", "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ShardError, match=r"1,073,741,824 bytes; at most 67,108,864 are read"):
        read_manifest(tmp_path)


def test_an_index_that_was_changed_is_damage(whole: Path, tmp_path: Path) -> None:
    """Also where the change could be right, as another sample that lies in the shard."""
    manifest = made.write(tmp_path, [made.tile(i) for i in range(7)])
    path = index_path(tmp_path / SHARD)
    path.write_text(path.read_text().replace('"factor": 4', '"factor": 8', 1))
    entry = manifest.splits["train"][0]
    for read in (lambda: read_index(tmp_path / SHARD, entry), lambda: select_from([open_set(str(tmp_path))], "train")):
        with pytest.raises(ShardError, match=r"train-000000\.json: index is damaged .*checksum in the manifest"):
            read()


INDICES: dict[str, Change] = {
    **{f"offset {v!r}": (lambda s, v=v: s.update(offset=v)) for v in (-1, "0", 1.0, None, 1 << 62, 1 << 80)},
    **{f"size {v!r}": (lambda s, v=v: s.update(size=v)) for v in (-1, 0, 10**9, "5", 1 << 80)},
    **{f"core {v!r}": (lambda s, v=v: s.update(core=v)) for v in (-1, 10**9, None)},
    **{f"xxh3 {v!r}": (lambda s, v=v: s.update(xxh3=v)) for v in HASHES},
    **{f"key {v!r}": (lambda s, v=v: s.update(key=v)) for v in (5, None, "", "a\nb", "\x1b[2J", "a" * 300, "a/b")},
    **{f"scene {v!r}": (lambda s, v=v: s.update(scene=v)) for v in (5, "..", "a/b", "a\0", "unheard of")},
    **{f"factor {v!r}": (lambda s, v=v: s.update(factor=v)) for v in (0, -2, "4", 10**9, 8)},
    "labelled": lambda s: s.update(labelled=1),
    "counts": lambda s: s.update(counts=[1]),
    "counts of a chart": lambda s: s["counts"].update(SIC=[1]),
    "counts deep": lambda s: s.update(counts={"SIC": deep(500)}),
    "another key": lambda s: s.update(more=1),
    "a key less": lambda s: s.pop("core"),
}


@pytest.mark.parametrize("change", INDICES.values(), ids=[ascii(name) for name in INDICES])
def test_a_hostile_index_that_its_manifest_names(whole: Path, tmp_path: Path, change: Change) -> None:
    """The author of both can give it the right checksum."""
    made.write(tmp_path, [made.tile(i) for i in range(7)])
    path, manifest = index_path(tmp_path / SHARD), json.loads((tmp_path / "manifest.json").read_text())
    index = json.loads(path.read_text())
    change(index["samples"][1])
    path.write_text(json.dumps(index))
    manifest["splits"]["train"][0]["index"] = xxhash.xxh3_64_hexdigest(path.read_bytes())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError) as caught:
        select_from([open_set(str(tmp_path))], "train")
    one_line(caught.value, path)


def test_an_index_is_read_up_to_what_its_samples_need(whole: Path, tmp_path: Path) -> None:
    manifest = made.write(tmp_path, [made.tile(i) for i in range(7)])
    entry, path = manifest.splits["train"][0], index_path(tmp_path / SHARD)
    path.write_bytes(path.read_bytes() + b" " * schema.index_limit(entry.samples))
    with pytest.raises(ShardError, match=r"at most 49,152 are read"):
        read_index(tmp_path / SHARD, entry)

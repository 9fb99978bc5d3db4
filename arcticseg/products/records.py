"""Which scenes are finished: for each a record of what its files were made from, in a folder beside them. No torch.

A file is the same where size and time are; where only the time differs, its checksum decides. So a folder can be
copied, and a restart reads no whole archive.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from arcticseg.data.manifest import hash_file
from arcticseg.files import make_folder, write_text

# In the output folder.
FOLDER = ".made"

_FORMAT = 1


@dataclass(frozen=True)
class Finished:
    """What is there of a scene: product -> file, of the products asked for, and what else was kept of it."""

    files: Mapping[str, Path]
    result: Mapping[str, Any]


class Records:
    """The records of an output folder.

    Args:
        folder: the output folder.
        made_with: all but the scene that decides what is made: weights, options, versions; as JSON.
        beside: a scene -> another file that decides what is made of it; None: there is none.
        again: no scene counts as finished.
    """

    def __init__(
        self,
        folder: Path,
        made_with: Mapping[str, Any],
        beside: Callable[[Path], Path | None] = lambda scene: None,
        again: bool = False,
    ) -> None:
        self._folder = folder
        self._made_with = json.loads(json.dumps(made_with))
        self._beside = beside
        self._again = again

    def finished(self, scene: Path, products: Iterable[str]) -> Finished | None:
        """What was made of a scene; None: a product is not there or not whole, or what it was made from has changed."""
        if self._again:
            return None
        try:
            record = self._fitting(scene)
            if record is None:
                return None
            files = {}
            for product in products:
                facts = record["files"][product]
                files[product] = self._folder / facts["path"]
                if not _same(files[product], facts):
                    return None
            return Finished(files, record["result"])
        except (OSError, KeyError, TypeError, ValueError):
            return None

    def state(self, scene: Path) -> list[tuple[int, int]]:
        """What tells whether a scene changes while it is drawn; give it to `keep`."""
        return [(stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in self._inputs(scene))]

    def keep(
        self, scene: Path, before: list[tuple[int, int]], files: Mapping[str, Path], result: Mapping[str, Any]
    ) -> None:
        """Write the record of a scene whose files are whole.

        A file that cannot be read again, or a scene that has changed since `before`, leaves no record: it is drawn
        again the next time.

        Raises:
            OutputError: the record cannot be written.
        """
        try:
            inputs = [_facts(path) for path in self._inputs(scene)]
            made = {
                product: {"path": path.relative_to(self._folder).as_posix(), **_facts(path)}
                for product, path in files.items()
            }
        except (OSError, ValueError):
            return
        if [(facts["size"], facts["mtime_ns"]) for facts in inputs] != before:
            return
        # Products that were made before in the same way, and are not asked for now, stay finished.
        try:
            former = self._fitting(scene) or {"files": {}}
            made = {**former["files"], **made}
        except (OSError, KeyError, TypeError, ValueError):
            pass
        record = {"made_with": self._made_with, "inputs": inputs, "files": made, "result": dict(result)}
        make_folder(self._folder / FOLDER)
        write_text(self._path(scene), json.dumps({"format": _FORMAT, "xxh3": _checksum(record), **record}) + "\n")

    def _fitting(self, scene: Path) -> dict[str, Any] | None:
        """The record of a scene, if it is whole and what it was made from is the same."""
        record = json.loads(self._path(scene).read_text(encoding="utf-8"))
        if record.pop("format") != _FORMAT or record.pop("xxh3") != _checksum(record):
            return None
        inputs = self._inputs(scene)
        if record["made_with"] != self._made_with or len(record["inputs"]) != len(inputs):
            return None
        same = all(_same(path, facts) for path, facts in zip(inputs, record["inputs"], strict=True))
        return record if same else None

    def _inputs(self, scene: Path) -> list[Path]:
        other = self._beside(scene)
        return [scene] if other is None else [scene, other]

    def _path(self, scene: Path) -> Path:
        return self._folder / FOLDER / f"{scene.stem}.record"


def _facts(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "xxh3": hash_file(path)}


def _same(path: Path, facts: Mapping[str, Any]) -> bool:
    stat = path.stat()
    if stat.st_size != facts["size"]:
        return False
    return stat.st_mtime_ns == facts["mtime_ns"] or hash_file(path) == facts["xxh3"]


def _checksum(record: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(record, sort_keys=True).encode())

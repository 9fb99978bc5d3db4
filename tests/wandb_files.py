"""wandb's offline files read back: LevelDB's log framing around protobuf records."""

from __future__ import annotations

import json
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def records(path: Path) -> list[bytes]:
    """The records of a .wandb file: LevelDB log framing in 32 KiB blocks after a 7-byte header."""
    data = path.read_bytes()
    out, partial, place = [], b"", 7
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        partial += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            out.append(partial)
            partial = b""
    return out


def parsed(path: Path) -> list[Any]:
    """The parsed records of a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    return [wandb_internal_pb2.Record.FromString(data) for data in records(path)]


def finished_records(path: Path, seconds: float = 20) -> list[Any]:
    """The parsed records of a run that has ended: wandb's service writes the last of them after `finish` returns."""
    until = time.monotonic() + seconds
    while True:
        known = parsed(path)
        if known and known[-1].HasField("exit"):
            return known
        assert time.monotonic() < until, f"{path}: {len(known)} records and no end"
        time.sleep(0.05)


@dataclass
class Logged:
    """What a .wandb file holds.

    Attributes:
        id, project, group, name: of the run.
        config: key -> value.
        rows: `_step` -> series -> value, in the order of the file; a picture or a table is a mapping.
    """

    id: str
    project: str
    group: str
    name: str
    config: dict[str, Any]
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def series(self) -> set[str]:
        return {name for row in self.rows.values() for name in row if not name.startswith("_")}


def _items(pairs: Any) -> dict[str, Any]:
    """Key -> value; of a nested key a mapping."""
    out: dict[str, Any] = {}
    for item in pairs:
        *above, last = item.nested_key or [item.key]
        within = out
        for part in above:
            within = within.setdefault(part, {})
        within[last] = json.loads(item.value_json)
    return out


def read(path: Path, ended: bool = True) -> Logged:
    """Read the file of a run that has ended, or was killed."""
    logged: Logged | None = None
    for record in finished_records(path) if ended else parsed(path):
        if record.HasField("run") and logged is None:
            run = record.run
            logged = Logged(run.run_id, run.project, run.run_group, run.display_name, _items(run.config.update))
        if record.HasField("history"):
            assert logged is not None
            items = _items(record.history.item)
            logged.rows.setdefault(items["_step"], {}).update(items)
    assert logged is not None
    return logged

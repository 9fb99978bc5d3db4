"""What tests of scenes shared out among machines compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import netCDF4

from tests import scenes


def archive(folder: Path, number: int) -> Path:
    """Scenes of different sizes, `a.nc` and so on."""
    for i in range(number):
        scenes.write_raw(folder / f"{chr(97 + i)}.nc", lines=300 + 10 * i, samples=350, seed=i)
    return folder


def scores(folder: Path) -> dict[str, Any]:
    """What an evaluation says, without its times."""
    record = json.loads((folder / "evaluation.json").read_text())
    return {key: value for key, value in record.items() if key not in ("created", "seconds")}


def same_files(first: Path, second: Path, number: int) -> None:
    """Folders hold so many files, the same in both: all of their bytes, but when a netCDF was made."""
    names = [sorted(path.name for path in folder.iterdir() if path.is_file()) for folder in (first, second)]
    assert names[0] == names[1]
    assert len(names[0]) == number
    for name in names[0]:
        if name.endswith(".nc"):
            assert _arrays(first / name) == _arrays(second / name), name
        else:
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


def _arrays(path: Path) -> dict[str, Any]:
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        attributes = {name: str(file.getncattr(name)) for name in file.ncattrs() if name != "history"}
        return attributes | {name: variable[:].tobytes() for name, variable in file.variables.items()}

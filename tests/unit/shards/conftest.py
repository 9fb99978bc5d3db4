"""What several tests of `shards` share: scenes and a build of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards import machines
from shards.build import build
from tests.archive import CONFIG, InThisProcess, quiet, write_archive


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five raw scenes; the last has no chart."""
    return write_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="session")
def splits(archive: list[Path]) -> dict[str, list[Path]]:
    return {"train": [*archive[:2], archive[4]], "val": archive[2:3], "test": archive[3:4]}


@pytest.fixture(scope="session")
def built(splits: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of `splits`, made by a process of the build's own."""
    out = tmp_path_factory.mktemp("shards")
    build(splits, out, CONFIG, report=quiet)
    return out


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build without starting processes, which is most of the time of a small build."""
    monkeypatch.setattr(machines, "Workers", InThisProcess)

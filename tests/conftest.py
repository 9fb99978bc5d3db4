"""Fixtures of all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


def pytest_sessionfinish() -> None:
    """End the server of forked commands, if tests have started it."""
    if "tests.forked" in sys.modules:
        sys.modules["tests.forked"].stop()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real schemas, statistics, charts and SAR crops."""
    place = os.environ.get("ARCTICSEG_REAL_DATA")
    if not place:
        pytest.skip("ARCTICSEG_REAL_DATA is not set: it names the folder of real schemas, charts and SAR crops")
    return Path(place).resolve()


@pytest.fixture(scope="session")
def tiny_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five simulated scenes of 500 x 500 pixels."""
    from shards.simulate import simulate_archive

    folder = tmp_path_factory.mktemp("archive")
    simulate_archive(folder, 5, 0, (500, 500))
    return folder


@pytest.fixture(scope="session")
def tiny_shards(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of `tiny_archive`: 32 x 32 pixel tiles at factor 4; three scenes train, one validates, one tests."""
    from arcticseg.ice.scenes.open import list_scenes
    from shards import lists, split
    from shards.build import build
    from shards.part import BuildConfig

    folder = tmp_path_factory.mktemp("shards")
    paths = list_scenes(tiny_archive)
    parts = split.split([path.stem for path in paths], {"val": 0.2, "test": 0.2})
    config = BuildConfig(tile=32, factors=(4,), shard_bytes=1 << 20)
    build(lists.assign(paths, parts), folder, config, report=lambda text: None)
    return folder

"""Fixtures of the tests that run commands; those that they share with other tests are in tests/conftest.py."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.failing import TILE, build, good
from tests.forked import run


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts file systems in memory: options -> folder."""
    folders: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"mount{len(folders)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"mount is not permitted here: {done.stderr.strip()}")
        folders.append(folder)
        return folder

    try:
        yield mount
    finally:
        for folder in folders:
            subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A UNet of random weights in the form of a trained one."""
    from safetensors.torch import save_file

    from arcticseg import config
    from arcticseg.run import config as run_config
    from arcticseg.run.build import build_model

    cfg = run_config.build([{"steps": 1, "model": {"encoder": {"name": "unet", "filters": [4, 8]}}}])
    facts = {"config": config.to_dict(cfg), "statistics": {}, "tile": TILE, "factors": [4], "simulated": True}
    path = tmp_path_factory.mktemp("weights") / "unet.safetensors"
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    save_file(build_model(cfg, TILE).state_dict(), path, metadata=metadata)
    return path


@pytest.fixture(scope="session")
def shard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a good scene."""
    folder = tmp_path_factory.mktemp("built")
    good(folder / "scenes")
    done = run(*build(folder / "scenes", folder / "shards"))
    assert done.returncode == 0, done.stderr
    return folder / "shards"

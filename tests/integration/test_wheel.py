"""The wheel, installed elsewhere, brings what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from arcticseg import config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel was installed to, without the packages it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True, timeout=300)
    return folder / "site"


def run(installed: Path, empty: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in an empty folder with the installed wheel before everything else."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_dry_run_of_a_shipped_config_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    where = run(installed, tmp_path, "-c", "import arcticseg, configs; print(arcticseg.__file__, configs.__file__)")
    assert where.stdout.count(str(installed)) == 2
    done = run(installed, tmp_path, "-m", "launchers.cli", "train", "--config", "finetune_vit", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "init_from: runs/pretrain_vit" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_wheel_holds_every_config_template_and_script(installed: Path) -> None:
    for name in config.shipped():
        assert (installed / "configs" / name).is_file()
    assert (installed / "arcticseg" / "pictures" / "templates" / "report.html.j2").is_file()
    for name in ("train", "job"):
        assert (installed / "launchers" / "slurm" / f"{name}.sbatch").is_file()

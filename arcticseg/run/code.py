"""Which code a run was started with."""

from __future__ import annotations

import contextlib
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Seconds for git to answer: file systems of clusters may be slow, and a run does not wait for that.
_PATIENCE = 5.0


def code_version(folder: Path = Path(__file__).parents[2]) -> dict[str, Any]:
    """Version of the package; of a checkout also `commit`, and `dirty`: whether its files differ from that.

    Args:
        folder: that holds the package.
    """
    told: dict[str, Any] = {}
    with contextlib.suppress(PackageNotFoundError):
        told["version"] = version("arcticseg")
    # Not of a checkout that an environment with the package happens to lie in.
    if not (folder / ".git").exists():
        return told
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is not None:
        told["commit"] = commit
    if changes is not None:
        told["dirty"] = bool(changes)
    return told


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None: it is not there, or has no answer."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

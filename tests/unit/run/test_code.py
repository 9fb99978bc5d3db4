"""Which code a run was started with."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

from arcticseg.run.code import code_version


def git(folder: Path, *arguments: str) -> str:
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", "-C", str(folder), *name, *arguments], check=True, capture_output=True, text=True
    ).stdout


def test_a_checkout_tells_its_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    assert code_version(tmp_path) == {"version": version("arcticseg")}
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    (tmp_path / "notes").touch()
    assert code_version(tmp_path) == {"version": version("arcticseg"), "commit": commit, "dirty": False}
    (tmp_path / "code.py").write_text("a = 2\n")
    assert code_version(tmp_path)["dirty"] is True
    # A folder inside a checkout is none.
    (tmp_path / "below").mkdir()
    assert "commit" not in code_version(tmp_path / "below")

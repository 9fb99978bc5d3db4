"""The demo in its smallest form; `make demo` is the real one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launchers.demo import demo
from tests import forked


def test_the_chain_runs_from_nothing_to_a_report_and_does_nothing_twice(tmp_path: Path) -> None:
    out, printed = tmp_path / "demo", []

    def run(arguments: Sequence[str]) -> int:
        done = forked.run(*arguments)
        printed.append(done.stdout)
        assert done.returncode == 0, done.stderr
        return done.returncode

    demo(out, tiny=True, run=run)
    for name in ("ViT, pretrained", "UNet", "majority class", "logistic regression", "SIMULATED"):
        assert name in printed[-1]
    page = (out / "report.html").read_text()
    assert "simulated" in page.lower()
    assert list((out / "evaluation" / "vit" / "maps").glob("*.png"))
    assert list((out / "evaluation" / "vit" / "products").glob("*.nc"))

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    command = [sys.executable, "-m", "launchers.cli", "demo", "--tiny", "--out", str(out)]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("done before") == 8
    assert again.stdout.startswith(printed[-1])
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == times

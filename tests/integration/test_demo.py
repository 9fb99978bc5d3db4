"""The demo in its smallest form; `make demo` is the real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def demo(out: Path) -> subprocess.CompletedProcess[str]:
    """Run the tiny demo."""
    return subprocess.run(
        [sys.executable, "-m", "launchers.cli", "demo", "--tiny", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_chain_runs_from_nothing_to_a_report_and_does_nothing_twice(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    first = demo(out)
    assert first.returncode == 0, first.stderr
    for name in ("ViT, pretrained", "UNet", "majority class", "logistic regression", "SIMULATED"):
        assert name in first.stdout
    page = (out / "report.html").read_text()
    assert "simulated" in page.lower()
    assert list((out / "evaluation" / "vit" / "maps").glob("*.png"))
    assert list((out / "evaluation" / "vit" / "products").glob("*.nc"))

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again = demo(out)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("done before") == 8
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == times

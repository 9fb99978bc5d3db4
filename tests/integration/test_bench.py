"""`arcticseg bench` without a GPU, from start to verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("deepspeed")

from arcticseg import config
from arcticseg.speed import turns
from tests.forked import Forked

# Recipes are other combinations of the same networks; `test_recipes` trains them.
SHIPPED = [
    name for name in config.shipped() if "base" not in name and "/" not in name and "finetune" not in config.read(name)
]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_is_measured_at_a_stand_in(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.jsonl"
    # As beside other measurements; the two ranks share one turn on the clock.
    monkeypatch.setenv(turns.VARIABLE, str(tmp_path / "turn"))
    process = Forked(
        "launchers.cli", ["bench", name, "model.init_from=null", "--steps", "2", "--out", str(out)], merged=True
    )
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    assert "a stand-in of" in printed
    assert "take their place" in printed
    assert printed.strip().splitlines()[-1].startswith("bound by ")
    rows = {row["what"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert set(rows) == {"machine", "loader", "bare loop", "trainer", "2 ranks"}
    assert rows["trainer"]["samples_per_s"] > 0
    assert 0 < rows["2 ranks"]["communication"] < 1
    assert not list(tmp_path.glob("run*"))

"""A few rounds of `make chaos`, whose program says what must hold."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.chaos import chaos

# Drawn so that a rank, all, the launcher and its parent are killed, in some order.
SEED = 4


@pytest.mark.slow
def test_a_training_that_is_killed_and_damaged_learns_what_it_would_have_learnt(tmp_path: Path) -> None:
    told: list[str] = []
    chaos(tmp_path, kills=4, terms=1, seed=SEED, report=told.append)
    assert len(told) == 5 + 2

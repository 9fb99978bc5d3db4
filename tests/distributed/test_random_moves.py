"""Four moves of `tests.moves`, others each day; `make moves` makes twelve."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from tests.moves import BOUNDS, Move, largest_difference, moves


@pytest.mark.parametrize("move", moves(4, date.today().toordinal()), ids=str)
def test_losses_stay_on_the_curve(move: Move, tiny_shards: Path, tmp_path: Path) -> None:
    assert largest_difference(move, tiny_shards, tmp_path) <= BOUNDS[move.precision]

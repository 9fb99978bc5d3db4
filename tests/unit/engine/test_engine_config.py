"""How a global batch is shared out among ranks and micro batches."""

from __future__ import annotations

import pytest

from arcticseg.engine.config import EngineConfig, accumulation_steps
from arcticseg.errors import ConfigError


@pytest.mark.parametrize(
    ("total", "micro", "world_size", "expected"),
    [
        (16, None, 1, (16, 1)),
        (16, 4, 1, (4, 4)),
        (16, 4, 2, (4, 2)),
        # More ranks than before: the micro batch shrinks to a rank's share.
        (16, 8, 4, (4, 1)),
        (12, 4, 3, (4, 1)),
    ],
)
def test_batch_arithmetic(total: int, micro: int | None, world_size: int, expected: tuple[int, int]) -> None:
    sizes = accumulation_steps(EngineConfig(global_batch_size=total, micro_batch_size=micro), world_size)
    assert sizes == expected
    assert sizes[0] * sizes[1] * world_size == total


@pytest.mark.parametrize(
    ("total", "micro", "world_size", "told"),
    [
        (16, None, 3, r"'engine\.global_batch_size' is 16; set a multiple of .*3"),
        (24, 8, 2, r"'engine\.micro_batch_size' is 8; set a divisor of 12"),
    ],
)
def test_batches_that_do_not_divide(total: int, micro: int | None, world_size: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        accumulation_steps(EngineConfig(global_batch_size=total, micro_batch_size=micro), world_size)


def test_cutmix_needs_even_micro_batches() -> None:
    assert accumulation_steps(EngineConfig(global_batch_size=12), 3, pairs=True) == (4, 1)
    with pytest.raises(ConfigError, match=r"'data\.augment\.cutmix'.* 3; set an even engine\.micro_batch_size"):
        accumulation_steps(EngineConfig(global_batch_size=12), 4, pairs=True)

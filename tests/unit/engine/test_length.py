"""How long a training is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcticseg.engine.length import Length


@pytest.mark.parametrize(
    ("tail", "batch", "step", "consumed", "last"),
    [
        ("drop", 4, 0, 0, 25),
        ("drop", 8, 0, 0, 12),
        ("pad", 8, 0, 0, 13),
        # Half way on with twice the batch, and from a place that is no multiple of it.
        ("drop", 8, 13, 52, 13 + 6),
        ("drop", 8, 12, 48, 12 + 6),
        ("pad", 8, 12, 48, 12 + 7),
        ("drop", 8, 25, 100, 25),
        ("drop", 8, 26, 104, 26),
    ],
)
def test_the_last_step(tail: str, batch: int, step: int, consumed: int, last: int) -> None:
    assert Length(None, 100, batch, tail).last_step(step, consumed) == last  # type: ignore[arg-type]


def test_a_length_in_steps_is_that() -> None:
    length = Length(30, 0, 8)
    assert length.last_step(12, 5) == 30
    assert length.schedule(12, 5) == (12, 30)
    assert length.rest(240) == {}


@given(st.integers(1, 500), st.lists(st.integers(1, 60), min_size=1, max_size=6), st.sampled_from(["drop", "pad"]))
def test_changing_batches_end_where_the_samples_do(samples: int, batches: list[int], tail: str) -> None:
    step = consumed = 0
    for number, batch in enumerate(batches):
        length = Length(None, samples, batch, tail)  # type: ignore[arg-type]
        last = length.last_step(step, consumed)
        stop = last if number == len(batches) - 1 else min(last, step + 2)
        step, consumed = stop, consumed + batch * (stop - step)
    rest = length.rest(consumed)
    assert rest["dropped"] - rest["padded"] == samples - consumed
    assert min(rest.values()) == 0
    if tail == "drop":
        assert rest["padded"] == 0
        assert rest["dropped"] < max(batches)
    else:
        assert rest["dropped"] == 0
        assert rest["padded"] < max(batches)


def test_the_schedule_goes_by_samples() -> None:
    """The share of the training that is over is the same before and after a change of the batch size."""
    before, after = Length(None, 1000, 5), Length(None, 1000, 20)
    assert before.schedule(100, 500) == (100, 200)
    position, total = after.schedule(100, 500)
    assert position / total == 0.5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcticseg.data.share import Share


@given(st.integers(0, 10**6), st.integers(1, 16), st.integers(1, 4), st.integers(1, 4))
def test_ranks_share_the_places_of_a_step(step: int, world_size: int, micro: int, accumulation: int) -> None:
    total = world_size * micro * accumulation
    shares = [Share(rank, world_size, total, micro) for rank in range(world_size)]
    places = [share.places(step * total) for share in shares]
    assert all(len(part) == micro * accumulation for part in places)
    assert [place for part in places for place in part] == list(range(step * total, (step + 1) * total))
    assert {share.accumulation_steps for share in shares} == {accumulation}


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ((0, 4, 10, 1), "size 10 .* 4 ranks"),
        ((0, 2, 12, 4), "size 12 .* 2 ranks x micro batches of 4"),
        ((0, 1, 12, 0), "of 0"),
        ((4, 4, 12, 1), "rank 4 .* 4"),
        ((-1, 4, 12, 1), "rank -1"),
    ],
)
def test_what_ranks_cannot_share_is_refused(share: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Share(*share)

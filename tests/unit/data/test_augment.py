import re
from dataclasses import fields

import made
import numpy as np
import pytest
import torch

from arcticseg.data.augment import Augment
from arcticseg.data.batch import Batch, collate
from arcticseg.ice.channels import GROUPS

SIZE = made.SIZE


def draws(batch: Batch) -> dict[str, torch.Tensor]:
    """The drawn values by name."""
    assert batch.draws is not None
    return {field.name: getattr(batch.draws, field.name) for field in fields(batch.draws)}


def test_draws_depend_on_seed_and_place_alone() -> None:
    tiles = [made.tile(i) for i in range(6)]
    augment = Augment(3, True, True, (("amsr2", 0.5), ("hh", 0.5)), 0.4, 0.5, 30, 1.5, 2, 0.3)
    together = draws(collate(tiles, range(100, 106), augment))
    for i in (0, 2, 4):
        pair = draws(collate(tiles[i : i + 2], [100 + i, 101 + i], augment))
        for name, drawn in pair.items():
            assert torch.equal(drawn, together[name][i : i + 2]), name
    assert len(set(map(tuple, together["crop"].tolist()))) == 6
    for name in ("angle", "zoom", "speckle", "noise"):
        assert len(set(together[name].tolist())) == 6, name
    orientations = [Augment(seed, True, True).draw(place, 8) for seed in (0, 1) for place in range(40)]
    flags = {tuple(bool(d[name]) for name in ("transpose", "flip_rows", "flip_cols")) for d in orientations}
    assert len(flags) == 8  # each of the eight orientations occurs


def test_orientations_are_equally_likely() -> None:
    augment = Augment(0, flips=True, quarter_turns=True)
    counts: dict[tuple[bool, ...], int] = {}
    for place in range(4000):
        draw = augment.draw(place, SIZE)
        key = tuple(bool(draw[name]) for name in ("transpose", "flip_rows", "flip_cols"))
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 8
    assert min(counts.values()) > 400
    assert max(counts.values()) < 600


def test_flips_and_turns_do_not_need_each_other() -> None:
    flips = [Augment(0, flips=True).draw(place, SIZE) for place in range(100)]
    assert not any(draw["transpose"] for draw in flips)
    turns = [Augment(0, quarter_turns=True).draw(place, SIZE) for place in range(100)]
    # A turn by 90 or 270 degrees is a transposition with a single flip; a turn by 0 or 180 has no flip or both.
    assert all(draw["transpose"] == (draw["flip_rows"] != draw["flip_cols"]) for draw in turns)
    assert {(draw["flip_rows"], draw["flip_cols"]) for draw in turns} == {(a, b) for a in (0, 1) for b in (0, 1)}
    nothing = [Augment(0).draw(place, SIZE) for place in range(100)]
    assert not any(draw[name] for draw in nothing for name in ("transpose", "flip_rows", "flip_cols"))
    assert not any(draw["drop"].any() for draw in nothing)


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_groups_are_dropped_with_their_probability(share: float) -> None:
    augment = Augment(1, drop_groups=(("era5", share), ("hv", 0.3)))
    drops = np.array([augment.draw(place, SIZE)["drop"] for place in range(3000)])
    rates = dict(zip(GROUPS, drops.mean(axis=0), strict=True))
    assert rates["era5"] == pytest.approx(share, abs=0.04)
    assert rates["hv"] == pytest.approx(0.3, abs=0.04)
    both = (drops[:, GROUPS.index("era5")] & drops[:, GROUPS.index("hv")]).mean()
    assert both == pytest.approx(0.3 * share, abs=0.04)
    assert sum(rates.values()) == rates["era5"] + rates["hv"]


def test_crops_lie_in_the_tile_and_have_any_allowed_size() -> None:
    crops = np.array([Augment(0, crop=0.25).draw(place, 64)["crop"] for place in range(3000)])
    first, edge = crops[:, :2], crops[:, 2]
    assert edge.min() == 16
    assert edge.max() == 64
    assert edge.mean() == pytest.approx(40, abs=1)
    assert (first >= 0).all()
    assert (first.max(1) + edge <= 64).all()
    # Each place in which the window fits occurs.
    assert {tuple(row) for row in first[edge == 63]} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert "crop" not in Augment(0).draw(0, 64)


def test_boxes_are_the_same_for_both_partners_and_lie_in_the_tile() -> None:
    boxes = np.array([Augment(0, cutmix=0.5).draw(place, 64)["mix"] for place in range(6000)])
    assert (boxes[::2] == boxes[1::2]).all()
    assert len(np.unique(boxes, axis=0)) > 1000
    height, width = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    assert boxes.min() == 0
    assert boxes.max() == 64
    assert (height >= 0).all()
    assert (width >= 0).all()
    assert (height[::2] > 0).mean() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("places", [[1, 2], [0, 1, 2], [0, 2], [0, 1, 3, 2]])
def test_cutmix_refuses_parted_pairs(places: list[int]) -> None:
    tiles = [made.tile(place) for place in places]
    with pytest.raises(ValueError, match=re.escape(str(places))):
        collate(tiles, places, Augment(0, cutmix=0.5))

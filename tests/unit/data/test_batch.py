import made
import numpy as np
import pytest
import torch

from arcticseg.data.batch import Augment, collate
from arcticseg.data.sample import interpolation_matrix
from arcticseg.ice.channels import GROUPS


def test_tiles_of_unlike_windows_are_padded() -> None:
    tiles = [made.tile(0, cells=2), made.tile(1, cells=4), made.tile(2, cells=0, labelled=False)]
    batch = collate(tiles, [5, 7, 1 << 40])
    assert len(batch) == 3
    assert batch.place.tolist() == [5, 7, 1 << 40]
    for i, tile in enumerate(tiles):
        assert torch.equal(batch.hh[i], torch.from_numpy(tile.hh.astype(np.int16)))
        h, w = tile.aux.shape[1:]
        np.testing.assert_array_equal(batch.aux[i, :, :h, :w].numpy().view(np.uint16), tile.aux)
        # What is padded meets no weight.
        assert batch.aux_rows[i, :, h:].abs().sum() == 0
        assert batch.aux_cols[i, :, w:].abs().sum() == 0
        np.testing.assert_array_equal(
            batch.aux_rows[i, :, :h], interpolation_matrix(tile.aux_rows, made.SIZE, clamp=True)
        )
    assert batch.aux.shape == (3, 20, 4, 5)
    assert (batch.lab[2] == 255).all()
    assert batch.lab.dtype == torch.uint8
    assert batch.clock.tolist() == [[2, 34]] * 3


def test_a_tile_without_a_time() -> None:
    from dataclasses import replace

    assert torch.isnan(collate([replace(made.tile(0), time=None)], [0]).clock).all()


def test_geolocation_travels_as_unit_vectors() -> None:
    tile = made.tile(0)
    geo = collate([tile], [0]).geo[0].numpy()
    assert geo.shape == (4, 2, 3)
    np.testing.assert_allclose((geo[:3] ** 2).sum(0), 1, rtol=1e-6)
    np.testing.assert_allclose(np.degrees(np.arcsin(geo[2])), tile.geo[0], atol=1e-4)
    np.testing.assert_allclose(np.degrees(np.arctan2(geo[1], geo[0])) % 360, tile.geo[1] % 360, atol=1e-4)
    np.testing.assert_array_equal(geo[3], tile.geo[2])


def test_draws_depend_on_seed_and_place_alone() -> None:
    tiles = [made.tile(i) for i in range(6)]
    augment = Augment(3, flips=True, quarter_turns=True, drop_groups=(("amsr2", 0.5), ("hh", 0.5)))
    together = collate(tiles, range(100, 106), augment)
    for i in range(6):
        alone = collate(tiles[i : i + 1], [100 + i], augment)
        for name in ("transpose", "flip_rows", "flip_cols", "drop"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[i])
    draws = [Augment(seed, True, True).draw(place) for seed in (0, 1) for place in range(40)]
    flags = {tuple(bool(draw[name]) for name in ("transpose", "flip_rows", "flip_cols")) for draw in draws}
    assert len(flags) == 8  # every one of the eight orientations occurs


def test_orientations_are_equally_likely() -> None:
    augment = Augment(0, flips=True, quarter_turns=True)
    draws = [augment.draw(place) for place in range(4000)]
    counts: dict[tuple[bool, ...], int] = {}
    for draw in draws:
        key = tuple(bool(draw[name]) for name in ("transpose", "flip_rows", "flip_cols"))
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 8
    assert min(counts.values()) > 400
    assert max(counts.values()) < 600


def test_flips_and_turns_can_be_had_apart() -> None:
    flips = [Augment(0, flips=True).draw(place) for place in range(100)]
    assert not any(draw["transpose"] for draw in flips)
    turns = [Augment(0, quarter_turns=True).draw(place) for place in range(100)]
    # A turn by 90 or 270 degrees is a transposition with exactly one flip; one by 0 or 180 has none or both.
    assert all(draw["transpose"] == (draw["flip_rows"] != draw["flip_cols"]) for draw in turns)
    assert {(draw["flip_rows"], draw["flip_cols"]) for draw in turns} == {(a, b) for a in (0, 1) for b in (0, 1)}
    nothing = [Augment(0).draw(place) for place in range(100)]
    assert not any(draw[name] for draw in nothing for name in ("transpose", "flip_rows", "flip_cols"))
    assert not any(draw["drop"].any() for draw in nothing)


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_groups_are_dropped_as_often_as_asked(share: float) -> None:
    augment = Augment(1, drop_groups=(("era5", share), ("hv", 0.3)))
    drops = np.array([augment.draw(place)["drop"] for place in range(3000)])
    rates = dict(zip(GROUPS, drops.mean(axis=0), strict=True))
    assert rates["era5"] == pytest.approx(share, abs=0.04)
    assert rates["hv"] == pytest.approx(0.3, abs=0.04)
    both = (drops[:, GROUPS.index("era5")] & drops[:, GROUPS.index("hv")]).mean()
    assert both == pytest.approx(0.3 * share, abs=0.04)
    assert sum(rates.values()) == rates["era5"] + rates["hv"]

from dataclasses import replace

import made
import numpy as np
import torch

from arcticseg.data.batch import collate


def test_tiles_of_unlike_windows_are_padded() -> None:
    tiles = [made.tile(0, cells=2), made.tile(1, cells=4), made.tile(2, cells=0, labelled=False)]
    batch = collate(tiles, [5, 7, 1 << 40])
    assert len(batch) == 3
    assert batch.size == made.SIZE
    assert batch.place.tolist() == [5, 7, 1 << 40]
    assert batch.aux.shape == (3, 20, 5, 5)
    assert batch.geo.shape == (3, 3, 3, 3)
    for i, tile in enumerate(tiles):
        assert torch.equal(batch.hh[i], torch.from_numpy(tile.hh.astype(np.int16)))
        h, w = tile.aux.shape[1:]
        np.testing.assert_array_equal(batch.aux[i, :, :h, :w].numpy().view(np.uint16), tile.aux)
        assert batch.aux_rows[i].tolist() == [*tile.aux_rows, *[np.inf] * (5 - h)]
        assert batch.aux_cols[i].tolist() == [*tile.aux_cols, *[np.inf] * (5 - w)]
        np.testing.assert_array_equal(batch.geo[i, :, :2, :3], tile.geo)
    assert (batch.lab[2] == 255).all()
    assert batch.lab.dtype == torch.uint8
    assert batch.clock.tolist() == [[2, 34]] * 3
    assert batch.draws is None


def test_a_tile_without_a_time() -> None:
    assert torch.isnan(collate([replace(made.tile(0), time=None)], [0]).clock).all()

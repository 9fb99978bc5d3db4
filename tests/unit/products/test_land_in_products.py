"""No product charts land: pixels within the coastline are masked where a scene has no distance map."""

from __future__ import annotations

from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

pytest.importorskip("torch")

from drawing import predictor

from arcticseg.products.netcdf import NetCDF
from arcticseg.products.write import Options, write_scenes
from shards.simulate import simulate_scene
from tests.coast import coast_km, land_by_degrees


def check_product(path: Path) -> float:
    """The share of land in a product, after a look at its pixels: on a lattice, and on all of each 25th line."""
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        assert "coastline GSHHG" in file.comment
        for part in (np.s_[::7, ::7], np.s_[::25, :]):
            latitude, longitude = (np.array(file[name][part], float) for name in ("latitude", "longitude"))
            charted = np.array([file[name][part] for name in ("SIC", "SOD", "FLOE")]).min(axis=0) < 255
            is_land = land_by_degrees(latitude, longitude)
            # Within a pixel of the coastline, where positions are rounded, either is right.
            wrong = is_land & charted
            assert (coast_km(latitude[wrong], longitude[wrong]) < 0.08).all()
            assert np.count_nonzero(wrong) <= 0.001 * wrong.size
            assert charted[~is_land].mean() > 0.9
    return float(is_land.mean())


def test_a_simulated_scene_over_greenland(tmp_path: Path) -> None:
    whole = simulate_scene(tmp_path / "whole.nc", index=1, seed=1, size=1200, window=(-51.5, 69.3))
    with xr.open_dataset(whole, mask_and_scale=False, decode_times=False) as data:
        data.drop_vars("distance_map").to_netcdf(tmp_path / "scene.nc")
    write_scenes(predictor(64, 8), [tmp_path / "scene.nc"], {"netcdf": NetCDF()}, lambda *_: tmp_path / "product.nc")
    assert 0.05 < check_product(tmp_path / "product.nc") < 0.95


@pytest.mark.parametrize(
    ("name", "has_land"),
    [
        ("S1A_EW_GRDM_1SDH_20161005T142446", False),
        ("S1B_EW_GRDM_1SDH_20161005T101835", False),
        ("S1B_EW_GRDM_1SDH_20200123T120618", True),
        ("S1B_EW_GRDM_1SDH_20200125T114955", True),
    ],
)
def test_real_crops(name: str, has_land: bool, real_data: Path, tmp_path: Path) -> None:
    crop = real_data / "sar" / f"{name}.tif"
    hv = predictor(64, 4, ("nersc_sar_secondary",))
    write_scenes(hv, [crop], {"netcdf": NetCDF()}, lambda *_: tmp_path / "product.nc", Options(polarisation="hv"))
    assert (check_product(tmp_path / "product.nc") > 0) == has_land

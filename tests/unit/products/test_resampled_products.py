"""Products of a scene whose pixels are 55 m: the chart lies where the file's positions say, and the files say why."""

from __future__ import annotations

from pathlib import Path

import netCDF4
import numpy as np
import pyproj
import pytest
import rasterio

pytest.importorskip("torch")

from drawing import predictor

from arcticseg.products.table import PRODUCTS
from arcticseg.products.write import write_scenes
from tests import rasters

# In open sea, so that no land is masked.
SIDE, PLACE = 55.0, (78.0, 0.0)
SHAPE, MARK = (240, 260), (slice(60, 80), slice(150, 180))
GEOD = pyproj.Geod(ellps="WGS84")


def test_a_mark_keeps_its_place(tmp_path: Path) -> None:
    # One standard deviation below the mean, and one above it; the network makes SIC 4 and 6 of them.
    backscatter = np.random.default_rng(0).normal(-20.1, 0.3, SHAPE)
    backscatter[MARK] += 11.3
    power = (10 ** (backscatter / 10)).astype(np.float32)
    path = rasters.write(tmp_path / rasters.NAME, power, sides=(SIDE, SIDE), place=PLACE)
    products = {name: PRODUCTS[name] for name in ("netcdf", "geotiff", "map")}
    with pytest.warns(UserWarning, match="resampled to 40 m"):
        write_scenes(predictor(32, 2), [path], products, lambda name, product: tmp_path / f"out{product.extension}")
    longitude, latitude = rasters.lonlat(SHAPE, (SIDE, SIDE), PLACE, 69.5, 164.5)
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        assert file.pixel_spacing == "80.0"
        assert "resampled to 40 m, since by its positions its pixels are 55.0 x 55.0 m" in file.comment
        sic = file["SIC"][:].filled(255)
        assert sic.shape == (165, 178)
        rows, columns = np.nonzero(sic == 6)
        area = (20 * SIDE) * (30 * SIDE)
        assert rows.size * 80 * 80 == pytest.approx(area, rel=0.1)
        middle = file["latitude"][:][rows, columns].mean(), file["longitude"][:][rows, columns].mean()
    assert GEOD.inv(longitude, latitude, middle[1], middle[0])[2] < 40
    with rasterio.open(tmp_path / "out.tif") as file:
        assert "resampled to 40 m" in file.tags()["comment"]
        points, crs = file.gcps
        rows, columns = np.nonzero(file.read(1) == 6)
        with rasterio.transform.GCPTransformer(points) as transformer:
            x, y = transformer.xy(rows.mean(), columns.mean(), offset="center")
    there = pyproj.Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y)
    assert GEOD.inv(longitude, latitude, *there)[2] < 40
    assert (tmp_path / "out.png").is_file()

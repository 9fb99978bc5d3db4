"""Real charts and real SAR through the whole chain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr

from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.vector import read_chart
from launchers import cli
from tests.training import UNET, empty_config, overrides, train


def arcticseg(*arguments: object) -> None:
    """Run a command in this process, which has loaded its packages."""
    assert cli.main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def robust_run(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network trained to live without HH, AMSR2, ERA5 and the distance map."""
    folder = tmp_path_factory.mktemp("robust")
    drops = {f"data.augment.drop_groups.{group}": 0.5 for group in ("hh", "incidence", "distance", "amsr2", "era5")}
    train(empty_config(folder), overrides(tiny_shards, folder / "run", UNET, drops, {"steps": 5}))
    return folder / "run"


def test_a_real_chart_through_the_chain(real_data: Path, robust_run: Path, tmp_path: Path) -> None:
    chart = real_data / "charts" / "cis" / "cis_SGRDREA_20201102T.gpkg"
    scenes = tmp_path / "scenes"
    arcticseg("simulate", scenes, "--n", 1, "--size", 600, "--chart", chart)
    (path,) = scenes.glob("*.nc")
    real = {
        tuple(codes[name] for name in ("CT", "CA", "SA", "FA", "CB", "SB", "FB")) for codes in read_chart(chart).codes
    }
    with xr.open_dataset(path) as scene:
        header, *rows = (str(row).split(";") for row in scene["polygon_codes"].values)
        ids = np.unique(scene["polygon_icechart"].values)
        assert scene.attrs["simulated"].startswith("simulated")
    assert rows
    for row in rows:
        codes = dict(zip(header, row, strict=True))
        assert tuple(codes[name] for name in ("CT", "CA", "SA", "FA", "CB", "SB", "FB")) in real
    assert set(ids[np.isfinite(ids)].astype(int)) <= {int(row[0]) for row in rows}
    with open_scene(path) as opened:
        labels = opened.chart()
    assert labels is not None
    assert len(np.unique(labels[0])) > 1

    arcticseg("shards", "build", scenes, "--out", tmp_path / "shards", "--factors", 4, "--tile", 32)
    arcticseg("evaluate", robust_run, scenes, "--out", tmp_path / "evaluation")
    assert (tmp_path / "evaluation" / "maps" / f"{path.stem}.png").stat().st_size > 10_000


def test_a_real_hv_crop_becomes_a_georeferenced_map(
    real_data: Path, robust_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crop = real_data / "sar" / "S1B_EW_GRDM_1SDH_20200123T120618.tif"
    arcticseg("predict", robust_run, crop, "--out", tmp_path)
    assert "has no hh, incidence, amsr2, era5" in capsys.readouterr().out
    with rasterio.open(crop) as source:
        points, crs = source.gcps
    longitudes, latitudes = _lonlat(points, crs)
    with xr.open_dataset(tmp_path / f"{crop.stem}.nc", mask_and_scale=False) as product:
        assert product["SIC"].shape == (500, 500)
        # The pixels of the product lie within the place that the control points span.
        assert latitudes.min() - 0.05 < product["latitude"].values.min()
        assert product["latitude"].values.max() < latitudes.max() + 0.05
        assert longitudes.min() - 0.2 < product["longitude"].values.min()
        assert product["longitude"].values.max() < longitudes.max() + 0.2
        for name, classes in (("SIC", 11), ("SOD", 6), ("FLOE", 7)):
            values = product[name].values
            assert ((values < classes) | (values == 255)).all()
            # The north coast of Greenland is in it.
            assert 0.8 < (values < classes).mean() < 0.95
        assert "simulated" not in product.attrs
        assert "coastline" in product.attrs["comment"]
    with rasterio.open(tmp_path / f"{crop.stem}.charts.tif") as charts:
        assert charts.gcps[1].is_projected
        assert charts.count == 3
        assert charts.descriptions == ("SIC", "SOD", "FLOE")
    assert (tmp_path / f"{crop.stem}.png").stat().st_size > 10_000


def _lonlat(points: list[rasterio.control.GroundControlPoint], crs: rasterio.CRS) -> tuple[np.ndarray, np.ndarray]:
    from pyproj import Transformer

    transformer = Transformer.from_crs(crs.to_wkt(), 4326, always_xy=True)
    longitudes, latitudes = transformer.transform([point.x for point in points], [point.y for point in points])
    return np.asarray(longitudes), np.asarray(latitudes)

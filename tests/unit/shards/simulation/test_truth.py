"""The ice and the wind that are really in a simulated scene, against its chart, its image and its geolocation."""

from __future__ import annotations

from pathlib import Path

import netCDF4
import numpy as np
import pytest
from pyproj import Geod
from scipy import ndimage

from arcticseg.ice.reference import find_references, read_reference, reference_of
from arcticseg.ice.scenes.open import list_scenes, open_scene
from arcticseg.ice.sigrid import FLOE_CLASS, SIC_CLASS, SOD_CLASS
from launchers.cli import main
from shards.simulate import simulate_archive, simulate_scene

SIZE = (1000, 1101)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    simulate_archive(folder, 3, 4, SIZE, truth=True)
    return folder


def truth_of(scene: Path) -> np.ndarray:
    return read_reference(scene.parent / "truth" / f"{scene.stem}_reference.nc", (500, 550))


def test_it_is_a_reference_chart_of_its_scene_and_no_scene(folder: Path) -> None:
    scenes = list_scenes(folder)
    assert len(scenes) == 3
    references = find_references(folder / "truth")
    for path in scenes:
        reference = reference_of(path.stem, references)
        assert reference is not None
        assert read_reference(reference, (500, 550)).shape == (3, 500, 550)
        with netCDF4.Dataset(reference) as file:
            assert file.simulated.startswith("simulated")
            assert "SIMULATED" in file.title


def test_it_is_unknown_on_land_and_outside_the_image_alone(folder: Path) -> None:
    for path in list_scenes(folder):
        with open_scene(path) as scene:
            missing = np.isnan(scene.sar("hh")) | (scene.distance() == 0)
        blocks = missing[:1000, :1100].reshape(500, 2, 550, 2).any(axis=(1, 3))
        truth = truth_of(path)
        np.testing.assert_array_equal(truth[0] == 255, blocks)
        water = truth[0] == 0
        assert (truth[1:, water] == 0).all()


def test_polygons_hold_on_average_what_their_codes_say(folder: Path) -> None:
    """Concentration within half a tenth and a bit; no other stages and floes than the code names."""
    seen = 0
    for path in list_scenes(folder):
        truth = truth_of(path)
        with netCDF4.Dataset(path) as file:
            ids = np.asarray(file["polygon_icechart"][:1000:2, :1100:2].filled(np.nan))
            rows = [str(row).split(";") for row in file["polygon_codes"][:]]
        for row in rows[1:]:
            cells = {name: int(cell) for name, cell in zip(rows[0][:11], row[:11], strict=True)}
            # Drawn edges stray from true ones.
            inside = ndimage.binary_erosion(ids == cells["poly_id"], iterations=14) & (truth[0] != 255)
            if inside.sum() < 4000:
                continue
            assert truth[0][inside].mean() == pytest.approx(SIC_CLASS[cells["CT"]], abs=1.2)
            icy = inside & (truth[0] > 0)
            for plane, letter, table in ((truth[1], "S", SOD_CLASS), (truth[2], "F", FLOE_CLASS)):
                named = {table.get(cells[f"{letter}{part}"], 255) for part in "ABC"}
                assert set(np.unique(plane[icy])) <= named
            seen += 1
    assert seen >= 5


def test_the_scene_is_the_same_with_and_without_it(folder: Path, tmp_path: Path) -> None:
    path = list_scenes(folder)[0]
    index = next(i for i in range(3) if simulate_names(i) == path.name)
    again = simulate_scene(tmp_path, index=index, seed=4, size=SIZE)
    assert not (tmp_path / "truth").exists()
    with netCDF4.Dataset(path) as one, netCDF4.Dataset(again) as other:
        for name in ("nersc_sar_secondary", "polygon_icechart", "u10m_rotated", "btemp_89_0h"):
            np.testing.assert_array_equal(one[name][:], other[name][:])


def simulate_names(index: int) -> str:
    from shards.simulate import SimulationConfig

    return SimulationConfig(SIZE, 4).place(index).file_name


def test_a_scene_whose_truth_is_lost_is_made_again(tmp_path: Path) -> None:
    (path,) = simulate_archive(tmp_path, 1, 0, 500, truth=True)
    kept = path.stat().st_mtime_ns
    simulate_archive(tmp_path, 1, 0, 500, truth=True)
    assert path.stat().st_mtime_ns == kept
    (truth,) = (tmp_path / "truth").iterdir()
    truth.unlink()
    simulate_archive(tmp_path, 1, 0, 500, truth=True)
    assert truth.exists()


@pytest.mark.parametrize("option", [[], ["--no-truth"]])
def test_the_command_writes_it_unless_told_not_to(option: list[str], tmp_path: Path) -> None:
    main(["simulate", str(tmp_path), "--n", "1", "--size", "500", *option])
    assert (tmp_path / "truth").exists() == (option == [])


def test_signs_of_the_wind_agree_with_headings_on_the_ellipsoid(folder: Path) -> None:
    """The wind in the truth is eastward and northward; towards growing samples it is u, towards growing lines v.

    Directions are those of geodesics between points of the geolocation grid, by pyproj.
    """
    geod = Geod(ellps="sphere")
    signs = set()
    for path in list_scenes(folder):
        with netCDF4.Dataset(path.parent / "truth" / f"{path.stem}_reference.nc") as file:
            east, north = (float(np.mean(file[name][:])) for name in ("u10m", "v10m"))
        with netCDF4.Dataset(path) as file:
            u, v = (float(np.mean(file[name][:])) for name in ("u10m_rotated", "v10m_rotated"))
            latitude, longitude = (
                np.asarray(file[f"sar_grid_{name}"][:]).reshape(21, 21) for name in ("latitude", "longitude")
            )
        for component, (line, sample) in ((u, (10, 11)), (v, (11, 10))):
            bearing, _, _ = geod.inv(
                longitude[10, 10], latitude[10, 10], longitude[line, sample], latitude[line, sample]
            )
            towards = np.radians(bearing)
            assert east * np.sin(towards) + north * np.cos(towards) == pytest.approx(component, abs=0.1)
            signs.add((component == u, np.sign(component)))
    assert len(signs) >= 3

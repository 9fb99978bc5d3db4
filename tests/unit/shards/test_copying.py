from pathlib import Path

import netCDF4
import numpy as np
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.scenes.open import open_scene
from shards.copying import copy_variables
from tests import scenes


def odd_file(path: Path, form: str = "NETCDF4") -> Path:
    """Storages that a plain copy of names, dimensions and types cannot repeat."""
    random = np.random.default_rng(0)
    with netCDF4.Dataset(path, "w", format=form) as file:
        file.title = "odd"
        file.createDimension("endless", None)
        file.createDimension("y", 700)
        file.createDimension("codes", 3)
        # Chunks of an endless dimension may be longer than it is.
        packed = file.createVariable("packed", "i2", ("endless", "y"), fill_value=-5, chunksizes=(1024, 7), zlib=True)
        packed.set_auto_maskandscale(False)
        packed.setncatts({"scale_factor": 0.25, "add_offset": np.float32(3), "valid_range": np.array([-9, 9], "i2")})
        packed[0:600] = random.integers(-9, 9, (600, 700))
        packed.missing_value = np.int16(4)
        file.createVariable("big", ">f8", ("y",), endian="big")[:] = random.normal(size=700)
        file.createVariable("bytes", "i1", ("y",))._Unsigned = "true"
        file.createVariable("unwritten", "f4", ("y",), fill_value=np.float32(-1), zlib=True)
        letters = file.createVariable("letters", "S1", ("y",))
        letters._Encoding = "ascii"
        letters[:] = np.frombuffer(b"ab" * 350, "S1")
        file.createVariable("text", str, ("codes",))[:] = np.array(["ø", "", "b"], object)
        file.createVariable("words", str, ())[...] = "one"
        file.createVariable("number", "u8", ())[...] = 2**63
        file.createVariable("codes", str, ("codes",))
        group = file.createGroup("more")
        group.comment = "within"
        group.createDimension("y", 2)
        group.createVariable("x", "u2", ("y",))[:] = [1, 65_535]
    return path


def as_stored(variable: netCDF4.Variable) -> np.ndarray:
    variable.set_auto_maskandscale(False)
    variable.set_auto_chartostring(False)
    return np.asarray(variable[...])


def test_all_is_copied_as_it_is_stored(tmp_path: Path) -> None:
    path, out = odd_file(tmp_path / "a.nc"), tmp_path / "b.nc"
    with netCDF4.Dataset(out, "w") as target:
        copy_variables(path, target, leave_out=("nothing",))
    with netCDF4.Dataset(path) as old, netCDF4.Dataset(out) as new:
        assert new.title == "odd"
        assert list(new.variables) == list(old.variables)
        for one, other in ((old, new), (old["more"], new["more"])):
            for name, variable in one.variables.items():
                copy = other.variables[name]
                assert copy.ncattrs() == variable.ncattrs()
                for key in variable.ncattrs():
                    np.testing.assert_array_equal(copy.getncattr(key), variable.getncattr(key))
                    assert type(copy.getncattr(key)) is type(variable.getncattr(key))
                np.testing.assert_array_equal(as_stored(copy), as_stored(variable))
        assert not new.dimensions["endless"].isunlimited()
        assert new["more"].comment == "within"


def test_what_has_a_dimension_that_is_left_out_is_left_out(tmp_path: Path) -> None:
    path, out = odd_file(tmp_path / "a.nc"), tmp_path / "b.nc"
    with netCDF4.Dataset(out, "w") as target:
        copy_variables(path, target, leave_out=("codes", "big"))
        assert not {"codes", "text", "big"} & set(target.variables)
        assert "codes" not in target.dimensions
        assert "packed" in target.variables


def test_a_type_of_the_files_own_is_left_out_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", 2)
        pair = file.createCompoundType(np.dtype([("a", "f4"), ("b", "i2")]), "pair")
        kind = file.createEnumType(np.uint8, "kind", {"ice": 1, "water": 2})
        file.createVariable("pairs", pair, ("x",))
        file.createVariable("kinds", kind, ("x",), fill_value=1)
        file.createVariable("plain", "f4", ("x",))
    with netCDF4.Dataset(tmp_path / "b.nc", "w") as target:
        with pytest.warns(UserWarning, match=r"a\.nc: (pairs|kinds) is left out") as caught:
            copy_variables(path, target, leave_out=())
        assert len(caught) == 2
        assert list(target.variables) == ["plain"]


def test_netcdf_3_is_copied(tmp_path: Path) -> None:
    path = scenes.write_raw(tmp_path / "a.nc", lines=60, samples=70, chart=False)
    classic = tmp_path / "classic.nc"
    with netCDF4.Dataset(path) as source, netCDF4.Dataset(classic, "w", format="NETCDF3_CLASSIC") as target:
        for name, dimension in source.dimensions.items():
            target.createDimension(name, len(dimension))
        for name in ("nersc_sar_primary", "t2m"):
            target.createVariable(name, source[name].dtype, source[name].dimensions)[:] = source[name][:]
    with netCDF4.Dataset(tmp_path / "b.nc", "w") as target:
        copy_variables(classic, target, leave_out=())
    with netCDF4.Dataset(tmp_path / "b.nc") as new, netCDF4.Dataset(path) as old:
        np.testing.assert_array_equal(as_stored(new["t2m"]), as_stored(old["t2m"]))
        np.testing.assert_array_equal(as_stored(new["nersc_sar_primary"]), as_stored(old["nersc_sar_primary"]))


def test_damage_names_the_variable(tmp_path: Path) -> None:
    variables = scenes.raw(200, 250)
    path = scenes.write(tmp_path / "a.nc", variables)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    path.write_bytes(data)
    with (
        netCDF4.Dataset(tmp_path / "b.nc", "w") as target,
        pytest.raises(SceneError, match=rf"^{path}: \w+ cannot be read \(.*\); it is damaged"),
    ):
        copy_variables(path, target, leave_out=())


def test_a_scene_of_odd_storage_gives_the_same_scene(tmp_path: Path) -> None:
    """Packed, endless and big-endian, with dimensions of other names: read the same before and after."""
    variables = scenes.raw(200, 250, chart=False)
    _, decibels = variables.pop("nersc_sar_primary")
    _, other = variables.pop("nersc_sar_secondary")
    for name, (_, values) in variables.items():
        if name == "distance_map":
            variables[name] = (("rows", "columns"), values.astype(">f4"))
    path = scenes.write(tmp_path / "a.nc", variables)
    with netCDF4.Dataset(path, "a") as file:
        file.createDimension("endless", None)
        for name, values in (("nersc_sar_primary", decibels), ("nersc_sar_secondary", other)):
            variable = file.createVariable(
                name, "i2", ("endless", "columns"), fill_value=-32768, chunksizes=(512, 16), zlib=True
            )
            variable.scale_factor = 0.01
            variable[:] = np.ma.masked_invalid(values).filled(-327.68)
    with netCDF4.Dataset(tmp_path / "b.nc", "w") as target:
        copy_variables(path, target, leave_out=("polygon_codes", "polygon_icechart"))
    with open_scene(path) as one, open_scene(tmp_path / "b.nc") as two:
        np.testing.assert_allclose(two.sar("hh"), decibels, atol=0.00501)
        np.testing.assert_array_equal(one.sar("hh"), two.sar("hh"))
        np.testing.assert_array_equal(one.distance(), two.distance())

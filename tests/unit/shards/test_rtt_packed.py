from pathlib import Path

import netCDF4
import numpy as np
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.channels import CHANNELS
from arcticseg.ice.scenes.open import open_scene
from shards.rtt import write_ready
from tests import matrix, scenes


def test_a_packed_raw_scene_gives_the_same_ready_to_train_scene(tmp_path: Path) -> None:
    """The attributes of the raw scene's storage must not stay with z-scores that are stored otherwise."""
    name, out = f"{scenes.RAW_NAME}.nc", tmp_path / "out"
    variables = scenes.raw(200, 250)
    for folder in (out, tmp_path / "out2"):
        folder.mkdir()
    plain, _ = write_ready(scenes.write(tmp_path / "plain" / name, variables), out)
    attributes, steps = {}, {}
    for channel in ("nersc_sar_primary", "distance_map", "t2m"):
        dims, values = variables[channel]
        values = values - 273.15 if channel == "t2m" else values
        stored = matrix.packed(values.astype(float))
        variables[channel], attributes[channel] = (dims, stored.numbers), dict(stored.attributes)
        steps[channel] = stored.step
    attributes["t2m"]["units"] = "degC"
    source = scenes.write(tmp_path / "packed" / name, variables, attributes_of=attributes)
    packed, _ = write_ready(source, tmp_path / "out2")
    with netCDF4.Dataset(packed) as file:
        assert file["t2m"].units == "K"
        assert not {"scale_factor", "_FillValue"} & set(file["t2m"].ncattrs())
    with open_scene(plain) as one, open_scene(packed) as two:
        for channel, first, second in (
            ("nersc_sar_primary", one.sar("hh"), two.sar("hh")),
            ("distance_map", one.distance(), two.distance()),
            ("t2m", one.coarse("t2m"), two.coarse("t2m")),
        ):
            assert first is not None
            assert second is not None
            assert CHANNELS[channel].std > steps[channel]
            np.testing.assert_allclose(first, second, rtol=0, atol=0.51 * steps[channel] + 1e-4)


def test_digital_numbers_are_not_made_ready(tmp_path: Path) -> None:
    variables = scenes.raw(200, 250)
    dims, values = variables["nersc_sar_primary"]
    variables["nersc_sar_primary"] = (dims, matrix.DIGITAL_NUMBERS(values.astype(float)).astype(np.float32))
    path = scenes.write(tmp_path / f"{scenes.RAW_NAME}.nc", variables)
    with pytest.raises(SceneError, match=rf"^{path}: HH has a median of .*; calibrate"):
        write_ready(path, tmp_path)

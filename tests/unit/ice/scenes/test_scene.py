import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from arcticseg.ice.scenes.names import service_of, time_of
from arcticseg.ice.scenes.scene import coarse_cells
from tests import scenes


def test_coarse_cells_of_real_scenes(real_data: Path) -> None:
    schemas = json.loads((real_data / "schema" / "ai4arctic_real_scene_schemas.json").read_text())
    for scene in schemas:
        dims, spacing = scene["dims"], 80.0 if scene["kind"].startswith("rtt") else 40.0
        assert coarse_cells(dims["sar_lines"], spacing) == dims["2km_grid_lines"]
        assert coarse_cells(dims["sar_samples"], spacing) == dims["2km_grid_samples"]


@pytest.mark.parametrize(
    ("name", "time", "service"),
    [
        (f"{scenes.RAW_NAME}.nc", datetime(2018, 7, 21, 12, 1, 56, tzinfo=UTC), "cis"),
        (scenes.RTT_ORIGINAL, datetime(2018, 6, 7, 18, 43, 26, tzinfo=UTC), "dmi"),
        ("20180607T184326_dmi_prep.nc", datetime(2018, 6, 7, 18, 43, 26, tzinfo=UTC), "dmi"),
        ("20180607T184326_dmi.nc", datetime(2018, 6, 7, 18, 43, 26, tzinfo=UTC), "dmi"),
        ("scene_dmitri_1.nc", None, None),
        ("20181399T996161_cis.nc", None, "cis"),
        ("scene.nc", None, None),
    ],
)
def test_facts_in_names(name: str, time: datetime | None, service: str | None) -> None:
    assert time_of(name) == time
    assert service_of(name) == service


def test_every_official_name_says_time_and_service(real_data: Path) -> None:
    names = [
        name
        for which in ("train", "test")
        for name in json.loads((real_data / "lists" / f"{which}_scenes.json").read_text())
    ]
    assert len(names) == 532
    for name in names:
        assert time_of(name) is not None
        assert service_of(name) in ("dmi", "cis")

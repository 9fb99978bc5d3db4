import json
import math
import statistics
from pathlib import Path

import pytest

from arcticseg.ice.channels import CHANNELS, COARSE, DERIVED, GROUPS, INPUTS, expand


def test_groups_expand_in_the_order_given_each_channel_once() -> None:
    assert expand(["hv", "nersc_sar_primary", "hh"]) == ("nersc_sar_secondary", "nersc_sar_primary")
    assert expand(("era5",)) == ("u10m_rotated", "v10m_rotated", "t2m", "skt", "tcwv", "tclw")
    assert len(expand(("amsr2",))) == 14
    assert set(expand(GROUPS)) == set(INPUTS) == set(CHANNELS) | set(DERIVED)
    assert expand(("season", "day_sin")) == ("month_sin", "month_cos", "day_sin", "day_cos")
    assert expand(("position", "spacing")) == ("position_x", "position_y", "position_z", "pixel_spacing")


def test_an_unknown_name_lists_groups_and_channels() -> None:
    with pytest.raises(KeyError, match=r"'hx'; groups: hh, hv"):
        expand(["hx"])


def test_codes_of_the_2_km_grid_have_room_for_the_values_of_real_scenes(real_data: Path) -> None:
    assert len(COARSE) == 20
    scenes = json.loads((real_data / "schema" / "ai4arctic_real_scene_schemas.json").read_text())
    compared = 0
    for scene in scenes:
        for name in COARSE:
            attributes = scene["variables"][name]["attrs"]
            channel = CHANNELS[name]
            for limit in ("min", "max"):
                if limit in attributes:
                    compared += 1
                    code = 1 + (float(attributes[limit]) - channel.offset) / channel.scale
                    assert 1 <= code <= 65535, (name, attributes[limit])
    assert compared == 4 * 14 * 2


def test_rounding_errors_of_stored_values_are_small() -> None:
    for name in COARSE:
        channel = CHANNELS[name]
        assert 0 < channel.scale / 2 <= min(0.01, channel.std / 200)
        assert channel.offset + 65534 * channel.scale >= channel.mean + 3 * channel.std


def test_statistics_are_those_published(real_data: Path) -> None:
    published = json.loads((real_data / "stats" / "channel_stats.json").read_text())["channels"]
    names = {"latitude": "sar_grid_latitude", "longitude": "sar_grid_longitude"}
    compared = {names.get(name, name): known for name, known in published.items()}
    assert set(CHANNELS) <= set(compared), set(CHANNELS) - set(compared)
    for name, channel in CHANNELS.items():
        assert channel.mean == pytest.approx(compared[name]["mean"], abs=6e-7)
        assert channel.std == pytest.approx(compared[name]["std"], abs=6e-7)


def test_statistics_of_the_spacing_are_those_of_the_usual_factors() -> None:
    octaves = [math.log2(factor) for factor in range(2, 11)]
    spacing = DERIVED["pixel_spacing"]
    assert spacing.mean == pytest.approx(statistics.fmean(octaves), abs=6e-7)
    assert spacing.std == pytest.approx(statistics.pstdev(octaves), abs=6e-7)
    assert all((channel.mean, channel.std) == (0, 1) for channel in DERIVED.values() if channel is not spacing)

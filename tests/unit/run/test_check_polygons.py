"""Losses of polygons need shards that hold some."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from arcticseg.errors import ConfigError

pytest.importorskip("torch")

from arcticseg.run import build, config

sys.path.append(str(Path(__file__).parents[1] / "data"))
import made


def test_shards_without_polygons_are_refused_with_what_to_do(tmp_path: Path) -> None:
    made.write(tmp_path, [made.tile(i, scene=f"s{i}") for i in range(3)])
    settings = {"steps": 1, "data": {"shards": str(tmp_path)}}
    plain = config.build([settings])
    soft = config.build([settings, {"segment": {"losses": {"SOD": "soft"}}}])
    selection = build.selection_of(plain, build.open_sets(plain), "train")
    build.check_polygons(plain, selection)
    with pytest.raises(ConfigError, match=r"'segment' has losses of polygons.* hold none.*build shards of raw scenes"):
        build.check_polygons(soft, selection)

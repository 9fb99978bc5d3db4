"""Several sets of shards in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest

pytest.importorskip("torch")

from arcticseg.errors import ConfigError
from arcticseg.run import config as run_config
from arcticseg.run.build import open_sets, statistics_of
from arcticseg.run.config import RunConfig
from tests.archive import SCENE_FACTS


def config(tmp_path: Path, *more: str) -> RunConfig:
    (tmp_path / "plain.yaml").write_text("steps: 1\n")
    places = f"data.shards=[{tmp_path / 'a'}, {tmp_path / 'b'}]"
    return run_config.load(tmp_path / "plain.yaml", [places, *more])


def change(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    made.write(tmp_path / "a", [made.tile(i, scene="one") for i in range(3)])
    made.write(tmp_path / "b", [made.tile(i, scene="two") for i in range(3)])
    return tmp_path


def test_sets_are_opened_in_order(sets: Path) -> None:
    addresses = [shard_set.source.address for shard_set in open_sets(config(sets))]
    assert addresses == [str(sets / "a"), str(sets / "b")]


def test_sets_of_different_tiles_are_refused(sets: Path) -> None:
    change(sets / "b", tile=32)
    with pytest.raises(ConfigError, match=r"key 'data\.shards' .*\[16, 32\]"):
        open_sets(config(sets))


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_scene_held_out_by_one_set_must_not_train_in_another(split: str, sets: Path) -> None:
    change(sets / "b", scenes={"one": SCENE_FACTS | {"split": split}})
    with pytest.raises(ConfigError, match=rf"^{sets / 'a'}: .* one, .*{sets / 'b'}"):
        open_sets(config(sets))


def test_statistics_are_those_of_all_values_together(sets: Path) -> None:
    random = np.random.default_rng(0)
    values = {"a": random.normal(3, 2, 50), "b": random.normal(-1, 5, 200)}
    for name, part in values.items():
        histogram = {"width": 100.0, "first": 0, "counts": [len(part)]}
        statistics = {"mean": float(part.mean()), "std": float(part.std()), "count": len(part), "histogram": histogram}
        change(sets / name, statistics={"nersc_sar_primary": statistics})
    cfg = config(sets, "data.channels=[hh]", "data.statistics=shards")
    (pooled,) = statistics_of(cfg, open_sets(cfg)).values()
    whole = np.concatenate(list(values.values()))
    assert pooled == pytest.approx((whole.mean(), whole.std()))
    cfg = config(sets, "data.channels=[hv]", "data.statistics=shards")
    with pytest.raises(ConfigError, match=r"key 'data\.statistics' .*nersc_sar_secondary"):
        statistics_of(cfg, open_sets(cfg))
    # What is computed needs no statistics.
    cfg = config(sets, "data.channels=[hh, season, position, spacing]", "data.statistics=shards")
    assert list(statistics_of(cfg, open_sets(cfg))) == ["nersc_sar_primary"]

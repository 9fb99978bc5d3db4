import json
import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcticseg.data.manifest import Manifest, write_manifest
from arcticseg.errors import ConfigError
from arcticseg.ice import strata as ice_strata
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.strata import Counts
from shards import split, strata
from tests.archive import BUILDER, NAMES, SCENE_FACTS, InThisProcess, scene_name

PERCENTS = (20, 40, 60, 80, 100)
SIZES = {"SIC": 11, "SOD": 6, "FLOE": 7}


def made(n: int, seed: int = 0) -> tuple[list[str], dict[str, Counts]]:
    """Scenes of one to three frames a pass over all months, a third of them Canadian, with classes by season."""
    draw = random.Random(seed)
    names: list[str] = []
    counts: dict[str, Counts] = {}
    for orbit in range(1, n + 1):
        day, service = draw.randrange(28), draw.choice(["dmi", "dmi", "cis"])
        month = draw.randrange(12)
        for frame in range(draw.choice([1, 1, 1, 2, 3])):
            name = scene_name(f"2020{month + 1:02d}{day + 1:02d}T10{frame:02d}00", f"{orbit:06d}", service)
            counts[name] = {
                chart: [int(1000 * draw.paretovariate(1.5) * (1 + (i + month) % 4)) for i in range(size)] + [500]
                for chart, size in SIZES.items()
            }
            names.append(name)
    return names, counts


def season(name: str) -> int:
    return int(name.split("_")[4][4:6]) % 12 // 3


def class_shares(names: list[str], counts: dict[str, Counts], chart: str) -> np.ndarray:
    total = sum(np.array(counts[name][chart][:-1], float) for name in names)
    return total / total.sum()


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 40), st.integers(0, 50), st.lists(st.integers(1, 100), min_size=1, max_size=4))
def test_fractions_are_nested_and_their_complements_complete(n: int, seed: int, percents: list[int]) -> None:
    names, counts = made(n, seed)
    lists = strata.fractions(names, percents, counts, seed)
    orbit = {name: name[49:55] for name in names}
    passes = Counter(orbit.values())
    labels = [lists[f"labels_{percent}"] for percent in sorted(set(percents))]
    assert all(set(small) <= set(large) for small, large in pairwise(labels))
    for percent in set(percents):
        chosen, rest = lists[f"labels_{percent}"], lists.get(f"pretrain_{100 - percent}", [])
        assert sorted(chosen + rest) == sorted(names)
        assert not {orbit[name] for name in chosen} & {orbit[name] for name in rest}
        # As near as whole passes allow.
        assert chosen
        assert abs(len(chosen) - percent / 100 * len(names)) <= max(passes.values())
    assert ("pretrain_0" in lists) is False


def test_fractions_depend_on_seed_names_and_counts_alone() -> None:
    names, counts = made(60)
    lists = strata.fractions(names, PERCENTS, counts, 1)
    assert lists == strata.fractions(names[::-1], PERCENTS, dict(reversed(counts.items())), 1)
    assert lists["labels_20"] != strata.fractions(names, PERCENTS, counts, 2)["labels_20"]


def test_fractions_resemble_the_whole_more_than_a_draw_does() -> None:
    names, counts = made(150)
    whole = {chart: class_shares(names, counts, chart) for chart in SIZES}
    seasons = np.bincount([season(name) for name in names], minlength=4) / len(names)

    def difference(chosen: list[str]) -> float:
        classes = [np.abs(class_shares(chosen, counts, chart) - whole[chart]).max() for chart in SIZES]
        there = np.bincount([season(name) for name in chosen], minlength=4) / len(chosen)
        services = np.mean(["_cis_" in name for name in chosen]) - np.mean(["_cis_" in name for name in names])
        return max(*classes, np.abs(there - seasons).max(), abs(services))

    ratios = []
    for seed in range(3):
        lists = strata.fractions(names, (20, 40, 60, 80), counts, seed)
        for percent in (20, 40, 60, 80):
            for chosen in (lists[f"labels_{percent}"], lists[f"pretrain_{100 - percent}"]):
                draws = [difference(random.Random(i).sample(names, len(chosen))) for i in range(20)]
                ratios.append(difference(chosen) / np.median(draws))
    assert np.mean(ratios) < 0.5
    assert max(ratios) < 1


def test_imbalance_is_that_of_shares() -> None:
    names, counts = made(30)
    chosen = names[:12]
    differences = strata.imbalance(chosen, names, counts)
    for chart in SIZES:
        expected = np.abs(class_shares(chosen, counts, chart) - class_shares(names, counts, chart)).max()
        assert differences[chart] == pytest.approx(expected)
    services = [np.mean(["_cis_" in name for name in some]) for some in (chosen, names)]
    assert differences["service"] == pytest.approx(abs(services[0] - services[1]))
    assert set(strata.imbalance(chosen, names)) == {"service", "season"}
    assert max(strata.imbalance(names, names, counts).values()) == pytest.approx(0)


def test_scenes_of_unknown_content_count_as_average() -> None:
    names, counts = made(40)
    known = {name: counts[name] for name in names[::2]}
    sic = ice_strata.features(names, known)["SIC"]
    assert sic[1] == pytest.approx(sic[::2].mean(axis=0))
    assert sic.sum(axis=1).mean() == pytest.approx(1)
    assert strata.fractions(names, [50], known)["labels_50"]


def test_scenes_without_chart_are_pretrained_on_unless_their_pass_is_labelled() -> None:
    names, _ = made(30)
    orbit = {name: name[49:55] for name in names}
    unlabelled = [name for i, name in enumerate(names) if i % 3 == 0]
    lists = strata.fractions(names, [40, 100], {}, 0, unlabelled)
    assert not set(unlabelled) & set(lists["labels_40"])
    assert sorted(lists["labels_100"]) == sorted(set(names) - set(unlabelled))
    fine_tuned = {orbit[name] for name in lists["labels_40"]}
    assert lists["pretrain_60"] == sorted(name for name in names if orbit[name] not in fine_tuned)


@pytest.mark.parametrize("percents", [[0, 20], [101], []])
def test_fractions_out_of_range(percents: list[int]) -> None:
    with pytest.raises(ConfigError, match=rf"^fractions are {re.escape(str(sorted(percents)))}"):
        strata.fractions(list(NAMES), percents)


def test_no_labelled_scene() -> None:
    with pytest.raises(ConfigError, match="chart"):
        strata.fractions(list(NAMES), [20], unlabelled=NAMES)


def test_seasons() -> None:
    months = {month: ice_strata.season_of(f"2020{month:02d}15T000000_dmi_prep") for month in range(1, 13)}
    expected = ["winter"] * 2 + ["spring"] * 3 + ["summer"] * 3 + ["autumn"] * 3 + ["winter"]
    assert list(months.values()) == expected
    assert ice_strata.season_of("mine") == "unknown"


def test_counts_of_charts_are_those_of_their_pixels(archive: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strata, "Workers", InThisProcess)
    by_scene = strata.read_counts(archive[0].parent, [path.stem for path in (*archive[:2], archive[4])])
    assert sorted(by_scene) == sorted(path.stem for path in archive[:2])  # the last has no chart
    for path in archive[:2]:
        with open_scene(path) as scene:
            labels = scene.chart()
        assert labels is not None
        for plane, (chart, size) in zip(labels, SIZES.items(), strict=True):
            expected = [int((plane == value).sum()) for value in (*range(size), 255)]
            assert by_scene[path.stem][chart] == expected


def test_counts_of_shards_are_those_of_the_manifest(tmp_path: Path) -> None:
    names, counts = made(4)
    facts = SCENE_FACTS | {"split": "train"}
    scenes = {name: facts | {"counts": {"10": counts[names[3]], "2": counts[name]}} for name in names[:3]}
    scenes |= {"without chart": facts, "damaged": {"split": "train", "error": "cut"}}
    write_manifest(tmp_path, Manifest(64, (2, 10), {}, scenes, {}, BUILDER, True, "f" * 32))
    by_scene = strata.read_counts(tmp_path, [*names, "without chart", "damaged"])
    assert by_scene == {name: counts[name] for name in names[:3]}


def test_counts_of_a_table(tmp_path: Path) -> None:
    header = ["scene", *(f"{chart}_{i}" for chart, size in SIZES.items() for i in (*range(size), 255))]
    path = tmp_path / "counts.csv"
    path.write_text(",".join(header) + "\n" + ",".join(["20180721T120156_cis", *map(str, range(27))]) + "\n")
    by_scene = strata.read_counts(path, list(NAMES))
    assert by_scene == {NAMES[0]: {"SIC": list(range(12)), "SOD": list(range(12, 19)), "FLOE": list(range(19, 27))}}
    path.write_text("scene,SIC_0\na,1\n")
    with pytest.raises(ConfigError, match=rf"^{path}: .*SIC_1"):
        strata.read_counts(path, list(NAMES))
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/none\.csv: "):
        strata.read_counts(tmp_path / "none.csv", list(NAMES))


def test_fractions_of_the_official_scenes(real_data: Path) -> None:
    train = [name.removesuffix(".nc") for name in json.loads((real_data / "lists" / "train_scenes.json").read_text())]
    counts = strata.read_counts(real_data / "stats" / "scene_class_counts.csv", train)
    assert len(counts) == 512
    lists = strata.fractions(train, PERCENTS, counts)
    # Shares are within a point of the whole's; draws of as many scenes miss by three and more.
    draws = [max(strata.imbalance(random.Random(i).sample(train, 102), train, counts).values()) for i in range(15)]
    assert np.median(draws) > 0.03
    for percent in PERCENTS:
        chosen = lists[f"labels_{percent}"]
        assert abs(len(chosen) - 5.12 * percent) < 1.5
        assert max(strata.imbalance(chosen, train, counts).values()) < 0.01
        assert split.shared_passes({"a": chosen, "b": lists.get(f"pretrain_{100 - percent}", [])}) == []

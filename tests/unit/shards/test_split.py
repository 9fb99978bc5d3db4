import json
import re
import warnings
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcticseg.errors import ConfigError
from arcticseg.ice.scenes.names import facts_of
from shards import split
from tests.archive import NAMES, scene_name

names_ = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), min_size=3, max_size=60, unique=True).map(
    lambda pairs: [scene_name(f"20200101T0{minute}0000", f"{orbit:06d}", "cis") for orbit, minute in pairs]
)


def test_a_pass_is_a_satellite_and_an_orbit() -> None:
    other = NAMES[0].replace("S1A", "S1B")
    passes = split.passes_of([NAMES[0], other, NAMES[1], "a", "b"])
    assert passes == {NAMES[0]: "S1A-022892", NAMES[1]: "S1A-022892", other: "S1B-022892", "a": "a", "b": "b"}


def test_ready_to_train_names_are_of_one_pass_when_they_follow_each_other() -> None:
    times = ["20180607T235900", "20180608T000000", "20180608T000959", "20180608T002100", "20180609T000000"]
    names = [f"{time}_dmi_prep" for time in times]
    passes = split.passes_of(names[::-1])
    assert [passes[name] for name in names] == [names[0]] * 3 + names[3:]


@settings(max_examples=60, deadline=None)
@given(names_, st.sampled_from([0.0, 0.1, 0.25]), st.sampled_from([0.0, 0.1, 0.3]), st.integers(0, 100))
def test_passes_stay_together_and_shares_are_met(names: list[str], val: float, test: float, seed: int) -> None:
    try:
        lists = split.split(names, {"val": val, "test": test}, seed)
    except ConfigError as error:
        assert f"{len(names)} scenes" in str(error)  # noqa: PT017
        return
    assert sorted(name for part in lists.values() for name in part) == sorted(names)
    where: dict[str, set[str]] = {}
    for part, listed in lists.items():
        assert listed == sorted(listed)
        for name in listed:
            where.setdefault(name[:4] + name[49:55], set()).add(part)
    assert all(len(parts) == 1 for parts in where.values())
    assert len(lists["train"]) >= 1
    for part, share in (("val", val), ("test", test)):
        assert len(lists.get(part, [])) >= share * len(names)
        assert (part in lists) == (share > 0)


def test_a_split_depends_on_seed_and_names_alone() -> None:
    names = [scene_name("20200101T000000", f"{orbit:06d}", "cis") for orbit in range(40)]
    shares = {"val": 0.2, "test": 0.2}
    assert split.split(names, shares, 3) == split.split(names[::-1], shares, 3)
    assert split.split(names, shares, 3) != split.split(names, shares, 4)
    # Shares are not much exceeded where passes are single scenes.
    assert Counter({part: len(listed) for part, listed in split.split(names, shares).items()}) == {
        "train": 24,
        "val": 8,
        "test": 8,
    }


@pytest.mark.parametrize("shares", [{"val": -0.1}, {"val": 0.5, "test": 0.5}, {"test": 1.0}])
def test_shares_that_cannot_be(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"^shares are {re.escape(str(shares))}"):
        split.split(NAMES, shares)


def test_too_few_passes() -> None:
    with pytest.raises(ConfigError, match="2 scenes of 1 passes"):
        split.split(NAMES[:2], {"val": 0.1})


def test_the_default_split() -> None:
    assert split.default(NAMES[:3]) == {"train": sorted(NAMES[:3])}  # two passes
    lists = split.default(NAMES)
    assert {part: len(lists[part]) >= 1 for part in ("train", "val", "test")} == dict.fromkeys(lists, True)


ORBITS = [(f"{orbit:06d}", minute) for orbit in range(20) for minute in range(2)]
PAIRS = [scene_name(f"202001{int(orbit) + 1:02d}T00{minute}000", orbit, "cis") for orbit, minute in ORBITS]


def test_drawn_lists_touch_no_pass_of_a_given_one() -> None:
    test = [PAIRS[0], PAIRS[5]]
    lists = split.plan(PAIRS, {"test": test}, {"val": 0.2, "test": 0.5})
    assert lists["test"] == test
    assert lists["left_out"] == [PAIRS[1], PAIRS[4]]
    assert len(lists["val"]) == 8
    assert split.shared_passes({part: lists[part] for part in ("train", "val", "test")}) == []
    assert sorted(name for part in lists.values() for name in part) == sorted(PAIRS)


@settings(max_examples=60, deadline=None)
@given(names_, st.data())
def test_plans_hold_every_scene_once_and_what_is_drawn_shares_no_pass(names: list[str], data: st.DataObject) -> None:
    where = {name: data.draw(st.sampled_from(["train", "val", "test", None, None])) for name in names}
    given_parts = data.draw(st.sets(st.sampled_from(["train", "val", "test"])))
    given_lists = {part: [name for name in names if where[name] == part] for part in given_parts}
    if "train" in given_lists and "val" in given_lists:
        given_lists["train"] += given_lists["val"]  # as those of the challenge winner
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            lists = split.plan(names, given_lists, {"val": 0.2, "test": 0.2}, 1)
        except ConfigError as error:
            assert "scenes of" in str(error)  # noqa: PT017
            return
    assert sorted(name for part in lists.values() for name in part) == sorted(names)
    for part in given_parts & {"val", "test"}:
        assert lists.get(part, []) == sorted(given_lists[part])
    if "train" in given_lists:
        assert set(lists["train"]) <= set(given_lists["train"])
    shared = split.shared_passes({part: listed for part, listed in lists.items() if part != "left_out"})
    assert bool(shared) == bool(caught)
    # A pair of one pass in two splits is one of given lists.
    for pair in shared:
        assert {member.partition(":")[0] for member in pair} <= given_parts


def test_given_training_scenes_stay_and_the_pairs_are_named() -> None:
    train, test = PAIRS[1:30], [PAIRS[0]]
    with pytest.warns(UserWarning, match=rf"1 pairs.*train: {PAIRS[1]} and test: {PAIRS[0]}$"):
        lists = split.plan(PAIRS, {"train": train, "test": test}, {"val": 0.1, "test": 0.5})
    assert lists["test"] == test
    assert sorted(lists["train"] + lists["val"]) == sorted(train)
    assert PAIRS[1] in lists["train"]
    assert lists["left_out"] == sorted(PAIRS[30:])
    assert split.shared_passes({"train": lists["train"], "val": lists["val"]}) == []


def test_given_validation_scenes_leave_the_training_list() -> None:
    val = [PAIRS[2], PAIRS[3]]
    lists = split.plan(PAIRS, {"train": PAIRS, "val": val}, {"val": 0.5, "test": 0.0})
    assert lists == {"train": sorted(set(PAIRS) - set(val)), "val": val}


def test_given_lists_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"val list .*1 scenes.*other"):
        split.plan(PAIRS, {"val": ["other", PAIRS[0]]}, {})
    with pytest.raises(ConfigError, match=f"test list .*{PAIRS[3]}"):
        split.plan(PAIRS, {"train": PAIRS, "test": [PAIRS[3]]}, {})


def official(real_data: Path, which: str) -> list[str]:
    return [name.removesuffix(".nc") for name in json.loads((real_data / "lists" / f"{which}.json").read_text())]


def test_the_official_lists(real_data: Path) -> None:
    train, test = official(real_data, "train_scenes"), official(real_data, "test_scenes")
    with pytest.warns(UserWarning, match="2 pairs") as caught:
        lists = split.plan(train + test, {"train": train, "test": test}, {"val": 0.05})
    assert {part: len(listed) for part, listed in lists.items()} == {"train": 486, "val": 26, "test": 20}
    assert lists["test"] == sorted(test)
    message = str(caught[0].message)
    assert "20200319T102035" in message
    assert "20201013T080348" in message
    assert split.shared_passes({"train": lists["train"], "val": lists["val"]}) == []
    assert split.shared_passes({"val": lists["val"], "test": lists["test"]}) == []
    # Without the official training list, the two scenes that share a pass with the test are in no list.
    lists = split.plan(train + test, {"test": test}, {"val": 0.05})
    assert {part: len(listed) for part, listed in lists.items()} == {"train": 484, "val": 26, "test": 20, "left_out": 2}
    assert split.shared_passes({part: lists[part] for part in ("train", "val", "test")}) == []


@pytest.mark.parametrize(("number", "scenes", "pairs"), [(1, 18, 5), (2, 17, 6)])
def test_validation_lists_of_the_challenge(real_data: Path, number: int, scenes: int, pairs: int) -> None:
    train, test = official(real_data, "train_scenes"), official(real_data, "test_scenes")
    val = official(real_data, f"val_scenes_mmseaice_{number}")
    with pytest.warns(UserWarning, match=f" {pairs} pairs"):
        lists = split.plan(train + test, {"train": train, "val": val, "test": test}, {})
    assert {part: len(listed) for part, listed in lists.items()} == {"train": 512 - scenes, "val": scenes, "test": 20}


def test_every_official_scene_has_an_orbit(real_data: Path) -> None:
    names = [
        name.removesuffix(".nc")
        for which in ("train", "test")
        for name in json.loads((real_data / "lists" / f"{which}_scenes.json").read_text())
    ]
    by_orbit = split.passes_of(names)
    assert len(set(names)) == 532
    assert len(set(by_orbit.values())) == 484
    # The names of the ready-to-train files, which have no orbit, give the same passes.
    short = {name: f"{name.split('_')[4]}_{name.split('_icechart_')[1][:3]}_prep" for name in names}
    by_time = split.passes_of(short.values())
    pairs = {(by_orbit[name], by_time[short[name]]) for name in names}
    assert len(pairs) == 484 == len(set(by_time.values()))


START, STOP = "20200123T120618", "20200123T120718"
ONE_PASS = [
    f"S1B_EW_GRDM_1SDH_{START}_{STOP}_019937_025B5E_1234",
    f"S1B_EW_GRDM_1SDH_{STOP}_20200123T120818_019937_025B5E_ABCD_icechart_dmi_202001231205_North_RIC",
    "s1b-ew-grd-hh-20200123t120818-20200123t120918-019937-025b5e-001",
    "s1b-ew-grd-hv-20200123t120918-20200123t121018-019937-025b5e-002",
    "sigma0_S1B_EW_GRDM_1SDH_20200123T121018",
    "20200123T121118_dmi_prep",
]


def test_names_of_one_pass_in_every_dialect_are_one_group() -> None:
    others = [f"s1b-ew-grd-hh-202002{day:02d}t080000-202002{day:02d}t080100-0201{day:02d}-025b5e-001" for day in (3, 5)]
    passes = split.passes_of([*ONE_PASS, *others])
    assert {passes[name] for name in ONE_PASS} == {"S1B-019937"}
    assert len(set(passes.values())) == 3
    assert split.untold(ONE_PASS) == []


def test_two_orbits_are_two_passes_whatever_lies_between() -> None:
    first = f"S1B_EW_GRDM_1SDH_{START}_{STOP}_019937_025B5E_1234"
    second = f"S1A_EW_GRDM_1SDH_{STOP}_{STOP}_030930_025B5E_1234"
    between = "20200123T120640_dmi_prep"
    passes = split.passes_of([first, second, between])
    assert passes == {first: "S1B-019937", between: "S1B-019937", second: "S1A-030930"}
    # Of another satellite, it is not of that pass.
    other = "S1A_EW_GRDM_1SDH_20200123T120640"
    assert split.passes_of([first, other])[other] == other


def test_what_a_file_says_counts_where_its_name_says_nothing() -> None:
    known = {"a": facts_of(ONE_PASS[0]), "b": facts_of(ONE_PASS[1]), "c": facts_of("")}
    assert split.passes_of("abc", known) == {"a": "S1B-019937", "b": "S1B-019937", "c": "c"}
    assert split.untold("abc", known) == ["c"]
    assert {"a", "b"} in [set(part) for part in split.split("abc", {"val": 0.3}, 0, known).values()]


def test_scenes_of_which_nothing_tells_the_pass_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"neither name nor file of 3 scenes, such as a,"):
        split.default("abc")

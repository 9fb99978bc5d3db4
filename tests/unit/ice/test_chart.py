import functools
import json
import random
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.chart import PolygonCodes, parse_polygon_codes, polygon_classes
from arcticseg.ice.indexed import index_planes, rasterise
from tests.rules import COLUMNS, HEADER, RULES, TABLES, read_all_literally, row


@functools.cache
def random_rows(n: int, seed: int, unlisted: float) -> list[str]:
    """Rows of listed codes with many empty cells, of which a share holds an unlisted code."""
    draw = random.Random(seed)
    rows = []
    for number in draw.sample(range(3 * n), n):
        codes: dict[str, int] = {}
        # Few different classes in a row, so that partials merge, tie and reach the threshold often.
        few = {kind: draw.choices(list(TABLES[kind]), k=2) for kind in "SF"}
        for column in COLUMNS:
            if draw.random() < (0.1 if column in ("CT", "SA") else 0.3):
                continue
            narrow = column[0] in "SF" and draw.random() < 0.8
            codes[column] = draw.choice(few[column[0]] if narrow else list(TABLES[column[0]]))
        if draw.random() < 0.5:
            # Concentrations that add up, as in most charts.
            total = draw.randint(1, 10)
            letters = sorted(Counter(draw.choices("ABC", [5, 3, 2], k=total)).items())
            codes = {column: code for column, code in codes.items() if column not in ("CA", "CB", "CC")}
            codes |= {f"C{letter}": 91 if tenths == 10 else 10 * tenths for letter, tenths in letters}
            codes["CT"] = 91 if total == 10 else 10 * total
        if draw.random() < unlisted:
            column = draw.choice(COLUMNS)
            codes[column] = draw.choice([33, 46, 79, 94, 100, 23])
            assert codes[column] not in TABLES[column[0]]
        poly_type = draw.choices("IWLSN", [80, 5, 5, 5, 5])[0]
        rows.append(row(number, poly_type, **({} if poly_type in "LS" else codes)))
    return rows


@functools.cache
def odd_rows(n: int = 3000) -> list[str]:
    """Rows of odd codes, empty partials and other POLY_TYPEs: what every cell is, is drawn by itself."""
    draw = random.Random(7)
    odd = {
        "C": [3, 7, 11, 46, 79, 81, 94, 98, 99, 100],
        "S": [1, 3, 5, 6, 70, 74, 79, 90, 92, 94, 255],
        "F": [11, 14, 20, 23, 70, 91, 98, 255],
    }
    rows = []
    for number in range(n):
        few = {kind: draw.choices([*TABLES[kind], *odd[kind]], k=2) for kind in "CSF"}
        codes: dict[str, int] = {}
        for column in COLUMNS:
            what = draw.random()
            if what < 0.3:
                continue
            kind = column[0]
            codes[column] = draw.choice(few[kind] if what < 0.7 else odd[kind] if what < 0.8 else list(TABLES[kind]))
        rows.append(
            row(number, draw.choices(["I", "W", "w", "i", "L", "l", "N", "S", "B", ""], [60, *[4] * 9])[0], **codes)
        )
    return rows


@functools.cache
def literal_reading(rules: str) -> tuple[np.ndarray, int]:
    """Of the 10,000 rows that two tests use."""
    return read_all_literally(random_rows(10_000, seed=1, unlisted=0.03), rules)


@pytest.mark.parametrize("rules", RULES)
def test_random_rows_equal_a_literal_reading(rules: str) -> None:
    rows = random_rows(10_000, seed=1, unlisted=0.03)
    expected, unlisted = literal_reading(rules)
    assert unlisted > 200
    with pytest.warns(UserWarning, match=rf"^a\.nc: {unlisted} of 10000 ") as caught:
        classes = polygon_classes(parse_polygon_codes([HEADER, *rows], "a.nc"), rules, source="a.nc")
    assert classes.dtype == np.uint8
    wrong = np.flatnonzero((classes != expected).any(axis=1))
    assert not len(wrong), f"{rows[wrong[0]]}: {classes[wrong[0]]}, expected {expected[wrong[0]]}"
    assert len(caught) == 1
    # Every class of every chart occurs, so the comparison says something.
    assert [set(np.unique(expected[:, i])) for i in range(3)] == [
        {*range(11), 255},
        {*range(6), 255},
        {*range(7), 255},
    ]


@pytest.mark.parametrize("rules", RULES)
def test_odd_rows_equal_a_literal_reading(rules: str) -> None:
    rows = odd_rows()
    expected, unlisted = read_all_literally(rows, rules)
    with pytest.warns(UserWarning, match=rf"^a\.nc: {unlisted} of 3000 polygons have codes without a class"):
        classes = polygon_classes(parse_polygon_codes([HEADER, *rows], "a.nc"), rules, source="a.nc")
    wrong = np.flatnonzero((classes != expected).any(axis=1))
    assert not len(wrong), f"{rows[wrong[0]]}: {classes[wrong[0]]}, expected {expected[wrong[0]]}"
    labelled = (expected != 255).mean(axis=0)
    assert (labelled > 0.1).all()


def test_random_rows_tell_the_rule_sets_apart() -> None:
    autoice, corrected = (literal_reading(rules)[0] for rules in RULES)
    differ = autoice != corrected
    assert not differ[:, 0].any()
    assert differ[:, 1].sum() > 100
    assert differ[:, 2].sum() > 100


@pytest.mark.parametrize("rules", RULES)
def test_listed_codes_give_no_warning(rules: str) -> None:
    rows = random_rows(2000, seed=2, unlisted=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classes = polygon_classes(parse_polygon_codes([HEADER, *rows], "a.nc"), rules, strict=True)
    np.testing.assert_array_equal(classes, read_all_literally(rows, rules)[0])


@pytest.mark.parametrize("rules", RULES)
def test_real_rows_equal_a_literal_reading(real_data: Path, rules: str) -> None:
    scenes = json.loads((real_data / "schema" / "ai4arctic_real_scene_schemas.json").read_text())
    values = next(scene["variables"]["polygon_codes"]["values"] for scene in scenes if scene["kind"] == "raw_train")
    assert values[0] == HEADER
    assert len(values) == 44
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classes = polygon_classes(parse_polygon_codes(values, "real"), rules, strict=True)
    np.testing.assert_array_equal(classes, read_all_literally(values[1:], rules)[0])


@pytest.mark.parametrize(
    ("codes", "autoice", "corrected"),
    [
        # The design's example: 6/10 of 10/10 is below 0.65.
        ({"CT": 91, "CA": 60, "SA": 93, "CB": 40, "SB": 84}, (10, 255, 255), (10, 255, 255)),
        # 7/10 reaches it.
        ({"CT": 91, "CA": 70, "SA": 93, "FA": 5, "CB": 30, "SB": 84}, (10, 4, 4), (10, 4, 4)),
        # Three equal stages of 4/10, 3/10 and 3/10: 7/10 under autoice (A + C), 10/10 under corrected: both are 4.
        ({"CT": 91, "CA": 40, "SA": 93, "CB": 30, "SB": 93, "CC": 30, "SC": 91}, (10, 4, 255), (10, 4, 255)),
        # 3/10, 4/10 and 1/10 of 8/10: A + C is 4, B + C is 5, both below 5.2; all three are 8.
        ({"CT": 80, "CA": 30, "SA": 93, "CB": 40, "SB": 93, "CC": 10, "SC": 93}, (8, 255, 255), (8, 4, 255)),
        # CA empty: it takes CT; under `corrected` not where there is a second stage.
        ({"CT": 90, "SA": 93, "FA": 6}, (9, 4, 5), (9, 4, 5)),
        ({"CT": 90, "SA": 93, "FA": 6, "SB": 84}, (9, 4, 5), (9, 255, 255)),
        # A size of 255 masks, even a minor one; 99 masks only where it wins.
        ({"CT": 91, "CA": 90, "SA": 95, "FA": 6, "CB": 10, "SB": 93, "FB": 8}, (10, 5, 255), (10, 5, 255)),
        ({"CT": 91, "CA": 90, "SA": 95, "FA": 6, "CB": 10, "SB": 93, "FB": 99}, (10, 5, 5), (10, 5, 5)),
        # An empty concentration of equal class is added as -9 in the released labels: (4 - 9) / 1, and 5 - 9 of 10.
        ({"CT": 10, "CA": 40, "SA": 87, "SB": 88}, (1, 255, 255), (1, 3, 255)),
        ({"CT": 91, "SA": 93, "FA": 6, "SB": 91, "FB": 5}, (10, 255, 5), (10, 255, 255)),
        # An unlisted concentration counts as its number there, and is unknown under `corrected`.
        ({"CT": 90, "CA": 70, "SA": 93, "FA": 6, "CC": 99, "SC": 99, "FC": 99}, (9, 255, 255), (9, 4, 5)),
        ({"CT": 46, "SA": 93, "FA": 6}, (255, 4, 5), (255, 255, 255)),
        ({"CT": 99, "CA": 90, "SA": 93, "FA": 6}, (255, 255, 255), (255, 255, 255)),
        # An unlisted stage or size masks its chart alone, where it wins.
        ({"CT": 92, "CA": 92, "SA": 70, "FA": 2}, (10, 255, 1), (10, 255, 1)),
        ({"CT": 40, "CA": 40, "SA": 87, "FA": 14}, (4, 3, 255), (4, 3, 255)),
        ({"CT": 90, "CA": 20, "SA": 70, "FA": 14, "CB": 70, "SB": 93, "FB": 6}, (9, 4, 5), (9, 4, 5)),
        # No concentration at all.
        ({"SA": 93, "FA": 6}, (255, 4, 5), (255, 255, 255)),
        ({}, (255, 255, 255), (255, 255, 255)),
        # Water, whatever the other codes are.
        ({"CT": 2, "SA": 98, "FA": 8}, (0, 0, 0), (0, 0, 0)),
    ],
)
def test_rows_worked_out_by_hand(
    codes: dict[str, int], autoice: tuple[int, int, int], corrected: tuple[int, int, int]
) -> None:
    table = parse_polygon_codes([HEADER, row(1, **codes)], "a.nc")
    warnings.simplefilter("ignore")
    assert tuple(polygon_classes(table, "autoice")[0]) == autoice
    assert tuple(polygon_classes(table, "corrected")[0]) == corrected


def test_an_unlisted_code_is_an_error_when_strict() -> None:
    table = parse_polygon_codes([HEADER, row(1, CT=91, SA=93), row(2, CT=46, SA=93)], "a.nc")
    with pytest.raises(SceneError, match=r"^a\.nc: 1 of 2 polygons .*CT 46.*--strict"):
        polygon_classes(table, strict=True, source="a.nc")


def test_codes_of_the_standard_are_told_from_others() -> None:
    rows = [row(1, CT=46, SA=70, FA=14), row(2, CT=98, SA=71, FA=23), row(3, CT=46, CA=3)]
    listing = "CA 3 (not of SIGRID-3), CT 46 x 2, CT 98, FA 14, FA 23 (not of SIGRID-3), SA 70, SA 71 (not of SIGRID-3)"
    with pytest.warns(UserWarning, match=re.escape(f"3 of 3 polygons have codes without a class ({listing})")):
        polygon_classes(parse_polygon_codes([HEADER, *rows], "a.nc"))


@pytest.mark.parametrize("rules", RULES)
def test_text_in_a_code_cell_is_no_number(rules: str) -> None:
    garbled = [
        "2;9+;-9;93;06;-9;-9;-9;-9;-9;-9;-9;-9;-9;I",  # total
        "3;90;x;93;06;90;85;05;-9;-9;-9;-9;-9;-9;I",  # a partial
        "4;90;90;9 3;0x6;-9;-9;-9;-9;-9;-9;-9;-9;-9;I",  # stage and size
        "5;90;90;93.5;06;-9;-9;-9;-9;-9;-9;-9;-9;-9;I",
        "6; ;;;;;;;;;;;;;L",
    ]
    with pytest.warns(UserWarning, match=r"4 of 6 polygons .*CT garbled \(not of SIGRID-3\)"):
        classes = polygon_classes(parse_polygon_codes([HEADER, row(1, CT=91, SA=93), *garbled], "a.nc"), rules)
    assert classes[1:].tolist() == [[255] * 3, [9, 2, 4], [9, 255, 255], [9, 255, 5], [255] * 3]


@pytest.mark.parametrize("null", ["-9", " -9", "-9.", "-9.0", "-09", "9-", "", "  ", "nan", "NaN", "None", "null"])
def test_null_is_written_in_many_ways(null: str) -> None:
    table = parse_polygon_codes([HEADER, f"1;92;{null};93;06" + f";{null}" * 9 + ";I"], "a.nc")
    assert {int(table.codes[column][0]) for column in COLUMNS} == {92, -9, 93, 6}
    assert polygon_classes(table, strict=True).tolist() == [[10, 4, 5]]


def test_numbers_and_letters_are_written_in_many_ways() -> None:
    header = " ; ".join(HEADER.lower().split(";"))
    rows = ["1.0; 92;92.0;093;6" + ";-9" * 9 + "; i", "2;-9;-9;-9;-9" + ";-9" * 9 + ";w "]
    table = parse_polygon_codes([header, *rows], "a.nc")
    assert table.ids.tolist() == [1, 2]
    assert polygon_classes(table, strict=True).tolist() == [[10, 4, 5], [0, 0, 0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty"),
        ([HEADER.replace("SB;", "")], "lacks SB"),
        ([HEADER, "1;91;93"], "has 3 cells, the header 15"),
        ([HEADER, row(1, CT=91), row(1, CT=91)], "repeated or malformed poly_id"),
        ([HEADER, row(1, CT=91).replace("1;", "x;", 1)], "repeated or malformed poly_id"),
        # From 2 ** 24 on the float32 raster of ids cannot tell ids apart.
        ([HEADER, row(1 << 24, CT=91)], "repeated or malformed poly_id"),
    ],
)
def test_a_malformed_table_is_an_error(rows: list[str], message: str) -> None:
    with pytest.raises(SceneError, match=rf"^a\.nc: polygon_codes .*{message}"):
        parse_polygon_codes(rows, "a.nc")


def test_columns_are_found_by_name() -> None:
    names = HEADER.split(";")
    shuffled = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
    cells = dict(zip(names, row(7, CT=91, CA=90, SA=95, FA=6).split(";"), strict=True))
    table = parse_polygon_codes([";".join(shuffled), ";".join(cells[name] for name in shuffled)], "a.nc")
    assert table.ids.tolist() == [7]
    assert tuple(polygon_classes(table)[0]) == (10, 5, 5)


def test_unknown_rules_are_a_fault_of_the_program() -> None:
    with pytest.raises(ValueError, match=r"autoice.*'own'"):
        polygon_classes(parse_polygon_codes([HEADER, row(1, CT=91)], "a.nc"), "own")


def codes_of(ids: list[int]) -> PolygonCodes:
    return parse_polygon_codes([HEADER, *(row(i, CT=91) for i in ids)], "a.nc")


def test_rasterise_gathers_by_id() -> None:
    ids = [3, 40, 7, 0]
    classes = np.arange(12, dtype=np.uint8).reshape(4, 3)
    # More rows than a band of the implementation, and not a multiple of it.
    polygons = np.random.default_rng(0).choice(np.array([*ids, np.nan], np.float32), (600, 41))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        planes = rasterise(polygons, codes_of(ids), classes, "a.nc").planes()
    assert planes.dtype == np.uint8
    for (i, j), value in np.ndenumerate(polygons):
        expected = [255] * 3 if np.isnan(value) else classes[ids.index(int(value))].tolist()
        assert planes[:, i, j].tolist() == expected


@pytest.mark.parametrize("polygons_of", [60, 400])
def test_rasterise_equals_a_scan_for_each_polygon(polygons_of: int) -> None:
    """Few kinds of polygons and more than a byte can number; ids far apart; any number of threads."""
    random = np.random.default_rng(polygons_of)
    ids = random.choice(100_000, polygons_of, replace=False)
    classes = np.stack([random.integers(0, n, polygons_of) for n in (11, 6, 7)], axis=1).astype(np.uint8)
    classes[random.random(classes.shape) < 0.1] = 255
    raster = random.choice(np.append(ids.astype(np.float32), np.float32(np.nan)), (301, 203))
    expected = np.full((3, *raster.shape), 255, np.uint8)
    for number, triple in zip(ids, classes, strict=True):
        expected[:, raster == number] = triple[:, None]
    chart, by_threads = (rasterise(raster, codes_of(ids.tolist()), classes, n_threads=n) for n in (1, 3))
    assert chart.index.dtype == (np.uint8 if polygons_of < 256 else np.uint16)
    np.testing.assert_array_equal(chart.planes(), expected)
    np.testing.assert_array_equal(chart.index, by_threads.index)


def test_planes_of_classes_are_indexed_and_back() -> None:
    planes = np.stack([np.random.default_rng(0).integers(0, n, (40, 50)) for n in (11, 6, 7)]).astype(np.uint8)
    planes[:, :20][planes[:, :20] < 3] = 255
    indexed = index_planes(planes)
    np.testing.assert_array_equal(indexed.planes(), planes)
    np.testing.assert_array_equal(indexed.classes[indexed.index], np.moveaxis(planes, 0, -1))


def test_rasterise_masks_and_counts_ids_without_a_row() -> None:
    polygons = np.array([[3, 4, 99, np.nan], [-5, 3, 3, 3]], np.float32)
    with pytest.warns(UserWarning, match=r"^a\.nc: 3 pixels"):
        planes = rasterise(polygons, codes_of([3, 8]), np.array([[1, 2, 3], [4, 5, 6]], np.uint8), "a.nc").planes()
    np.testing.assert_array_equal(planes[1], [[2, 255, 255, 255], [255, 2, 2, 2]])


def test_rasterise_without_polygons_is_all_masked() -> None:
    planes = rasterise(np.full((5, 6), np.nan, np.float32), codes_of([]), np.zeros((0, 3), np.uint8)).planes()
    assert planes.shape == (3, 5, 6)
    assert (planes == 255).all()

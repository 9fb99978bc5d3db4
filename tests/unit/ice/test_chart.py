import functools
import json
import random
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.chart import PolygonCodes, parse_polygon_codes, polygon_classes
from arcticseg.ice.indexed import index_planes, rasterise

HEADER = "poly_id;CT;CA;SA;FA;CB;SB;FB;CC;SC;FC;CN;CD;CF;POLY_TYPE"
COLUMNS = ("CT", "CA", "SA", "FA", "CB", "SB", "FB", "CC", "SC", "FC")
RULES = ("autoice", "corrected")
MASKED = (255, 255, 255)

# The tables of the design, copied a second time so that a slip in the program's tables shows.
SIC = {0: 0, 1: 0, 2: 0, 55: 0, 10: 1, 20: 2, 30: 3, 40: 4, 50: 5, 60: 6, 70: 7, 80: 8, 90: 9, 91: 10, 92: 10}
SOD = {
    0: 0, 80: 0, 81: 1, 82: 1, 83: 2, 84: 2, 85: 2, 87: 3, 88: 3, 89: 3, 86: 4, 91: 4, 93: 4, 95: 5, 96: 5, 97: 5,
    98: 255, 99: 255,
}  # fmt: skip
FLOE = {0: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 5, 9: 6, 10: 6, 1: 255, 8: 255, 21: 255, 22: 255, 99: 255}
TABLES = {"C": SIC, "S": SOD, "F": FLOE}


def read_literally(row: str, rules: str) -> tuple[tuple[int, int, int], bool]:
    """(SIC, SOD, FLOE) of a polygon and whether a code is unlisted: the design's sentences, one after another."""
    cells = dict(zip(HEADER.split(";"), row.split(";"), strict=True))
    code: dict[str, int | None] = {}
    for column in COLUMNS:
        number = int(cells[column])
        code[column] = None if number == -9 else number
    is_water = cells["POLY_TYPE"] == "W"

    # "an unlisted code masks its polygon and is counted in a warning"
    if any(number is not None and number not in TABLES[column[0]] for column, number in code.items()):
        return MASKED, True
    # "POLY_TYPE W is SIC 0. SIC 0 forces SOD and FLOE to 0."
    if is_water:
        return (0, 0, 0), False
    # Polygons with null codes (land, ice shelf) are not part of the chart.
    if code["CT"] is None:
        return MASKED, False
    total = SIC[code["CT"]]
    if total == 0:
        return (0, 0, 0), False

    # "All arithmetic is on SIC classes 0..10, partials too"; "CA empty and CT class above 0: CA takes CT."
    partial = {}
    for letter in "ABC":
        number = code[f"C{letter}"]
        partial[letter] = 0 if number is None else SIC[number]
    if code["CA"] is None:
        partial["A"] = total

    result = [total]
    for kind in "SF":
        kinds = {}
        for letter in "ABC":
            number = code[f"{kind}{letter}"]
            kinds[letter] = None if number is None else TABLES[kind][number]

        def equal(x: str, y: str, kinds: dict[str, int | None] = kinds) -> bool:
            return kinds[x] is not None and kinds[x] == kinds[y]  # "empty, -9, never merges"

        added = dict(partial)
        if equal("A", "B"):
            added["A"] = partial["A"] + partial["B"]
        if equal("A", "C"):
            if rules == "corrected" and equal("A", "B"):
                added["A"] = partial["A"] + partial["B"] + partial["C"]  # "adds all three equal partials"
            else:
                added["A"] = partial["A"] + partial["C"]  # "the third overwrites the second's addition"
        if equal("B", "C"):
            added["B"] = partial["B"] + partial["C"]
        largest = "A"  # "on a tie the first of A, B, C wins"
        for letter in "BC":
            if added[letter] > added[largest]:
                largest = letter
        winner = kinds[largest]
        # "must reach 0.65 of the CT class", in whole numbers.
        result.append(winner if winner is not None and 100 * added[largest] >= 65 * total else 255)
    # "Any partial FLOE class of 255 (codes 1, 8, 21, 22) masks FLOE"
    if any(code[column] in (1, 8, 21, 22) for column in ("FA", "FB", "FC")):
        result[2] = 255
    # "corrected ... lets CA take CT only where SB and SC are empty too, else SOD and FLOE are 255"
    if rules == "corrected" and code["CA"] is None and (code["SB"] is not None or code["SC"] is not None):
        result[1] = result[2] = 255
    return (result[0], result[1], result[2]), False


def row(number: int, poly_type: str = "I", **codes: int) -> str:
    """A row of `polygon_codes`; codes left out are empty."""
    cells = [f"{codes.get(column, -9):02d}" for column in COLUMNS]
    return ";".join([str(number), *cells, "-9", "-9", "-9", poly_type])


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


def read_all_literally(rows: Sequence[str], rules: str) -> tuple[np.ndarray, int]:
    """Classes of all rows, uint8 [P, 3], and how many have an unlisted code."""
    readings = [read_literally(text, rules) for text in rows]
    return np.array([classes for classes, _ in readings], np.uint8), sum(lost for _, lost in readings)


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
        # Water, whatever the other codes are.
        ({"CT": 2, "SA": 98, "FA": 8}, (0, 0, 0), (0, 0, 0)),
    ],
)
def test_rows_worked_out_by_hand(
    codes: dict[str, int], autoice: tuple[int, int, int], corrected: tuple[int, int, int]
) -> None:
    table = parse_polygon_codes([HEADER, row(1, **codes)], "a.nc")
    assert tuple(polygon_classes(table, "autoice")[0]) == autoice
    assert tuple(polygon_classes(table, "corrected")[0]) == corrected


def test_an_unlisted_code_is_an_error_when_strict() -> None:
    table = parse_polygon_codes([HEADER, row(1, CT=91, SA=93), row(2, CT=46, SA=93)], "a.nc")
    with pytest.raises(SceneError, match=r"^a\.nc: 1 of 2 polygons .*CT 46.*--strict"):
        polygon_classes(table, strict=True, source="a.nc")


def test_text_in_a_code_cell_is_an_unlisted_code() -> None:
    rows = [row(1, CT=91, SA=93), "2;9+;-9;93;06;-9;-9;-9;-9;-9;-9;-9;-9;-9;I", "3; ;;;;;;;;;;;;;L"]
    with pytest.warns(UserWarning, match=r"1 of 3 polygons .*CT garbled"):
        classes = polygon_classes(parse_polygon_codes([HEADER, *rows], "a.nc"))
    np.testing.assert_array_equal(classes[1:], [MASKED, MASKED])


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

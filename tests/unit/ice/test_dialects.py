import pytest
from polygons import codes

from arcticseg.ice.dialects import FIELDS, dialect_of, poly_type


def read(columns: dict[str, str]) -> dict[str, str]:
    """The codes of a polygon with these columns."""
    dialect = dialect_of(columns)
    assert dialect is not None
    return dialect.read(tuple(columns[name] for name in dialect.columns))


def test_columns_in_either_case_and_cells_in_many_forms() -> None:
    cells = {
        "area": "x",
        "ct": " 92.0",
        "ca": "9-",
        "Sa": "093",
        "FA": "6",
        "CB": "-9.",
        "SB": "9+",
        "poly_type": " i ",
    }
    assert read(cells) == codes(CT="92", SA="093", FA="6", SB="?")
    dialect = dialect_of(cells)
    assert dialect is not None
    assert dialect.columns == ("ct", "ca", "Sa", "FA", "CB", "SB", "poly_type")
    assert dialect.notes == ("no columns FB, CC, SC, FC: taken as empty",)


def test_ice_free_is_zero_in_concentrations_alone() -> None:
    assert read({"CT": "98", "CA": "98", "SA": "98", "FA": "99", "POLY_TYPE": "I"}) == codes(
        CT="00", CA="00", SA="98", FA="99"
    )


@pytest.mark.parametrize(
    ("written", "letter"),
    [
        *[(text, "W") for text in ("W", "w", " W ", "Water", "water", "Open Water", "ICE-FREE", "ice_free")],
        *[(text, "I") for text in ("i", "ICE", " I ", "Sea ice", "Fast ice")],
        *[(text, "L") for text in ("l", "Land", "LAND ")],
        *[(text, "S") for text in ("s", "ice shelf", "Ice_Shelf")],
        *[(text, "N") for text in ("n", "No data", "NODATA", "no_data")],
        *[(text, "-9") for text in ("", " ", "-9", "9-", "NULL")],
        ("B", "B"),
        ("zone; 5\n", "ZONE  5"),
    ],
)
def test_poly_type_in_letters_and_words(written: str, letter: str) -> None:
    assert poly_type(written) == letter


@pytest.mark.parametrize(
    ("string", "expected"),
    [
        ("CT92CA92SA93FA06", codes(CT="92", CA="92", SA="93", FA="06", POLY_TYPE="-9")),
        # The form of SIGRID: concentration, stage and form follow CA, CB and CC.
        (
            "CT46CA309399CB209199CC018799CF1999CN95CD81",
            codes(
                CT="46", CA="30", SA="93", FA="99", CB="20", SB="91", FB="99", CC="01", SC="87", FC="99", CF="19-99",
                CN="95", CD="81", POLY_TYPE="-9",
            ),
        ),
        ("ct90 ca-9 sa95 fa9-", codes(CT="90", SA="95", POLY_TYPE="-9")),
        ("CT98", codes(CT="00", POLY_TYPE="-9")),
        ("Land", codes(POLY_TYPE="L")),
        ("", codes(POLY_TYPE="-9")),
        # What is no such string is no code, and so counted.
        *[(text, codes(CT="?", POLY_TYPE="-9")) for text in ("CT9", "CT92CT91", "CT9293", "XX92", "CT92CA", "SA9A")],
    ],
)  # fmt: skip
def test_strings_of_codes(string: str, expected: dict[str, str]) -> None:
    assert read({"ICECODE": string, "AREA": "1"}) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Ice Free", codes(CT="00", POLY_TYPE="W")),
        ("Open Water", codes(CT="01", POLY_TYPE="W")),
        ("Very Open Drift Ice", codes(CT="13")),
        ("open drift ice", codes(CT="46")),
        ("Close Drift Ice", codes(CT="78")),
        ("VERY CLOSE DRIFT ICE", codes(CT="91")),
        ("Fast Ice", codes(CT="92", FA="08")),
        ("Land", codes(POLY_TYPE="L")),
        ("Slush", codes(CT="?", POLY_TYPE="-9")),
        ("", codes(POLY_TYPE="-9")),
    ],
)
@pytest.mark.parametrize("column", ["NIS_CLASS", "ice_type"])
def test_classes_of_met_norway(words: str, expected: dict[str, str], column: str) -> None:
    assert read({column: words}) == expected


def test_poly_type_beside_a_string_counts() -> None:
    assert read({"ICECODE": "CT92", "POLY_TYPE": "Land"})["POLY_TYPE"] == "L"
    assert read({"NIS_CLASS": "Fast Ice", "POLY_TYPE": "-9"})["POLY_TYPE"] == "I"


def test_which_columns_are_a_dialect() -> None:
    assert dialect_of(["E_CT", "E_CA", "N_CT", "A_LEGEND", "PNT_TYPE"]) is None  # egg codes are other tables
    assert dialect_of(["CT", "ct", "SA"]) is None  # which of the two?
    sigrid = dialect_of([*FIELDS, "ICECODE", "E_CT"])
    assert sigrid is not None
    assert sigrid.columns == FIELDS
    assert sigrid.notes == ()

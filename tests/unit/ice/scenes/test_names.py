"""Facts in names and attributes: the same acquisition under every dialect."""

from datetime import UTC, datetime

import pytest

from arcticseg.ice.scenes.names import Facts, facts_of, service_of, time_of

PRODUCT = "S1B_EW_GRDM_1SDH_20200123T120618_20200123T120718_019937_025B5E_1234"
TIME = datetime(2020, 1, 23, 12, 6, 18, tzinfo=UTC)
BOTH = ("hh", "hv")


@pytest.mark.parametrize(
    ("name", "orbit", "product", "polarisations"),
    [
        (f"{PRODUCT}.SAFE", 19937, "EW_GRD", BOTH),
        (f"{PRODUCT}_icechart_dmi_202001231205_North_RIC.nc", 19937, "EW_GRD", BOTH),
        ("s1b-ew-grd-hh-20200123t120618-20200123t120718-019937-025b5e-001.tiff", 19937, "EW_GRD", ("hh",)),
        ("s1b-ew-grd-hv-20200123t120618-20200123t120718-019937-025b5e-002", 19937, "EW_GRD", ("hv",)),
        ("S1B_EW_GRDM_1SDH_20200123T120618.tif", None, "EW_GRD", BOTH),
        ("sigma0_HV_S1B_EW_GRDM_1SDH_20200123T120618.tif", None, "EW_GRD", ("hv",)),
        (f"{PRODUCT.lower()}_cal_hv.tif", 19937, "EW_GRD", ("hv",)),
        (f"subset_of_{PRODUCT}_NR_Cal_TC", 19937, "EW_GRD", BOTH),
        ("S1B_IW_GRDH_1SSH_20200123T120618_20200123T120718_019937_025B5E_1234", 19937, "IW_GRD", ("hh",)),
        ("s1b-iw1-slc-vv-20200123t120618-20200123t120718-019937-025b5e-004", 19937, "IW_SLC", ("vv",)),
        ("S1B_2020-01-23T12-06-18_mosaic", None, None, None),
        ("Sentinel-1B_20200123_120618_hh", None, None, ("hh",)),
    ],
)
def test_dialects_of_one_acquisition(
    name: str, orbit: int | None, product: str | None, polarisations: tuple[str, ...] | None
) -> None:
    assert facts_of(name) == Facts(TIME, "S1B", orbit, product, polarisations)


def test_ready_to_train_names_say_the_time_and_attributes_the_rest() -> None:
    name, attributes = "20200123T120618_dmi_prep", {"original_id": f"{PRODUCT}_icechart_dmi_202001231205_North_RIC.nc"}
    assert facts_of(name) == Facts(TIME)
    assert facts_of(name, attributes) == Facts(TIME, "S1B", 19937, "EW_GRD", BOTH)
    assert service_of(name) == "dmi"


@pytest.mark.parametrize(
    "tags",
    [
        # As GDAL's SAFE driver writes them, as SNAP does, as CF files do.
        {"ACQUISITION_START_TIME": "2020-01-23T12:06:18", "MISSION_ID": "S1B", "ORBIT_NUMBER": "19937"},
        {"first_line_time": "23-JAN-2020 12:06:18.000000", "MISSION": "SENTINEL-1B", "ABS_ORBIT": "19937"},
        {"time_coverage_start": "2020-01-23T13:06:18+01:00", "platform": "Sentinel-1B", "orbit_number": 19937},
    ],
)
def test_tags_tell_what_a_name_does_not(tags: dict[str, object]) -> None:
    assert facts_of("scene_7", tags) == Facts(TIME, "S1B", 19937)


def test_a_name_counts_before_an_attribute() -> None:
    tags = {"start_time": "2019-01-01T00:00:00", "orbit_number": "5", "mission_id": "S1A"}
    assert facts_of(PRODUCT, tags) == facts_of(PRODUCT)


@pytest.mark.parametrize(
    "name",
    [
        "scene",
        "S1E_EW_GRDM_1SDH",
        "XS1A2_20201340T120618",
        "20200123T250000",
        "120200123T120618",
        "20200123T1206180",
        "00000101T000000",
        "S1B_EW_GRDM_1SDH_20201340T120618_20201340T120718_000000_025B5E_1234",
        "s1b-ew-grd-hh-99999999t999999-99999999t999999-999999-zzzzzz-001",
        "\0\ud800_x",
        "",
    ],
)
def test_what_cannot_be_is_not_known(name: str) -> None:
    facts = facts_of(name)
    assert (facts.time, facts.orbit) == (None, None)
    assert time_of(name) is None


@pytest.mark.parametrize("value", ["", "soon", "2020-13-40T00:00:00", "-7", "0", "7.5", "1e9", "99999999", None, b"x"])
def test_attributes_that_cannot_be(value: object) -> None:
    facts = facts_of("x", {"start_time": value, "orbit_number": value, "mission_id": value, "original_id": value})
    assert facts == Facts()


def test_relative_orbits() -> None:
    # (absolute, relative) as the manifests of three real products say.
    assert Facts(satellite="S1B", orbit=30148).relative_orbit == 22
    assert Facts(satellite="S1B", orbit=26269).relative_orbit == 168
    assert Facts(satellite="S1A", orbit=37286).relative_orbit == 114
    assert Facts(orbit=37286).relative_orbit is None

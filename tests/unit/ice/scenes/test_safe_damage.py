"""Products that are not read: of another kind, incomplete, exchanged or damaged; each is refused in one line."""

import random
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from arcticseg.errors import SceneError
from arcticseg.ice.scenes.open import open_scene
from shards.simulation.safe import SafeForm, zip_safe
from tests import safes

Change = Callable[[Path], object]


def read(path: Path) -> dict[str, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_scene(path, n_threads=1) as scene:
            return {name: scene.sar(name) for name in scene.polarisations}


def unchecked(change: Change) -> Change:
    """The change, unnoticed by checksums."""

    def made(root: Path) -> None:
        change(root)
        safes.forget_checksums(root)

    return made


def in_file(kind: str, old: str, new: str) -> Change:
    return unchecked(lambda root: safes.edit(safes.file_of(root, kind), old, new))


def emptied(kind: str) -> Change:
    return unchecked(lambda root: safes.file_of(root, kind).write_bytes(b""))


def removed(kind: str) -> Change:
    return lambda root: safes.file_of(root, kind).unlink()


def exchanged(kind: str) -> Change:
    """The files of HH and HV under each other's name."""

    def change(root: Path) -> None:
        hh, hv = (safes.file_of(root, kind, polarisation) for polarisation in ("hh", "hv"))
        content = hh.read_bytes()
        hh.write_bytes(hv.read_bytes())
        hv.write_bytes(content)

    return unchecked(change)


def raster(dtype: str, height: int = 460, width: int = 330, count: int = 1, driver: str = "GTiff") -> Change:
    def change(root: Path) -> None:
        path = safes.file_of(root, "measurement")
        with rasterio.open(path, "w", driver=driver, dtype=dtype, count=count, height=height, width=width):
            pass

    return unchecked(change)


def bombed(root: Path) -> None:
    entities = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(12))
    safes.edit(root / "manifest.safe", r"(\?>)", rf'\1<!DOCTYPE x [<!ENTITY a0 "xxxxxxxxxx">{entities}]>', count=1)


def pointing_elsewhere(root: Path) -> None:
    secret = root.parent / "secret.txt"
    secret.write_text("secret")
    path = safes.file_of(root, "annotation")
    safes.edit(path, r"(\?>)", rf'\1<!DOCTYPE x [<!ENTITY a SYSTEM "file://{secret}">]>', count=1)


CHANGES: dict[str, tuple[Change, str]] = {
    "no manifest": (lambda root: (root / "manifest.safe").unlink(), "holds no manifest.safe"),
    "manifest is no XML": (lambda root: (root / "manifest.safe").write_bytes(b"\0\xff"), "not well-formed"),
    "empty manifest": (lambda root: (root / "manifest.safe").write_bytes(b""), "not well-formed"),
    "entities": (bombed, "DOCTYPE"),
    "external entity": (unchecked(pointing_elsewhere), "DOCTYPE"),
    "deep": (in_file("noise", "</noise>", "<a>" * 100 + "</a>" * 100 + "</noise>"), "deeper"),
    "no measurement": (lambda root: [path.unlink() for path in root.glob("measurement/*")], "no measurement"),
    "no annotation": (removed("annotation"), "has no annotation"),
    "no calibration": (removed("calibration"), "has no calibration"),
    "empty measurement": (emptied("measurement"), "cannot be read"),
    "SLC": (in_file("annotation", "<productType>GRD", "<productType>SLC"), "EW SLC"),
    "OCN": (lambda root: safes.edit(root / "manifest.safe", "productType>GRD", "productType>OCN"), "EW OCN"),
    "RAW": (lambda root: safes.edit(root / "manifest.safe", "productType>GRD", "productType>RAW"), "EW RAW"),
    "wave mode": (in_file("annotation", "<mode>EW", "<mode>WV"), "WV GRD"),
    "polarisation": (in_file("calibration", "<polarisation>HH", "<polarisation>HV"), "is of HV, but named for HH"),
    "annotations exchanged": (exchanged("annotation"), "is of HV, but named for HH"),
    "noise exchanged": (exchanged("noise"), "is of HV, but named for HH"),
    "rasters exchanged": (exchanged("measurement"), "files have been exchanged"),
    "checksum of a table": (lambda root: safes.edit(safes.file_of(root, "noise"), "e\\+", "E+"), "its checksum"),
    "float": (raster("float32"), "1 x float32"),
    "complex": (raster("complex64"), "1 x complex64"),
    "two bands": (raster("uint16", count=2), "2 x uint16"),
    "another size": (raster("uint16", width=331), "460 x 331 pixels, its annotation says 460 x 330"),
    "another format": (raster("uint16", driver="PNG"), "cannot be read"),
    "huge": (in_file("annotation", "<numberOfLines>460", "<numberOfLines>999999999"), "which no product has"),
    "many digits": (in_file("annotation", "<numberOfLines>460", "<numberOfLines>" + "9" * 5000), "not a whole"),
    "spacing": (in_file("annotation", "<rangePixelSpacing>4", "<rangePixelSpacing>5"), "40 x 50 m"),
    "grid": (in_file("annotation", r"<geolocationGridPoint>.*?</geolocationGridPoint>(\s*<)", r"\1"), "are not a grid"),
    "latitude": (in_file("annotation", r"<latitude>7", "<latitude>97"), "latitude"),
    "incidence": (in_file("annotation", r"(<incidenceAngle>[\d.]+)e\+01", r"\1e+29"), "incidence angles"),
    "NaN": (in_file("annotation", r"<longitude>[^<]*", "<longitude>nan"), "not finite"),
    "calibration of zero": (in_file("calibration", r"(<sigmaNought [^>]*>)\S*", r"\g<1>0.0"), "not positive"),
    "calibration cut": (in_file("calibration", r"(<sigmaNought [^>]*>)\S* ", r"\1"), "holds 9 numbers"),
    "no vectors": (in_file("calibration", "<calibrationVectorL.*VectorList>", ""), "no calibration vector"),
    "lines": (in_file("noise", "<line>400", "<line>-1"), "do not increase"),
    "noise below zero": (in_file("noise", r"(<noiseRangeLut [^>]*>)", r"\1-"), "noise below zero"),
    "words": (in_file("noise", r"(<noiseRangeLut [^>]*>)", r"\1x"), "not numbers"),
    "block": (in_file("noise", "<lastRangeSample>65", "<lastRangeSample>-5"), "cannot be"),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return safes.made(tmp_path_factory.mktemp("safe"))


def copy_of(whole: Path, folder: Path) -> Path:
    return Path(shutil.copytree(whole, folder / whole.name))


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_a_product_that_cannot_be_read_is_refused(whole: Path, tmp_path: Path, change: Change, words: str) -> None:
    root = copy_of(whole, tmp_path)
    change(root)
    with pytest.raises(SceneError, match=words) as caught:
        read(root)
    message = str(caught.value)
    assert message.startswith(str(root))
    assert "\n" not in message
    assert ";" in message


def test_a_flipped_bit_of_the_raster_is_noticed(whole: Path, tmp_path: Path) -> None:
    root = copy_of(whole, tmp_path)
    path = safes.file_of(root, "measurement", "hv")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(SceneError, match="differs from its checksum"):
        read(root)


def test_a_raster_packed_otherwise_is_read_with_a_warning(whole: Path, tmp_path: Path) -> None:
    root = copy_of(whole, tmp_path)
    numbers = safes.numbers_of(root, "hh")
    path = safes.file_of(root, "measurement")
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint16", count=1, height=460, width=330, compress="deflate"
    ) as file:
        file.write(numbers, 1)
    with open_scene(root) as scene, pytest.warns(UserWarning, match="packed since"):
        assert np.array_equal(scene.sar("hh"), read(whole)["hh"], equal_nan=True)


def test_a_lacking_polarisation_is_said(whole: Path, tmp_path: Path) -> None:
    root = copy_of(whole, tmp_path)
    safes.file_of(root, "measurement", "hv").unlink()
    with pytest.warns(UserWarning, match=r"measurement/s1a-ew-grd-hv-\S+ is not there"), open_scene(root) as scene:
        assert scene.polarisations == ("hh",)


def test_files_beside_a_raster_are_not_read(whole: Path, tmp_path: Path) -> None:
    """An .aux.xml or .msk beside it would change what GDAL says of a raster."""
    root = copy_of(whole, tmp_path)
    path = safes.file_of(root, "measurement")
    nodata = "<PAMDataset><PAMRasterBand band='1'><NoDataValue>200</NoDataValue></PAMRasterBand></PAMDataset>"
    path.with_name(f"{path.name}.aux.xml").write_text(nodata)
    assert np.array_equal(read(root)["hh"], read(whole)["hh"], equal_nan=True)


def test_zips_that_are_no_products(whole: Path, tmp_path: Path) -> None:
    for name, files, words in (
        ("none", {"a.txt": b""}, "holds no manifest.safe"),
        ("two", {"a/manifest.safe": b"", "b/manifest.safe": b""}, "holds 2 products"),
        ("empty", {"x.SAFE/manifest.safe": b"<x/>"}, "holds no measurement"),
        ("outside", {"../x/manifest.safe": b"<x/>"}, "holds no manifest.safe"),
    ):
        path = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for inside, content in files.items():
                archive.writestr(inside, content)
        with pytest.raises(SceneError, match=words):
            read(path)
    path.write_bytes(b"PK no zip")
    with pytest.raises(SceneError, match=r"cannot be read"):
        read(path)
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.SAFE/manifest.safe", b"<x>" + bytes(100 << 20))
    with pytest.raises(SceneError, match="more than 64 MB"):
        read(bomb)


def test_a_product_with_two_kinds_of_polarisation(whole: Path, tmp_path: Path) -> None:
    root = copy_of(whole, tmp_path)
    other = safes.made(tmp_path / "other", SafeForm(polarisations=("VV", "VH")))
    shutil.copytree(other, root, dirs_exist_ok=True)
    safes.forget_checksums(root)
    with pytest.raises(SceneError, match="of two kinds"):
        read(root)


def damaged(whole: Path, place: Path, draw: random.Random) -> Path:
    """A copy with some bytes changed, cut off, doubled or a file removed; half the time without checksums."""
    root = Path(shutil.copytree(whole, place / whole.name))
    if draw.random() < 0.5:
        safes.forget_checksums(root)
    for _ in range(draw.randint(1, 3)):
        path = draw.choice([item for item in sorted(root.rglob("*")) if item.is_file()])
        data = bytearray(path.read_bytes())
        kind = draw.choice(["bytes", "cut", "double", "remove", "digits"])
        if kind == "bytes":
            for _ in range(draw.choice([1, 10, 1000])):
                if data:
                    data[draw.randrange(len(data))] = draw.randrange(256)
        elif kind == "cut":
            del data[draw.randrange(len(data) + 1) :]
        elif kind == "double":
            at = draw.randrange(len(data) + 1)
            data[at:at] = data[: draw.randrange(len(data) + 1)]
        elif kind == "digits":
            places = [i for i, byte in enumerate(data[:200_000]) if 48 <= byte <= 57]
            for i in draw.sample(places, min(len(places), 20)):
                data[i] = draw.choice(b"0123456789-e.")
        if kind == "remove":
            path.unlink()
        else:
            path.write_bytes(data)
    return zip_safe(root) if draw.random() < 0.2 else root


@pytest.mark.parametrize("seed", range(25))
def test_damage_is_an_error_or_harmless(whole: Path, tmp_path: Path, seed: int) -> None:
    path = damaged(whole, tmp_path, random.Random(seed))
    try:
        values = read(path)
    except SceneError as error:
        assert str(path) in str(error).splitlines()[0]  # noqa: PT017
    else:
        assert all(plane.dtype == np.float32 for plane in values.values())

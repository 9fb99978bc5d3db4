"""The kinds of files that `tests.fuzz` damages: an honest one made in code, ways to spoil it, and how it is opened."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from unittest import mock

import netCDF4
import numpy as np
import pyogrio
import rasterio
import shapely

from arcticseg.ice.channels import CHANNELS
from shards.part import BuildConfig, build_part
from tests import rasters, safes, scenes
from tests.archive import InThisProcess, quiet, tie
from tests.extremes import NUMBERS, TEXTS, Random, alter, pick, spoil_json

Spoil = Callable[[Path, Random], None]

CONFIG = BuildConfig(tile=16, factors=(4, 10), shard_bytes=1 << 20)
# Scenes --------------------------------------------------------------------------------------------------------------

_ATTRIBUTES = ("scale_factor", "add_offset", "valid_range", "valid_min", "missing_value", "_Unsigned", "units", "dtype")


def spoil_netcdf(path: Path, random: Random) -> None:
    """An attribute or some values of a variable, or an attribute of the file."""
    with netCDF4.Dataset(path, "a") as file:
        variable = file[pick(random, list(file.variables))]
        variable.set_auto_maskandscale(False)
        kind = random.integers(4)
        if kind == 0:
            numbers = [float(pick(random, NUMBERS)) for _ in range(int(random.integers(1, 4)))]
            variable.setncattr(pick(random, _ATTRIBUTES), pick(random, (numbers, numbers[0], pick(random, TEXTS))))
        elif kind == 1 and variable.dtype is not str:
            number = float(pick(random, NUMBERS))
            with np.errstate(all="ignore"):
                low, high = sorted(random.integers(0, variable.size + 1, 2))
                values = variable[...].ravel()
                values[low:high] = np.float64(number).astype(variable.dtype)
                variable[...] = values.reshape(variable.shape)
        elif kind == 2:
            codes = file.variables.get("polygon_codes")
            if codes is not None:
                codes[int(random.integers(len(codes)))] = ";".join(pick(random, TEXTS)[:50] for _ in range(15))
        else:
            file.setncattr(pick(random, ("ice_service", "original_id", "scene_id", "simulated")), pick(random, TEXTS))


def make_raw(folder: Path) -> Path:
    return scenes.write_raw(folder / f"{scenes.RAW_NAME}.nc", lines=260, samples=280)


def make_rtt(folder: Path) -> Path:
    statistics = {name: (channel.mean, channel.std) for name, channel in CHANNELS.items()}
    variables, _ = scenes.rtt(statistics, lines=150, samples=160)
    return scenes.write(folder / f"{scenes.RTT_NAME}.nc", variables, scenes.RTT_ATTRIBUTES)


def make_geotiff(folder: Path) -> Path:
    return rasters.write(folder / rasters.NAME, rasters.texture(260, 280), unit="dB")


def spoil_geotiff(path: Path, random: Random) -> None:
    """A tag, unit, scale, offset, nodata, position or reference system."""
    number, text = pick(random, NUMBERS), pick(random, TEXTS)
    with rasterio.open(path, "r+") as file:
        changes: tuple[Callable[[], object], ...] = (
            lambda: setattr(file, "scales", (float(number),)),
            lambda: setattr(file, "offsets", (float(number),)),
            lambda: setattr(file, "nodata", number),
            lambda: setattr(file, "units", (text[:1000],)),
            lambda: setattr(file, "descriptions", (text[:1000],)),
            lambda: setattr(file, "crs", pick(random, ("EPSG:4326", "EPSG:3413", "EPSG:32633", "EPSG:4978"))),
            lambda: setattr(file, "transform", rasterio.Affine(*random.choice([0, 1, -40, 40, 1e9, 1e-9], 6))),
            lambda: file.update_tags(**{pick(random, ("units", "TIFFTAG_DATETIME", "start_time")): text[:1000]}),
        )
        pick(random, changes)()


def make_safe(folder: Path) -> Path:
    root = safes.made(folder)
    shutil.rmtree(folder / "raw")
    safes.forget_checksums(root)
    return root


def spoil_safe(root: Path, random: Random) -> None:
    """A text of a document, or a file that is not there."""
    documents = [*sorted(root.rglob("*.xml")), root / "manifest.safe"]
    path = pick(random, documents)
    if random.random() < 0.1:
        pick(random, sorted(file for file in root.rglob("*") if file.is_file())).unlink()
        return
    text = path.read_text(encoding="utf-8")
    spans = [match.span(1) for match in re.finditer(r">([^<>]*\S[^<>]*)<", text)]
    start, end = pick(random, spans)
    new = str(pick(random, NUMBERS + TEXTS))
    if random.random() < 0.3:
        words = text[start:end].split()
        words[int(random.integers(len(words)))] = new
        new = " ".join(words)
    escaped = new.replace("&", "&amp;").replace("<", "&lt;")
    path.write_text(text[:start] + escaped + text[end:], encoding="utf-8", errors="replace")


def open_scene_file(path: Path) -> None:
    """As `shards build` opens a scene: all layers, tiles and facts."""
    build_part(path, path.parent / "part.tar", CONFIG, n_threads=1)


# Charts --------------------------------------------------------------------------------------------------------------

_ROWS = (("92", "92", "91", "06", "I"), ("60", "30", "84", "03", "I"), ("00", "", "", "", "W"), ("", "", "", "", "L"))
_FIELDS = ("CT", "CA", "SA", "FA", "POLY_TYPE")


def make_chart(path: Path, rows: Sequence[Sequence[str]] = _ROWS) -> Path:
    boxes = [shapely.box(-62 + i, 74, -61 + i, 76).segmentize(0.2) for i in range(len(rows))]
    columns = [np.array(column, object) for column in zip(*rows, strict=True)]
    pyogrio.raw.write(
        str(path),
        geometry=np.array([shapely.to_wkb(box) for box in boxes], object),
        field_data=columns,
        fields=list(_FIELDS),
        crs="EPSG:4326",
        geometry_type="Polygon",
    )
    return path


def make_shapefile(folder: Path) -> Path:
    return make_chart(folder / "chart.shp")


def make_geopackage(folder: Path) -> Path:
    return make_chart(folder / "chart.gpkg")


def spoil_codes(path: Path, random: Random) -> None:
    """Odd texts for codes."""
    rows = [[pick(random, TEXTS)[:80] if random.random() < 0.3 else code for code in row] for row in _ROWS]
    for part in path.parent.glob(f"{path.stem}.*"):
        part.unlink()
    make_chart(path, rows)


def spoil_geopackage(path: Path, random: Random) -> None:
    """A value of any table, its own tables of contents among them."""
    with contextlib.closing(sqlite3.connect(path)) as base, base:
        base.execute("PRAGMA writable_schema = ON")
        tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = pick(random, [*tables, "sqlite_master"])
        columns = [row[1] for row in base.execute(f'PRAGMA table_info("{table}")')]
        number = pick(random, [value for value in NUMBERS if not isinstance(value, int) or abs(value) < 2**63])
        value = pick(random, (number, pick(random, TEXTS), None, random.bytes(20)))
        for trigger in [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]:
            base.execute(f'DROP TRIGGER "{trigger}"')
        base.execute(f'UPDATE "{table}" SET "{pick(random, columns)}" = ?', (value,))


def open_chart(path: Path) -> None:
    """As `arcticseg chart` opens it: onto a scene."""
    from shards.chart import chart_scene

    scene = path.parent.parent / f"{scenes.RAW_NAME}.nc"
    if not scene.exists():
        scenes.write_raw(scene, lines=200, samples=220)
    chart_scene(scene, path, path.parent / "out.nc")


# Shards --------------------------------------------------------------------------------------------------------------


def make_shards(folder: Path) -> Path:
    from shards import build, machines

    paths = [
        scenes.write_raw(folder / "scenes" / f"S1A_EW_GRDM_1SDH_2018070{i}T120156.nc", lines=200, samples=220, seed=i)
        for i in (1, 2)
    ]
    with mock.patch.object(machines, "Workers", InThisProcess):
        build.build({"train": paths[:1], "val": paths[1:]}, folder / "set", CONFIG, report=quiet)
    shutil.rmtree(folder / "scenes")
    return folder / "set"


def spoil_manifest(folder: Path, random: Random) -> None:
    spoil_json(folder / "manifest.json", random)


def spoil_index(folder: Path, random: Random) -> None:
    """With the right checksum in the manifest, so that it is read."""
    spoil_json(folder / "train-000000.json", random)
    tie(folder)


def open_shards(folder: Path) -> None:
    """As `train`, `shards info` and `shards check` open them."""
    from arcticseg.data.select import open_set, select_from
    from shards.check import check
    from shards.info import summary

    sets = [open_set(str(folder))]
    summary(folder)
    check(folder)
    select_from(sets, "train", labelled=True)


# Weights -------------------------------------------------------------------------------------------------------------


def make_weights(folder: Path) -> Path:
    from safetensors.torch import save_file

    from arcticseg import config
    from arcticseg.run import config as run_config
    from arcticseg.run.build import build_model

    cfg = run_config.build([{"steps": 1, "model": {"encoder": {"name": "unet", "filters": [4, 8]}}}])
    facts = {"config": config.to_dict(cfg), "statistics": {}, "tile": 32, "factors": [4], "simulated": True}
    path = folder / "unet.safetensors"
    save_file(build_model(cfg, 32).state_dict(), path, metadata={key: json.dumps(facts[key]) for key in facts})
    return path


def spoil_header(path: Path, random: Random) -> None:
    """The header, or the JSON that stands as text in it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if random.random() < 0.6:
        key = pick(random, list(header["__metadata__"]))
        header["__metadata__"][key] = json.dumps(alter(json.loads(header["__metadata__"][key]), random))
    else:
        header = alter(header, random)
    text = json.dumps(header).encode()
    size = len(text) if random.random() < 0.9 else int(pick(random, (0, 1, 10**8 + 1, 2**63, 2**64 - 1)))
    path.write_bytes(size.to_bytes(8, "little") + text + data[8 + length :])


def open_weights(path: Path) -> None:
    """As `predict` opens them."""
    from arcticseg.products.predictor import load_predictor

    load_predictor(path, device="cpu")


def make_public(folder: Path) -> Path:
    """A small network as facebookresearch/mae saves one."""
    import torch

    block = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    names = ("cls_token", "pos_embed", *(f"blocks.0.{part}.weight" for part in block))
    weights = {name: torch.ones(1 if "norm" in name else (2, 2)) for name in names}
    torch.save({"model": weights | {"patch_embed.proj.weight": torch.ones(2, 1, 2, 2)}, "epoch": 1}, folder / "mae.pth")
    return folder / "mae.pth"


def open_public(path: Path) -> None:
    """As `model.init_from` opens it, as far as the network is not asked."""
    from arcticseg.models.exchange.layouts import parts_of
    from arcticseg.models.exchange.tensors import read_tensors
    from arcticseg.models.weights import check_finite

    for name, tensor in parts_of(path, read_tensors(path)[0], ()).encoder.items():
        check_finite(path, name, tensor)


# Texts ---------------------------------------------------------------------------------------------------------------

# A few lines that stand for 9^10 texts.
_BILLION = "\n".join(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in pairwise("abcdefghijk"))
_YAML = (
    f"a: &a [x, x]\n{_BILLION}",
    *("[" * 5000, "{a: " * 3000, "a: &a [*a]", "a: !!python/object/apply:os.system ['true']", "a: !!binary x", "a: ="),
    *("a: 2020-99-99", "? [a, b]\n: 1", "<<: 1", "a: !!int x", "a: 0b", "- 1\n- 2", "a: 1:99:99999999", "a: 'b"),
    *("%YAML 9.9\n---\na: 1", "\ta: 1", "base: run.yaml", "base: /etc/passwd", "base: /dev/zero", "base: {}"),
    *("imports: ['\\0']", "a: .nan", "steps: 1e400", "\ufeffa: 1"),
)


def make_yaml(folder: Path) -> Path:
    from arcticseg import config
    from arcticseg.run.config import RunConfig, build

    path = folder / "run.yaml"
    text = config.dump(build([{"steps": 10}]))
    assert isinstance(build([config.read(_written(path, text))]), RunConfig)
    return path


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def spoil_yaml(path: Path, random: Random) -> None:
    """Keys and values as JSON, which is YAML, or lines that mean something else than they seem to."""
    import yaml

    if random.random() < 0.3:
        lines = path.read_text().splitlines()
        lines[int(random.integers(len(lines))) :] = [pick(random, _YAML)]
        path.write_text("\n".join(lines) if random.random() < 0.5 else pick(random, _YAML))
        return
    path.write_text(json.dumps(alter(yaml.safe_load(path.read_text()), random)))


def open_yaml(path: Path) -> None:
    """As `train` opens it."""
    from arcticseg.run.config import load

    load(path)


def make_list(folder: Path) -> Path:
    lines = ["# made by hand", *(f"S1A_EW_GRDM_1SDH_2018070{i}T120156" for i in range(1, 9))]
    (folder / "lists").mkdir()
    (folder / "lists" / "val.txt").write_text("S1A_EW_GRDM_1SDH_20180809T120156\n")
    return _written(folder / "lists" / "train.txt", "\n".join(lines) + "\n")


def spoil_list(path: Path, random: Random) -> None:
    lines = path.read_text().splitlines()
    place = int(random.integers(len(lines)))
    lines[place : place + int(random.integers(2))] = [str(pick(random, TEXTS + NUMBERS))] * int(
        pick(random, (1, 3, 10_000))
    )
    path.write_text("\n".join(lines))
    if random.random() < 0.3:
        os.replace(path, path.with_suffix(".json"))
        path.with_suffix(".json").write_text(json.dumps(alter(lines, random)))


def open_list(path: Path) -> None:
    """As `train` and `shards build` open it."""
    from arcticseg.data.select import read_scene_list
    from shards.lists import read_lists

    if path.exists():
        read_scene_list(path)
        read_lists(path.parent)
    else:
        read_scene_list(path.with_suffix(".json"))


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        make: an honest one, a file or folder, in an empty folder.
        open: it as the product does.
        spoil: ways to change what it says; beside them its bytes are changed.
        only: of a folder, pattern of the files whose bytes are changed.
    """

    make: Callable[[Path], Path]
    open: Callable[[Path], None]
    spoil: tuple[Spoil, ...] = ()
    only: str = "*"


KINDS = {
    "raw": Kind(make_raw, open_scene_file, (spoil_netcdf,)),
    "rtt": Kind(make_rtt, open_scene_file, (spoil_netcdf,)),
    "geotiff": Kind(make_geotiff, open_scene_file, (spoil_geotiff,)),
    "safe": Kind(make_safe, open_scene_file, (spoil_safe, spoil_safe)),
    "shapefile": Kind(make_shapefile, open_chart, (spoil_codes,), "chart.*"),
    "geopackage": Kind(make_geopackage, open_chart, (spoil_codes, spoil_geopackage)),
    "manifest": Kind(make_shards, open_shards, (spoil_manifest, spoil_manifest, spoil_manifest), "manifest.json"),
    "index": Kind(make_shards, open_shards, (spoil_index, spoil_index, spoil_index), "*.json"),
    "weights": Kind(make_weights, open_weights, (spoil_header, spoil_header, spoil_header)),
    "public": Kind(make_public, open_public),
    "yaml": Kind(make_yaml, open_yaml, (spoil_yaml, spoil_yaml, spoil_yaml)),
    "list": Kind(make_list, open_list, (spoil_list, spoil_list)),
}

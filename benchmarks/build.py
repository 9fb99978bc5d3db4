"""Scene to shards: this build against the common way, on a simulated scene.

    python benchmarks/build.py                     the whole measurement, some ten minutes and 10 GB of disk
    python benchmarks/build.py --size 2000 --pairs 1     a quick look; small scenes show less

Needs `arcticseg[train]` (the common way interpolates with torch) and joblib. Both sides run in processes of their own
on the same cores, in turns, on the same file, which is in the page cache. The last line is the summary; the status is
1 when the build is less than 8 times as fast, its output less than 40 times as small, or its worker needs over 3 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

FACTORS = tuple(range(2, 11))
TILE = 384
# Lines and samples from which on the common way finds a tile without a NaN.
LEAST_SCENE = 2000
# What must hold: times as fast, times smaller, bytes of memory.
LEAST_SPEED, LEAST_SIZE, MOST_MEMORY = 8.0, 40.0, 3e9


def common_way(path: Path, out: Path) -> int:
    """Tiles of a scene as they are commonly made: a pass for each factor, full-resolution float arrays, pickles.

    For each factor: open the scene; 2 x 2 average pooling of HH and HV, whose result is not used; bilinear
    interpolation of HH, HV, distance map and all 20 coarse channels to the tile grid, nearest for labels and the mask
    of NaN; latitude, longitude and incidence angle at every pixel by a regular-grid interpolator; tiles of 384 x 384
    without overlap, each dropped that holds a NaN; `joblib.dump` of a dict of its arrays and planes of month and day.

    Nothing is slower than necessary: torch interpolates on all cores, one interpolator serves all three fields of the
    geolocation, coarse channels are brought to float32 first, labels stay bytes, pickles are not compressed, and the
    chart is made once, by the code of this project, so that label work is equal on both sides. Positions and planes of
    month and day have the types that scipy and numpy give them.

    Returns:
        How many tiles were written.
    """
    import joblib
    import numpy as np
    import torch
    import xarray as xr
    from scipy.interpolate import RegularGridInterpolator
    from torch.nn.functional import avg_pool2d, interpolate

    from arcticseg.ice.channels import COARSE, SAR
    from arcticseg.ice.scenes.open import open_scene

    def resized(field: Any, size: tuple[int, int], mode: str) -> Any:
        options = {"align_corners": False} if mode == "bilinear" else {}
        return interpolate(torch.from_numpy(field)[None, None], size, mode=mode, **options)[0, 0].numpy()

    with open_scene(path) as scene:
        charts = scene.chart()
        assert charts is not None
        assert scene.time is not None
        month, day = scene.time.month, scene.time.timetuple().tm_yday
    for factor in FACTORS:
        with xr.open_dataset(path, engine="netcdf4", mask_and_scale=False) as data:
            full = {name: data[variable].values for name, variable in SAR.items()}
            full["distance_map"] = data["distance_map"].values
            coarse = {name: data[name].values.astype(np.float32) for name in COARSE}
            geo = {name: data[f"sar_grid_{name}"].values for name in ("line", "sample", "latitude", "longitude")}
            geo["incidence"] = data["sar_grid_incidenceangle"].values
        avg_pool2d(torch.from_numpy(np.stack([full[name] for name in SAR]))[None], 2)
        height, width = (n // factor for n in charts.shape[1:])
        invalid = np.isnan(full["hh"]) | np.isnan(full["hv"])
        layers = {
            name: resized(np.nan_to_num(values), (height, width), "bilinear")
            for name, values in (full | coarse).items()
        }
        mask = resized(invalid.astype(np.float32), (height, width), "nearest") > 0
        layers["hh"][mask] = np.nan
        layers["hv"][mask] = np.nan
        for name, plane in zip(("SIC", "SOD", "FLOE"), charts, strict=True):
            layers[name] = resized(plane, (height, width), "nearest")
        lines, samples = np.unique(geo["line"]), np.unique(geo["sample"])
        fields = np.stack([geo[name] for name in ("latitude", "longitude", "incidence")], axis=-1)
        at = RegularGridInterpolator(
            (lines, samples), fields.reshape(len(lines), len(samples), 3), bounds_error=False, fill_value=None
        )
        centres = (factor * np.arange(n) + (factor - 1) / 2 for n in (height, width))
        places = at(np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1))
        layers |= {name: places[..., i] for i, name in enumerate(("latitude", "longitude", "incidence"))}
        for row in range(0, height - TILE + 1, TILE):
            for column in range(0, width - TILE + 1, TILE):
                window = np.s_[row : row + TILE, column : column + TILE]
                tile = {name: np.ascontiguousarray(values[window]) for name, values in layers.items()}
                if any(np.isnan(values).any() for values in tile.values()):
                    continue
                tile["month"] = np.full((TILE, TILE), month)
                tile["day"] = np.full((TILE, TILE), day)
                joblib.dump(tile, out / f"{scene.name}_{factor}_{row}_{column}.pkl")
    return len(list(out.iterdir()))


def this_build(path: Path, out: Path) -> int:
    """`arcticseg shards build` of a scene with its defaults, its worker process, checksums and manifest included.

    Returns:
        How many tiles were written.
    """
    from shards.build import build
    from shards.part import BuildConfig

    manifest = build({"train": [path]}, out, BuildConfig(tile=TILE, factors=FACTORS), report=lambda text: None)
    return sum(shard.samples for shards in manifest.splits.values() for shard in shards)


def stages(path: Path, out: Path) -> dict[str, float]:
    """Seconds of each stage of this build, each after the other, and of only inflating the file's images."""
    import netCDF4

    from arcticseg.ice import chart as charts
    from arcticseg.ice import indexed, resample
    from arcticseg.ice.layers import read_layers
    from arcticseg.ice.scenes.netcdf import RawScene
    from arcticseg.ice.scenes.open import open_scene
    from shards import stats
    from shards.part import BuildConfig, build_part, samples

    times: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        result = function(*arguments)
        times[name] = times.get(name, 0.0) + time.perf_counter() - began
        return result

    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        for name, variable in file.variables.items():
            if variable.size > 1_000_000:
                timed("only inflating the images, netCDF library", lambda name=name: file[name][:])
    inflating = "only inflating the images, this build"
    with open_scene(path) as scene:
        assert isinstance(scene, RawScene)
        for name in scene.polarisations:
            values = timed(inflating, scene.sar, name)
            timed("means of HH and HV", resample.block_means_db, values, FACTORS, 0.5, "linear", scene.threads)
        values = timed(inflating, scene.distance)
        timed("means of the distance map", resample.block_zones, values, FACTORS, scene.threads)
        values = timed(inflating, scene.polygons)
        table = scene.polygon_codes()
        chart = timed("polygon ids to charts", indexed.rasterise, values, table, charts.polygon_classes(table))
        del values
        timed("votes", resample.block_charts, chart, FACTORS, "majority", scene.threads)
        tallies = stats.SceneTallies()
        for layers in read_layers(scene, FACTORS):
            timed("channel statistics", tallies.add, layers)
            timed("tiles: cut, encode, hash", lambda layers=layers: list(samples(layers, BuildConfig(), scene.threads)))
    timed("the whole scene to its part", build_part, path, out / "part.tar", BuildConfig())
    return times


SIDES: dict[str, Callable[[Path, Path], Any]] = {"build": this_build, "common": common_way, "stages": stages}


def measure(side: str, path: Path, out: Path) -> dict[str, Any]:
    """Run a side in this process: seconds, CPU seconds, bytes written, and peak memory of it or of its worker."""
    # Importing does not count; what a worker process of the build imports counts as the build's time.
    import shards.build  # noqa: F401

    if side == "common":
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        import joblib  # noqa: F401
        import scipy.interpolate  # noqa: F401
        import xarray  # noqa: F401
    began = time.perf_counter()
    result = SIDES[side](path, out)
    seconds = time.perf_counter() - began
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    memory = max(each.ru_maxrss for each in usage) * 1024
    cpu = sum(each.ru_utime + each.ru_stime for each in usage)
    written = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return {"seconds": seconds, "cpu": cpu, "bytes": written, "memory": memory, "result": result}


def in_child(side: str, path: Path, folder: Path, cores: Sequence[int]) -> dict[str, Any]:
    """`measure` in a process of its own on these cores; what it writes is deleted."""
    out = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, __file__, "--side", side, "--scene", str(path), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    try:
        done = subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    finally:
        shutil.rmtree(out)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _mirror(values: Any) -> None:
    """Mirror each line of [H, W] about its first and last valid pixel, in place; a line without a valid pixel stays."""
    import numpy as np

    samples = np.arange(values.shape[1])
    for line in values:
        valid = np.flatnonzero(np.isfinite(line))
        if valid.size:
            inside = np.clip(samples, valid[0], valid[-1])
            line[:] = line[2 * inside - samples]


def fill_edges(path: Path) -> None:
    """Mirror backscatter into the edges that the swath leaves empty.

    The common way drops every tile that holds a NaN, which should not count as speed; without NaN both sides have the
    same work and output.
    """
    import netCDF4

    from arcticseg.ice.channels import SAR

    with netCDF4.Dataset(path, "r+") as file:
        file.set_auto_mask(False)
        for name in SAR.values():
            values = file[name][:]
            for view in (values, values.T):
                _mirror(view)
            file[name][:] = values
        file.swath = "no empty edges: backscatter mirrored into them"


def prepared_scene(place: Path, size: int) -> Path:
    """The simulated scene, made unless it is there, and read once so that it is in the page cache."""
    from shards.simulate import simulate_archive

    whole = place / f"whole-{size}"
    if not whole.is_dir():
        (made,) = simulate_archive(place, 1, 0, (size, size))
        fill_edges(made)
        whole.mkdir()
        made.rename(whole / made.name)
    (path,) = whole.iterdir()
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass
    return path


def hardware(cores: int) -> str:
    """The machine and the versions that the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    names = ("arcticseg", "numpy", "netCDF4", "h5py", "imagecodecs", "blosc2", "torch", "scipy", "joblib")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{model}, {cores} cores used; Python {platform.python_version()}, {versions}"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="alternated pairs (default 3)")
    parser.add_argument("--size", type=int, default=10_000, help="lines and samples of the scene (default 10000)")
    parser.add_argument("--cores", type=int, default=2, help="cores for either side (default 2)")
    parser.add_argument("--scene", type=Path, help="folder to keep the simulated scene in (default: temporary)")
    parser.add_argument("--out", type=Path, help="folder to write to; what is written is deleted (default: temporary)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.size < LEAST_SCENE:
        parser.error(f"--size must be at least {LEAST_SCENE}: smaller scenes give the common way no whole tile")
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.scene, arguments.out)))
        return 0
    cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
    with tempfile.TemporaryDirectory(dir=arguments.out) as temporary:
        folder = Path(temporary)
        path = prepared_scene(arguments.scene or folder / "scene", arguments.size)
        print(hardware(len(cores)))
        print(f"{path.name}: simulated, {arguments.size} x {arguments.size}, {path.stat().st_size / 1e6:.0f} MB")
        print(
            f"\n{'pair':>4} {'':10} {'seconds':>8} {'CPU s':>6} {'tiles':>6} {'MB out':>8} {'MB a tile':>9} "
            f"{'peak GB':>8}"
        )
        pairs = []
        for number in range(1, arguments.pairs + 1):
            build, common = (in_child(side, path, folder, cores) for side in ("build", "common"))
            pairs.append((build, common))
            for name, measured in (("this build", build), ("common way", common)):
                tiles, written = measured["result"], measured["bytes"] / 1e6
                print(
                    f"{number:4} {name:10} {measured['seconds']:8.1f} {measured['cpu']:6.1f} {tiles:6} {written:8.1f} "
                    f"{written / tiles:9.3f} {measured['memory'] / 1e9:8.2f}",
                    flush=True,
                )
        print(f"\n{'stage':48} {'seconds':>8}")
        for stage, seconds in in_child("stages", path, folder, cores)["result"].items():
            print(f"{stage:48} {seconds:8.2f}")
    return summary(pairs)


def summary(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> int:
    """Print whether all that must hold does, as the last line; 0 if so, else 1."""
    speed = statistics.median(common["seconds"] / build["seconds"] for build, common in pairs)
    size = min(common["bytes"] / build["bytes"] for build, common in pairs)
    memory = max(build["memory"] for build, _ in pairs)
    holds = speed >= LEAST_SPEED and size >= LEAST_SIZE and memory <= MOST_MEMORY
    print(
        f"\n{'PASS' if holds else 'FAIL'}: {speed:.1f} times as fast (median of {len(pairs)}; at least "
        f"{LEAST_SPEED:g}), output {size:.1f} times smaller (at least {LEAST_SIZE:g}), {memory / 1e9:.2f} GB a worker "
        f"(at most {MOST_MEMORY / 1e9:g})"
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())

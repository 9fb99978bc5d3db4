"""What `sameness.py` does in each checkout, step by step, and what it reads of the results."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sameness_contents as contents
import sameness_layout as layout
import yaml
from sameness_contents import Contents

PROBE = Path(__file__).with_name("sameness_probe.py")
RANKS = (1, 2)
# Seconds that one command may take.
PATIENCE = 1800
# Networks of which products are made: one is evaluated, the others predict charts of these scenes.
EVALUATED = "vit"
PREDICTING = {"unet": ("scenes", "backscatter.tif"), "upernet": ("ready",)}

# The netCDF library serves one thread at a time.
_NETCDF_LOCK = threading.Lock()
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_FIXED = {
    "CUDA_VISIBLE_DEVICES": "",
    "DS_ACCELERATOR": "cpu",
    "WANDB_MODE": "disabled",
    "COLUMNS": "120",
    # Modules come from PYTHONPATH, never from the folder of a script.
    "PYTHONSAFEPATH": "1",
}
_ERROR = re.compile(r"^(\[rank\d+\]: )?[\w.]*(Error|Exit|error)\b.*:")
_LEFT_OUT = re.compile(r"^(RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|MASTER_.*|SLURM_.*|WANDB_.*|RAY_.*)$")


class FailedError(Exception):
    """A command of a checkout failed."""


@dataclass
class Side:
    """One of the two checkouts.

    Attributes:
        name: OLD or NEW.
        folder: where it works; all paths in commands are relative to it, so both sides give the same paths.
        defaults: its resolved config where nothing is set.
    """

    name: str
    checkout: Path
    folder: Path
    defaults: Mapping[str, Any] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = None

    def prepare(self) -> None:
        """Make the folder and ask for the default config.

        Raises:
            FailedError: the checkout does not run.
        """
        self.folder.mkdir(parents=True)
        (self.folder / "empty.yaml").write_text("{}\n")
        self.defaults = yaml.safe_load(self.arcticseg("train", "--config", "empty.yaml", "--dry-run", "steps=1"))

    def python(self, *command: str) -> str:
        """Run Python on this checkout; return what it prints.

        Raises:
            FailedError: its status is not 0.
        """
        kept = {name: value for name, value in os.environ.items() if not _LEFT_OUT.match(name)}
        environment = kept | dict.fromkeys(_THREADS, "1") | _FIXED | {"PYTHONPATH": str(self.checkout)}
        process = self._process = subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, errors = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise FailedError(f"{self.name}: {error}") from error
        said = f"{out}\n{errors}"
        with open(self.folder / "log.txt", "a", encoding="utf-8") as log:
            log.write(f"\n$ {' '.join(command)}\n{said}")
        if process.returncode:
            lines = said.strip().splitlines()
            # Launchers say much after the error of a rank.
            last = ([line for line in lines if _ERROR.search(line)] or lines or ["it said nothing"])[0]
            raise FailedError(f"{self.name}: {' '.join(command)[:200]} ended with {process.returncode}: {last}")
        return out

    def kill(self) -> None:
        """End the command that runs, with all of its processes."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def arcticseg(self, *arguments: str) -> str:
        """Run a command of this checkout; return what it prints."""
        return self.python("-m", "launchers.cli", *arguments)

    def probe(self, task: str, ranks: int = 1, **request: Any) -> None:
        """Run the probe in this checkout on so many ranks."""
        path = self.folder / f"{task}-{ranks}.request.json"
        places = layout.places(self.checkout)
        asked = {"task": task, "ranks": ranks, "checkout": str(self.checkout), "places": places} | request
        path.write_text(json.dumps(asked))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
        self.python(*launcher, str(PROBE), path.name)

    def overrides(self, training: layout.Training, ranks: int, out: str) -> list[str]:
        """The arguments of a training, as this checkout calls them."""
        settings = layout.settings_of(training, ranks, out)
        return layout.overrides(settings, layout.has_new_keys(self.defaults))


def make_scenes(side: Side, parts: Sequence[str]) -> None:
    """Two simulated scenes, ready-to-train ones, and the backscatter of the first one as a GeoTIFF."""
    side.arcticseg("simulate", "scenes", "--n", "2", "--size", "600")
    side.arcticseg("rtt", "scenes", "--out", "ready")
    with _NETCDF_LOCK:
        write_backscatter(_scenes(side)[0], side.folder / "backscatter.tif")


def _scenes(side: Side) -> list[Path]:
    return sorted((side.folder / "scenes").glob("*.nc"))


def write_backscatter(scene: Path, path: Path) -> None:
    """HH and HV of a raw scene as a GeoTIFF in dB with control points."""
    import netCDF4
    import rasterio
    from rasterio.control import GroundControlPoint

    with netCDF4.Dataset(scene) as file:
        values = [np.ma.filled(file[f"nersc_sar_{name}"][:], np.nan) for name in ("primary", "secondary")]
        grid = (np.asarray(file[f"sar_grid_{name}"][:]) for name in ("line", "sample", "longitude", "latitude"))
        points = [
            GroundControlPoint(row=line + 0.5, col=sample + 0.5, x=longitude, y=latitude)
            for line, sample, longitude, latitude in zip(*grid, strict=True)
        ]
    height, width = values[0].shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=2, dtype="float32", gcps=points, crs="EPSG:4326"
    ) as target:
        target.write(np.stack(values).astype(np.float32))
        target.descriptions, target.units = ("HH", "HV"), ("dB", "dB")


def make_shards(side: Side, parts: Sequence[str]) -> None:
    """Shards, one scene for training and one for validation; what is said of them and drawn."""
    lists = side.folder / "lists"
    lists.mkdir()
    for split, scene in zip(("train", "val"), _scenes(side), strict=True):
        (lists / f"{split}.txt").write_text(f"{scene.stem}\n")
    options = ("--factors", "2,4", "--tile", "64", "--shard-mb", "0.2", "--workers", "1")
    side.arcticseg("shards", "build", "scenes", "--out", "shards", "--lists", "lists", *options)
    side.arcticseg("shards", "check", "shards")
    said = side.folder / "said"
    said.mkdir()
    for action in ("info", "stats"):
        text = side.arcticseg("shards", action, "shards", "--picture", f"said/{action}.png")
        (said / f"{action}.txt").write_text(text)


def jobs(side: Side, ranks: int, parts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The trainings of the probe on so many ranks."""

    def job(training: layout.Training, out: str, stop: int | None = None, resume: bool = False) -> dict[str, Any]:
        record = training.record if stop is None and not resume else None
        overrides = side.overrides(training, ranks, f"runs/{out}")
        return {"name": out.replace("/", "-"), "overrides": overrides, "record": record, "stop": stop, "resume": resume}

    # Products are made of trainings on one rank.
    wanted = {part for part in parts if part != "products" or ranks == 1}
    for training in layout.TRAININGS:
        if ranks in training.ranks and training.parts & wanted:
            out = f"{ranks}/{training.name}"
            yield job(training, out)
            if training.resumed and "train" in parts:
                yield job(training, f"{out}-resumed", stop=layout.STOP)
                yield job(training, f"{out}-resumed", resume=True)
    if "train" in parts:
        yield job(layout.MOVED, "moved", *((layout.STOP,) if ranks == max(RANKS) else (None, True)))


def make_runs(side: Side, parts: Sequence[str]) -> None:
    """Trainings by the probe, on two ranks first, since one of them moves to one rank; and one by the command."""
    for ranks in reversed(RANKS):
        listed = list(jobs(side, ranks, parts))
        if listed:
            side.probe("train", ranks, config="empty.yaml", jobs=listed)
    if "train" in parts:
        commanded = next(training for training in layout.TRAININGS if training.name == layout.COMMANDED)
        overrides = side.overrides(commanded, 2, "runs/command")
        side.arcticseg("train", "--config", "empty.yaml", "--ranks", "2", *overrides)


def make_charts(side: Side, parts: Sequence[str]) -> None:
    """Charts, layers and scores by the probe."""
    ready = min((side.folder / "ready").glob("*.nc"))
    paths = {"raw": f"scenes/{_scenes(side)[0].name}", "ready": f"ready/{ready.name}", "GeoTIFF": "backscatter.tif"}
    side.probe("charts", scenes=paths)


def make_products(side: Side, parts: Sequence[str]) -> None:
    """An evaluation with maps and products, charts of scenes of all kinds, and a report."""
    last = {name: f"runs/1/{name}/weights/last.safetensors" for name in (EVALUATED, *PREDICTING)}
    options = ("--list", "lists/val.txt", "--baseline", "shards", "--name", "evaluated")
    side.arcticseg("evaluate", last[EVALUATED], "scenes", "--out", "evaluation", *options)
    for name, scenes in PREDICTING.items():
        side.arcticseg("predict", last[name], *scenes, "--out", f"predicted/{name}")
    side.arcticseg("report", "evaluation", "--run", "runs/1/mae", "--out", "report.html")


def make_sweep(side: Side, parts: Sequence[str]) -> None:
    """What a sweep's dry run prints, and the configs of the shipped trainings by the probe."""
    grid = ("grid.data.label_fraction=[0.4, 1.0]", "grid.optim.lr=[1e-4, 1e-3]")
    study = side.arcticseg("sweep", "study", "out=study", "common.data.shards=shards", *grid, "--dry-run")
    (side.folder / "study.yaml").write_text(study)
    names = sorted(path.stem for path in (side.checkout / "configs").glob("*.yaml"))
    side.probe("configs", configs=[name for name in names if "base" not in name and name != "study"])


def read_scenes(side: Side) -> dict[str, Contents]:
    """Scenes of both kinds."""
    return {kind: contents.all_of(side.folder / kind, "*.nc") for kind in ("scenes", "ready")}


def read_shards(side: Side) -> dict[str, Contents]:
    """Shards, the numbers that are said of them, and what is drawn."""
    said = side.folder / "said"
    texts = {path.name: contents.figures(path.read_text()) for path in sorted(said.glob("*.txt"))}
    return {"files": contents.files(side.folder / "shards"), "said": texts | contents.all_of(said, "*.png")}


def read_recorded(what: str) -> Callable[[Side], dict[str, Contents]]:
    """The batches or masks that are kept of trainings, by training and number of ranks."""
    names = [training.name for training in layout.TRAININGS if training.record == what]

    def read(side: Side) -> dict[str, Contents]:
        folder = side.folder / "recorded"
        return {
            f"{name}, ranks {ranks}": contents.all_of(folder, f"{ranks}-{name}-*.npz")
            for name in names
            for ranks in RANKS
        }

    return read


def read_charts(side: Side) -> dict[str, Contents]:
    """Charts and layers; classes and scores."""
    return {name: contents.arrays(side.folder / f"{name}.npz") for name in ("charts", "scores")}


def read_run(side: Side, name: str, kinds: tuple[str, ...] = ("train", "validation", "event")) -> Contents:
    """Losses, scores and weights of a run."""
    folder = side.folder / "runs" / name
    return contents.metrics(folder / "metrics.jsonl", kinds) | contents.all_of(folder / "weights", "*.safetensors")


def read_train(side: Side) -> dict[str, Contents]:
    """All runs, and whether they ended or were stopped."""
    names = sorted(str(path.parent.relative_to(side.folder / "runs")) for path in side.folder.glob("runs/**/weights"))
    return {
        "runs that ended": contents.all_of(side.folder, "finished-*.npz"),
        **{name: read_run(side, name) for name in names if not name.endswith(layout.DRAWN_ANEW)},
    }


def twins(side: Side) -> Iterator[tuple[str, Contents, Contents]]:
    """Runs of one checkout that must be the same: undisturbed and resumed; by the probe and by the command."""
    for training in layout.TRAININGS:
        for ranks in training.ranks if training.resumed else ():
            name = f"{ranks}/{training.name}"
            once, again = (read_run(side, run, ("train", "validation")) for run in (name, f"{name}-resumed"))
            yield f"{side.name} {name} and the same stopped and resumed", once, again
    name = f"2/{layout.COMMANDED}"
    yield f"{side.name} {name} and the same by the command", read_run(side, name), read_run(side, "command")


def read_products(side: Side) -> dict[str, Contents]:
    """Evaluation, predicted charts, report."""
    made = {
        f"{name}, {kind}": contents.all_of(side.folder / name, f"*.{kind}")
        for name in ("evaluation", "predicted")
        for kind in ("json", "nc", "tif", "png")
    }
    report = {"report.html": contents.page(side.folder / "report.html")}
    return {name: held for name, held in made.items() if held} | {"report": report}


def read_sweep(side: Side) -> dict[str, Contents]:
    """Configs of the trials, and of the shipped trainings, with the new keys."""
    text = (side.folder / "study.yaml").read_text().replace(f"{side.folder}/", "")
    counted, *trials = re.split(r"^--- # ", text, flags=re.MULTILINE)
    read: dict[str, Contents] = {"number of trials": {"said": counted, "names": [t.split("\n")[0] for t in trials]}}
    for trial in trials:
        name, _, resolved = trial.partition("\n")
        read[f"trial {name}"] = layout.canonical(yaml.safe_load(resolved))
    configs = json.loads((side.folder / "configs.json").read_text())
    return read | {f"config {name}": layout.canonical(resolved) for name, resolved in configs.items()}


# Step -> the steps that it needs, and what makes it; in the order in which they are done.
STEPS: dict[str, tuple[tuple[str, ...], Callable[[Side, Sequence[str]], None]]] = {
    "scenes": ((), make_scenes),
    "shards": (("scenes",), make_shards),
    "charts": (("scenes",), make_charts),
    "runs": (("shards",), make_runs),
    "products": (("runs",), make_products),
    "sweep": ((), make_sweep),
}
# Part -> its step, and what reads the results of a side.
PARTS: dict[str, tuple[str, Callable[[Side], dict[str, Contents]]]] = {
    "scenes": ("scenes", read_scenes),
    "shards": ("shards", read_shards),
    "batches": ("runs", read_recorded("batches")),
    "masks": ("runs", read_recorded("masks")),
    "charts": ("charts", read_charts),
    "train": ("runs", read_train),
    "products": ("products", read_products),
    "sweep": ("sweep", read_sweep),
}


def steps_of(parts: Sequence[str]) -> list[str]:
    """The steps that some parts need, in order."""
    needed: set[str] = set()
    waiting = [PARTS[part][0] for part in parts]
    while waiting:
        step = waiting.pop()
        needed.add(step)
        waiting += STEPS[step][0]
    return [step for step in STEPS if step in needed]

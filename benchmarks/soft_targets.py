"""Do soft targets help? A small UNet on simulated scenes, with and without them, scored by charts and by the truth.

    python benchmarks/soft_targets.py /tmp/soft
    python benchmarks/soft_targets.py /tmp/soft --arms hard,pixels --seeds 1 --steps 50

Simulated scenes bring what is really in each pixel. Each arm trains on the same scenes with the same seeds; its last
weights are scored on held-out scenes three times: against charts, as ever; against the truth; and against the truth in
those pixels alone for which the chart has no label, since no partial reaches 0.65. Differences from the first arm are
paired by seed. What is finished in the folder is not done again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import netCDF4
import numpy as np

from arcticseg.data.select import read_scene_list
from arcticseg.ice.layers import official_labels
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX
from launchers.cli import main as arcticseg
from launchers.demo import run_command

SOFT = ("SOD", "FLOE")
PIXELS = tuple(f"segment.losses.{chart}.name=soft" for chart in SOFT)
POLYGONS = tuple(f"segment.polygons.{chart}.weight=1" for chart in SOFT)
ARMS = {
    "hard": (),
    "pixels": PIXELS,
    "pixels, ice": (*PIXELS, *(f"segment.losses.{chart}.water=false" for chart in SOFT)),
    "polygons": POLYGONS,
    "both": (*PIXELS, *POLYGONS),
}
BY = ("chart", "truth", "truth, no label")
SCORES = ("combined", *CHARTS, *(f"{chart}, macro F1" for chart in SOFT))


def done(arguments: Sequence[object]) -> None:
    """Run a verb in this process."""
    status = arcticseg([str(argument) for argument in arguments])
    if status:
        sys.exit(f"arcticseg {' '.join(map(str, arguments))} ended with status {status}")


def prepare(work: Path, scenes: int, size: int) -> list[str]:
    """Scenes, lists and shards; the names of the test scenes."""
    raw, lists, shards = work / "scenes", work / "lists", work / "shards"
    if not (shards / "manifest.json").exists():
        done(["simulate", raw, "--n", scenes, "--size", size, "--seed", 7])
        done(["shards", "split", raw, "--out", lists, "--val", "0.05", "--test", "0.25", "--seed", 7])
        done(["shards", "build", raw, "--out", shards, "--lists", lists, "--factors", 8, "--tile", 64])
    return read_scene_list(lists / "test.txt")


def unlabelled_truth(work: Path, names: Sequence[str]) -> Path:
    """A folder of reference files: the truth where the chart has no label, masked elsewhere."""
    folder = work / "unlabelled"
    folder.mkdir(exist_ok=True)
    for name in names:
        target = folder / f"{name}_reference.nc"
        if target.exists():
            continue
        with open_scene(work / "scenes" / f"{name}.nc") as scene:
            labels = official_labels(scene)
        assert labels is not None
        part = target.with_suffix(".part")
        shutil.copy(work / "scenes" / "truth" / target.name, part)
        with netCDF4.Dataset(part, "a") as file:
            file.set_auto_mask(False)
            for chart in SOFT:
                plane, label = file[chart][:], labels[CHARTS.index(chart)]
                file[chart][:] = np.where(label == IGNORE_INDEX, plane, IGNORE_INDEX)
        part.rename(target)
    return folder


def scores_of(work: Path, arm: str, seed: int, steps: int) -> dict[str, dict[str, float]]:
    """Train and evaluate; what is measured by -> score -> value."""
    run = work / "runs" / f"{arm.replace(', ', '_')}-{steps}-{seed}"
    weights = run / "weights" / "last.safetensors"
    if not weights.exists():
        overrides = [f"out={run}", f"data.shards={work / 'shards'}", f"seed={seed}", f"steps={steps}"]
        overrides += ["validate_every=0", "checkpoint_every=0", "tracking.wandb=off", "engine.threads=1", *ARMS[arm]]
        if run_command(["train", "--config", "demo_unet", "--resume", *overrides]):
            sys.exit(f"the training {run.name} failed")
    references: dict[str, list[object]] = {
        "chart": [],
        "truth": ["--reference", work / "scenes" / "truth"],
        "truth, no label": ["--reference", work / "unlabelled"],
    }
    result = {}
    for by, reference in references.items():
        out = run / by.replace(", ", "_")
        if not (out / "evaluation.json").exists():
            quiet = ("--no-maps", "--no-products", "--list", work / "lists" / "test.txt", "--out", out)
            done(["evaluate", weights, work / "scenes", *quiet, *reference])
        told = json.loads((out / "evaluation.json").read_text())
        macro = {f"{chart}, macro F1": 100 * told["by_class"][chart]["macro_F1"] for chart in SOFT}
        result[by] = told["pooled"] | macro
    return result


def table(results: dict[str, list[dict[str, dict[str, float]]]]) -> list[str]:
    """Rows in Markdown: mean and standard deviation over seeds, and of the paired differences from the first arm."""
    first, *_ = results
    rows = ["| scored by | arm | " + " | ".join(SCORES) + " |", "|---|---|" + "---|" * len(SCORES)]
    for by in BY:
        for arm, seeds in results.items():
            cells = []
            for score in SCORES:
                if by == "truth, no label" and not score.startswith(SOFT):
                    cells.append("")
                    continue
                values = np.array([seed[by][score] for seed in seeds])
                gains = values - np.array([seed[by][score] for seed in results[first]])
                cell = f"{values.mean():.2f} ± {values.std(ddof=1) if len(values) > 1 else 0:.2f}"
                if arm != first:
                    cell += f" ({gains.mean():+.2f} ± {gains.std(ddof=1) if len(values) > 1 else 0:.2f})"
                cells.append(cell)
            rows.append(f"| {by} | {arm} | " + " | ".join(cells) + " |")
    return rows


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for scenes, shards and runs")
    parser.add_argument("--arms", default=",".join(arm.replace(", ", "+") for arm in ARMS), help="some of the arms")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--size", type=int, default=1000, help="pixels of a scene's edge")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    began = time.monotonic()
    options.work.mkdir(parents=True, exist_ok=True)
    names = prepare(options.work, options.scenes, options.size)
    unlabelled_truth(options.work, names)
    arms = [arm.replace("+", ", ") for arm in options.arms.split(",")]
    results: dict[str, list[dict[str, dict[str, float]]]] = {arm: [] for arm in arms}
    for seed in range(options.seeds):
        for arm in arms:
            results[arm].append(scores_of(options.work, arm, seed, options.steps))
        print(*table(results), sep="\n", flush=True) if seed == 0 else None
    print(*table(results), sep="\n")
    print(f"{len(names)} test scenes, {options.seeds} seeds, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

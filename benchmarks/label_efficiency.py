"""How many labels does pretraining save? `configs/studies/label_efficiency_small.yaml` from beginning to end.

    make study                                    # or: python benchmarks/label_efficiency.py --out study

Simulates scenes, cuts them, runs the study, scores the best weights of each fine-tuning on the tiles of the test
scenes, which nothing before has looked at, and writes docs/label-efficiency.md and its plot. What is there already is
kept, so a command that was ended goes on where it stopped. Another table compares two decoders of the masked
autoencoder. The last line says whether pretraining pays at 20 % of the labels.
"""

from __future__ import annotations

import argparse
import csv
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev

import matplotlib
import torch

from arcticseg.data.share import Share
from arcticseg.files import make_folder, write_text
from arcticseg.ice.score import confusion, empty_confusions, scores
from arcticseg.ice.sigrid import CHARTS, N_CLASSES
from arcticseg.products.predictor import load_predictor
from arcticseg.run import build
from arcticseg.run import config as run_config
from arcticseg.run.folder import CONFIG
from arcticseg.speed.network import work_of

_ROOT = Path(__file__).parents[1]
_STUDY = _ROOT / "configs" / "studies" / "label_efficiency_small.yaml"
_PAGE, _PLOT = _ROOT / "docs" / "label-efficiency.md", _ROOT / "docs" / "label-efficiency.png"
# Scenes to train, validate and test on, and further ones, nearly all of them to test on; seeds of both.
_SCENES, _FURTHER, _PIXELS = 240, 240, 1000
_SEEDS = (12, 13)
_NAMES = {"vit_pretrained": "ViT, pretrained", "vit_scratch": "ViT, from scratch", "unet": "UNet, from scratch"}
# Entries whose pretrainings differ in the depth of the masked autoencoder's decoder, and those pretrainings.
_DECODERS = {"vit_pretrained": "mae", "vit_deep": "mae_deep"}
_FRACTION = "data.label_fraction"
_TITLE = "SIMULATED scenes: mean of three seeds, and each run"
# Where the question is decided.
_ASKED = 0.2
# The tables of the page stand between these lines.
_BEGIN, _END = "<!-- begin: made by benchmarks/label_efficiency.py -->", "<!-- end -->"


@dataclass(frozen=True)
class Run:
    """A fine-tuning, and its scores on test tiles: SIC, SOD, FLOE, combined."""

    model: str
    fraction: float
    seed: int
    scores: Mapping[str, float | None]


def main() -> int:
    """Do what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of scenes, shards and runs")
    out: Path = parser.parse_args().out
    began = time.monotonic()
    _prepare(out)
    study = out / "runs"
    resume = ["--resume"] if study.exists() else []
    _arcticseg("sweep", str(_STUDY), f"out={study}", f"common.data.shards={out / 'shards'}", *resume)
    with open(study / "results.csv") as file:
        rows = list(csv.DictReader(file))
    places = (str(out / "shards"), str(out / "further" / "shards"))
    runs = [
        Run(row["model"], float(row[_FRACTION]), int(row["seed"]), test_scores(study / row["run"], places))
        for row in rows
    ]
    pays, tables = _tables(runs)
    minutes = (time.monotonic() - began) / 60
    about = f"Made in {minutes:.0f} min on {_machine()}." if not resume else f"Made on {_machine()}."
    tables += f"\n\n{_decoders(study, runs)}"
    page = _PAGE.read_text()
    first, last = page.index(_BEGIN) + len(_BEGIN), page.index(_END)
    write_text(_PAGE, f"{page[:first]}\n\n{tables}\n\n![{_TITLE}]({_PLOT.name})\n\n{about}\n\n{page[last:]}")
    _plot(runs)
    print(tables)
    print(
        f"{'PASS' if pays else 'FAIL'}: pretraining {'pays' if pays else 'does not pay'} at {_ASKED:.0%} of the labels"
    )
    return 0 if pays else 1


def _prepare(out: Path) -> None:
    """Scenes and shards."""
    make_folder(out)
    _make(out, _SCENES, _SEEDS[0], val="0.15", test="0.25")
    # Some scenes must be left for a training, which is none here.
    _make(make_folder(out / "further"), _FURTHER, _SEEDS[1], val="0", test="0.99")


def _make(out: Path, number: int, seed: int, val: str, test: str) -> None:
    """Scenes, and shards of them."""
    scenes, lists, shards = out / "scenes", out / "lists", out / "shards"
    if not (shards / "manifest.json").exists():
        _arcticseg("simulate", str(scenes), "--n", str(number), "--size", str(_PIXELS), "--seed", str(seed))
        _arcticseg("shards", "split", str(scenes), "--out", str(lists), "--val", val, "--test", test)
        _arcticseg(
            *("shards", "build", str(scenes), "--out", str(shards), "--lists", str(lists)),
            *("--factors", "8", "--tile", "64", "--workers", "2"),
        )


def _arcticseg(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "launchers.cli", *arguments], check=True)


def test_scores(run: Path, shards: tuple[str, ...]) -> dict[str, float | None]:
    """Scores of a run's best weights on all tiles of the test scenes of some shards, at the factor of its training."""
    cfg = run_config.load(run / CONFIG)
    cfg = replace(cfg, data=replace(cfg.data, shards=shards))
    predictor = load_predictor(run, device="cpu")
    selection = build.selection_of(cfg, build.open_sets(cfg), "test")
    counts = empty_confusions()
    with torch.inference_mode():
        for batch, n in build.passes_over(cfg, selection, predictor.tile, Share(0, 1, 8, 8), pin_memory=False):
            inputs = predictor.assemble(batch)
            outputs = predictor.model(inputs.seen)
            for chart, output in outputs.items():
                classes = predictor.model.head(chart).classes(output)[:n].numpy()
                labels = inputs.labels[:n, CHARTS.index(chart)].numpy()
                counts[chart] += confusion(labels, classes, N_CLASSES[chart])
    return scores(counts)


def _tables(runs: Sequence[Run]) -> tuple[bool, str]:
    """Whether pretraining pays where it is asked, and the page's tables."""
    fractions = sorted({run.fraction for run in runs})
    lines = [
        "| network | labels | SIC | SOD | FLOE | combined |",
        "|---|---|---|---|---|---|",
    ]
    for model, title in _NAMES.items():
        for fraction in fractions:
            own = [run for run in runs if (run.model, run.fraction) == (model, fraction)]
            cells = [_spread([run.scores[name] for run in own]) for name in (*CHARTS, "combined")]
            lines.append(f"| {title} | {fraction:.0%} | {' | '.join(cells)} |")
    lines += [
        "",
        "Pretrained less from scratch, combined score, paired by seed:",
        "",
        "| labels | by seed | mean | standard deviation | mean above it |",
        "|---|---|---|---|---|",
    ]
    pays = False
    for fraction in fractions:
        gains = _gains(runs, fraction, fraction)
        holds = mean(gains) > stdev(gains)
        pays = holds if fraction == _ASKED else pays
        each = ", ".join(f"{gain:+.2f}" for gain in gains)
        lines.append(
            f"| {fraction:.0%} | {each} | {mean(gains):+.2f} | {stdev(gains):.2f} | {'yes' if holds else 'no'} |"
        )
    gains = _gains(runs, 0.4, 1.0)
    lines += [
        "",
        f"Pretrained at 40 % less from scratch at 100 %: {', '.join(f'{gain:+.2f}' for gain in gains)}, "
        f"mean {mean(gains):+.2f}.",
    ]
    return pays, "\n".join(lines)


def _decoders(study: Path, runs: Sequence[Run]) -> str:
    """The table of decoders: blocks, arithmetic, scores of what was fine-tuned from the pretrainings."""
    lines = [
        f"Decoders of the masked autoencoder, at {_ASKED:.0%} of the labels, for an encoder of 6 blocks:",
        "",
        "| blocks | MFLOP a sample | combined | by seed |",
        "|---|---|---|---|",
    ]
    for model, pretraining in _DECODERS.items():
        own = sorted((run for run in runs if (run.model, run.fraction) == (model, _ASKED)), key=lambda run: run.seed)
        cfg = run_config.load(study / "pretrain" / f"{pretraining}-seed-{own[0].seed}" / CONFIG)
        # Not by the clock, as several trainings share the machine.
        work = work_of(cfg, build.open_sets(cfg)[0].manifest.tile, 2)
        combined = [float(run.scores["combined"] or 0) for run in own]
        each = ", ".join(f"{score:.1f}" for score in combined)
        cost = f"{work.flops_a_sample / 1e6:.0f}"
        lines.append(f"| {cfg.pretrain.decoder_depth} | {cost} | {_spread(combined)} | {each} |")
    return "\n".join(lines)


def _gains(runs: Sequence[Run], pretrained: float, scratch: float) -> list[float]:
    """Combined scores of the pretrained ViT less those of the ViT from scratch, by seed."""

    def combined(model: str, fraction: float) -> dict[int, float]:
        return {
            run.seed: float(run.scores["combined"] or 0)
            for run in runs
            if (run.model, run.fraction) == (model, fraction)
        }

    first, second = combined("vit_pretrained", pretrained), combined("vit_scratch", scratch)
    return [first[seed] - second[seed] for seed in sorted(first)]


def _spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation of a sample."""
    known = [value for value in values if value is not None]
    return f"{mean(known):.1f} ± {stdev(known):.1f}" if len(known) > 1 else "-"


def _machine() -> str:
    """Processor and versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = f"{len(names)} x {names[0]}" if names else model
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "deepspeed", "timm"))
    return f"{model}, Python {platform.python_version()}, {packages}"


def _plot(runs: Sequence[Run]) -> None:
    """Combined score over the share of labels: a line for each network, a dot for each run."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    for colour, (model, title) in zip(("C0", "C1", "C2"), _NAMES.items(), strict=True):
        own = [run for run in runs if run.model == model and run.scores["combined"] is not None]
        fractions = sorted({run.fraction for run in own})
        means = [mean(float(r.scores["combined"] or 0) for r in own if r.fraction == f) for f in fractions]
        axes.plot([100 * f for f in fractions], means, color=colour, label=title)
        axes.scatter([100 * run.fraction for run in own], [run.scores["combined"] for run in own], s=12, color=colour)
    axes.set_xscale("log")
    axes.set_xticks([10, 20, 40, 100], ["10", "20", "40", "100"])
    axes.set_xlabel("labelled scenes, % of 144")
    axes.set_ylabel("combined score, test tiles at 320 m")
    axes.set_title(_TITLE)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(_PLOT, dpi=120)


if __name__ == "__main__":
    sys.exit(main())

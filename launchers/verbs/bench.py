"""Measure a config's training on this machine: beside a bare loop, and the loader alone; say what bounds it.

Nothing is kept: no run folder, no weights. Without a GPU a small stand-in of the network is measured, whose size is
told. Where the config's shards are not there, simulated ones take their place.

    arcticseg bench pretrain_vit data.shards=shards
    arcticseg bench finetune_vit data.workers=14 engine.micro_batch_size=64 --out bench.jsonl
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launchers.imports import add_import_argument
from launchers.terminal import plain_warnings, show

if TYPE_CHECKING:
    from arcticseg.run.config import RunConfig
    from arcticseg.speed.bench import Effort


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg bench`."""
    parser.add_argument("config", help="config file, or name of a shipped one")
    parser.add_argument("overrides", nargs="*", help="key=value, such as engine.micro_batch_size=64")
    parser.add_argument("--out", type=Path, help="file to add the rows to, a line of JSON each")
    parser.add_argument("--steps", type=int, help="steps on the clock (default: 60 on a GPU, 10 without)")
    add_import_argument(parser)


def main(arguments: argparse.Namespace) -> None:
    """Measure and tell."""
    from arcticseg.run.config import load

    with plain_warnings(), tempfile.TemporaryDirectory(prefix="arcticseg-bench-") as folder:
        cfg = load(arguments.config, arguments.overrides, arguments.imports)
        import torch

        cuda = torch.cuda.is_available()
        shards, text = _shards(cfg, Path(folder), cuda)
        if text:
            show(text)
        _measure(arguments, cfg, [*arguments.overrides, *shards], cuda)


def _measure(arguments: argparse.Namespace, cfg: RunConfig, given: list[str], cuda: bool) -> None:
    from arcticseg.engine.config import accumulation_steps
    from arcticseg.run.config import load
    from arcticseg.speed import bench, standin

    small = [] if cuda else standin.on_cpu(cfg)
    if small:
        show(f"no GPU: a stand-in of {arguments.config} is measured, with {' '.join(standin.sizes(small))}")
    sized = load(arguments.config, [*given, *(standin.on_gpu(cfg) if cuda else small)], arguments.imports)
    of_ranks = None if cuda else load(arguments.config, [*given, *standin.on_cpu(cfg, 2)], arguments.imports)
    show(
        f"micro batch {accumulation_steps(sized.engine, 1)[0]}, {sized.engine.precision}, {sized.data.workers} workers"
    )
    measured = {}
    for name, row in bench.rows(sized, _effort(arguments.steps, cuda), of_ranks):
        measured[name] = row
        show(bench.line(name, row))
        if arguments.out:
            with open(arguments.out, "a", encoding="utf-8") as file:
                file.write(json.dumps({"config": arguments.config, "what": name} | row) + "\n")
    show(bench.verdict(measured))


def _effort(steps: int | None, cuda: bool) -> Effort:
    from arcticseg.speed.bench import Effort
    from arcticseg.speed.clock import Phases

    if cuda:
        return Effort(Phases(warmup=20, timed=steps or 60, watched=9, profiled=5), seconds=3.0)
    return Effort(Phases(warmup=5, timed=steps or 10), seconds=1.0, ranks=2)


def _shards(cfg: RunConfig, folder: Path, cuda: bool) -> tuple[Sequence[str], str | None]:
    """Overrides that name shards, and what to say: the config's own, or simulated ones where these are not there."""
    from arcticseg.data.manifest import MANIFEST
    from arcticseg.data.source import is_remote
    from arcticseg.speed.standin import CPU_TILE

    if all(is_remote(place) or (Path(place) / MANIFEST).is_file() for place in cfg.data.places):
        return [], None
    tile = 384 if cuda else CPU_TILE
    made = make_shards(folder, tile)
    overrides = [
        f"data.shards={made}",
        "data.factors=[2]",
        "data.weights={}",
        "data.set_weights=[]",
        "data.scenes=null",
    ]
    text = f"{', '.join(cfg.data.places)}: no shards there; simulated ones, tiles of {tile} pixels, take their place"
    return overrides, text


def make_shards(folder: Path, tile: int) -> Path:
    """Shards of a simulated scene with 16 tiles or more, at factor 2, all for training."""
    from arcticseg.ice.scenes.open import list_scenes
    from shards.build import build
    from shards.part import BuildConfig
    from shards.simulate import simulate_archive

    simulate_archive(folder / "scenes", 1, 0, (max(600, 8 * tile + 128),) * 2)
    scenes = {"train": list_scenes(folder / "scenes")}
    build(scenes, folder / "shards", BuildConfig(tile=tile, factors=(2,)), report=lambda text: None)
    return folder / "shards"

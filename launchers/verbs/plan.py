"""Tell what a config needs and does on other machines: memory, speed, data rate, size of checkpoints, run time.

No GPU and no shards are needed. It is arithmetic on the network, at speeds measured on single GPUs: memory comes within
some 15 %, times within some 30 %. Links between GPUs were not measured; `--network` says what yours give.

    arcticseg plan pretrain_vit --gpu h200 --nodes 16
    arcticseg plan finetune_vit data.shards=shards engine.micro_batch_size=64 --gpu h100 --gpus-per-node 4
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from arcticseg.errors import ConfigError
from launchers.imports import add_import_argument

if TYPE_CHECKING:
    from arcticseg.run.config import RunConfig
    from arcticseg.speed.arithmetic import Work
    from arcticseg.speed.plan import Cluster, Data, Plan

# What an archive of AI4Arctic gives: training scenes and tiles a scene at factors 2 to 10; bytes of a tile of 384.
_SCENES, _TILES, _TILE_BYTES = 480, 437, 350e3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg plan`."""
    parser.add_argument("config", help="config file, or name of a shipped one")
    parser.add_argument("overrides", nargs="*", help="key=value, such as engine.micro_batch_size=64")
    parser.add_argument("--gpu", default="h200", help="GPU: h100 or h200 (default h200)")
    parser.add_argument("--nodes", type=int, default=1, help="machines (default 1)")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="GPUs of a machine (default 8)")
    parser.add_argument(
        "--network", type=float, default=50.0, help="GB/s of a GPU to other machines, one way (default 50: 400 Gb/s)"
    )
    parser.add_argument("--samples", type=int, help="training samples (default: of the shards, or of all AI4Arctic)")
    add_import_argument(parser)


def main(arguments: argparse.Namespace) -> None:
    """Plan and tell."""
    from dataclasses import replace

    from arcticseg.run.build import tile_of
    from arcticseg.run.config import load
    from arcticseg.speed.machines import GPUS
    from arcticseg.speed.network import work_of
    from arcticseg.speed.plan import Cluster, make_plan, sized
    from launchers.terminal import plain_warnings, show

    if arguments.gpu not in GPUS:
        raise ConfigError(f"--gpu is '{arguments.gpu}'; set one of {', '.join(GPUS)}: others were not measured")
    for name in ("nodes", "gpus_per_node", "network"):
        if getattr(arguments, name) <= 0:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} is {getattr(arguments, name)}; set a positive number")
    with plain_warnings():
        cfg = load(arguments.config, arguments.overrides, arguments.imports)
        gpu = GPUS[arguments.gpu]
        cluster = Cluster(gpu, arguments.nodes, arguments.gpus_per_node, arguments.network * 1e9)
        engine = sized(cfg, cluster)
        tile = tile_of(cfg.data)
        micro = engine.micro_batch_size or engine.global_batch_size // cluster.ranks
        work = work_of(replace(cfg, engine=engine), tile, micro)
        data, said = _data(cfg, tile, arguments.samples)
    show("\n".join(_lines(arguments.config, cfg, work, cluster, make_plan(cfg, work, cluster, data))))
    show(said)


def _data(cfg: RunConfig, tile: int, samples: int | None) -> tuple[Data, str]:
    """What is trained on, and where that is known from."""
    from pathlib import Path

    from arcticseg.data.manifest import MANIFEST
    from arcticseg.run import build
    from arcticseg.speed.plan import Data

    if all((Path(place) / MANIFEST).is_file() for place in cfg.data.places):
        selection = build.selection_of(cfg, build.open_sets(cfg), "train")
        count = samples or len(selection)
        return Data(count, float(selection.size.mean())), f"samples: {count}, of {', '.join(cfg.data.places)}"
    count = samples or round(_SCENES * _TILES * cfg.data.label_fraction)
    size = _TILE_BYTES * (tile / 384) ** 2
    return Data(count, size), (
        f"samples: {count} of {size / 1e3:.0f} kB, assumed, as {', '.join(cfg.data.places)} is not here "
        f"({_SCENES} scenes of {_TILES} tiles where --samples is not given)"
    )


def _lines(name: str, cfg: RunConfig, work: Work, cluster: Cluster, plan: Plan) -> list[str]:
    gpu, own = cluster.gpu, cfg.engine.global_batch_size
    raised = "" if plan.global_batch == own else f"; the config's {own} do not divide, so this is planned"
    stage = cfg.engine.zero_stage
    lines = [
        f"{name} on {cluster.nodes} x {cluster.gpus} {gpu.name}, ZeRO {stage}, {cfg.engine.precision}",
        f"network     {work.parameters / 1e6:.1f} M parameters, {work.flops_a_sample / 1e12:.3f} TFLOP a sample",
        f"batch       {plan.global_batch} = {cluster.ranks} ranks x {plan.accumulation} x {plan.micro}{raised}",
    ]
    for number, needed in plan.memory.items():
        largest = plan.largest[number]
        fits = f"fits; largest micro batch {largest}" if needed <= gpu.memory else "does not fit"
        chosen = " (this config)" if number == stage else ""
        lines.append(f"ZeRO {number}      {needed / 1e9:.1f} of {gpu.memory / 1e9:.0f} GB a GPU: {fits}{chosen}")
    feeds = "enough" if plan.loader > plan.rate else "too few: raise data.workers"
    parts = f"network {1e3 * plan.network:.1f}, optimiser {1e3 * plan.optimiser:.1f}, talk {1e3 * plan.talk:.1f}"
    link = "assumed network" if cluster.nodes > 1 else "links of the vendor's data sheet"
    return [
        *lines,
        f"step        {1e3 * plan.step:.1f} ms: {parts} ({cluster.link / 1e9:.0f} GB/s, {link}, not overlapped)",
        f"speed       {plan.rate:.0f} samples/s, {plan.share:.0%} of the GPUs' matrix product",
        f"data        {plan.read / 1e6:.0f} MB/s from shards, {plan.read / 1e6 / cluster.nodes:.0f} a node; "
        f"{cfg.data.workers} workers a rank can give {plan.loader:.0f} samples/s: {feeds}",
        f"checkpoint  {plan.checkpoint / 1e9:.2f} GB",
        f"run         {plan.steps} steps, {_duration(plan.seconds)}, validation apart",
    ]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

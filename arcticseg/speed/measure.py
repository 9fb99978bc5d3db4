"""Measures a config's training on this machine, part by part: each function gives one row of numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arcticseg.data.batch import Batch
from arcticseg.data.loader import Loader
from arcticseg.data.select import ShardSet
from arcticseg.data.transforms import Assemble
from arcticseg.data.webdataset_reader import WebDatasetLoader
from arcticseg.engine import process_group
from arcticseg.engine.config import accumulation_steps
from arcticseg.engine.deepspeed_engine import DTYPES
from arcticseg.engine.process_group import Ranks
from arcticseg.models.drop_path import sample_seeds
from arcticseg.run import build
from arcticseg.run.config import RunConfig
from arcticseg.run.start import run
from arcticseg.speed.arithmetic import Work
from arcticseg.speed.bare import Bare, BareDeepSpeed, Masters, plain_engine
from arcticseg.speed.clock import Clock, MeasuredError, Phases, middle
from arcticseg.speed.device import free, synchronise
from arcticseg.speed.network import work_of
from arcticseg.speed.turns import COMPILED, TurnOnTheClock

Row = dict[str, Any]
# Edge of the square matrices whose product says what a device can do: on a GPU, on a CPU.
_PRODUCT = {"cuda": 8192, "cpu": 1024}
# Batches that the bare loop goes over.
_HELD = 4


def machine(device: torch.device) -> Row:
    """The device's name, its matrix product in the precision of training, its memory's bandwidth."""
    cuda = device.type == "cuda"
    edge, dtype = _PRODUCT[device.type], torch.bfloat16 if cuda else torch.float32
    tflops = product_tflops(device, edge)
    source = torch.empty((1 << 31) if cuda else (1 << 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copying = _timed(lambda: target.copy_(source), device, 10)
    name = torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads"
    return {
        "device": name,
        "torch": torch.__version__,
        "product": f"{edge}^3 {str(dtype).removeprefix('torch.')}",
        "product_tflops": tflops,
        "copy_gb_per_s": 2 * source.nbytes / copying / 1e9,
    }


def product_tflops(device: torch.device, edge: int, times: int = 10) -> float:
    """What a product of square matrices reaches on a device: of bfloat16 on a GPU, of float32 on a CPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(2))
    return 2 * edge**3 / _timed(lambda: a @ b, device, times) / 1e12


def _timed(act: Any, device: torch.device, times: int) -> float:
    """Seconds a call."""
    for _ in range(3):
        act()
    synchronise(device)
    began = time.perf_counter()
    for _ in range(times):
        act()
    synchronise(device)
    return (time.perf_counter() - began) / times


def trainer(cfg: RunConfig, phases: Phases, communication: bool = False, out: Path | None = None) -> Row:
    """The real training, from its loader to its hooks; every rank of the job calls this.

    Validation, checkpoint and weights come after what is measured, and are left out. A process that measures more than
    one training does so within `process_group.kept`.

    Args:
        communication: measure how long ranks talk, too.
        out: a folder for the run, the same on all ranks; None: one that is gone at the end.
    """
    clock = Clock(phases, cfg.engine.global_batch_size, communication)
    with contextlib.ExitStack() as stack:
        if out is None:
            made = tempfile.TemporaryDirectory(prefix="arcticseg-bench-", ignore_cleanup_errors=True)
            out = Path(stack.enter_context(made)) / "run"
        measured = dataclasses.replace(cfg, steps=phases.total, epochs=None, out=str(out))
        # The progress bar is for a person.
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        with contextlib.suppress(MeasuredError):
            run(measured, extra=[clock])
    free()
    return clock.row


def loader_alone(cfg: RunConfig, device: torch.device, seconds: float) -> Row:
    """The loader of a rank without anything behind it."""
    with contextlib.closing(_loader(cfg, build.open_sets(cfg), device)) as loader:
        for _ in range(3):
            loader.step(), loader.stepped()
        steps, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            loader.step(), loader.stepped()
            steps += 1
        rate = steps * cfg.engine.global_batch_size / (time.perf_counter() - began)
    return {"samples_per_s": rate, "workers": cfg.data.workers}


def bare(cfg: RunConfig, device: torch.device, warmup: int, steps: int) -> Row:
    """A loop of the same network over batches that lie on the device, with the same assembly and compile setting.

    One micro batch is one step.
    """
    micro, _ = accumulation_steps(cfg.engine, 1)
    one = dataclasses.replace(cfg, engine=dataclasses.replace(cfg.engine, global_batch_size=micro))
    row = _run_bare(_bare_loop(one, device), device, warmup, steps)
    free()
    return {"samples_per_s": 1e3 * micro / row["step_ms"]} | row


def _bare_loop(cfg: RunConfig, device: torch.device) -> Bare:
    parts = _Parts(cfg, device)
    batches = parts.held(_HELD)
    network = parts.network.to(device)
    masters = Masters(network, cfg.optim)
    network = network.to(parts.dtype)
    called: Any = network
    if cfg.engine.compile:
        # As the engine and the start of a training do.
        called = torch.compile(network, dynamic=False)
        parts.task.compile(dynamic=False)
    return Bare(called, parts.task, parts.assemble, batches, masters, parts.dtype)


def _run_bare(loop: Bare, device: torch.device, warmup: int, steps: int) -> Row:
    turn = TurnOnTheClock()
    for number in range(warmup):
        if number == COMPILED:
            turn.take()
        loop.step()
    assembling = _timed(lambda: loop.assemble(loop.batches[0]), device, 5)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    synchronise(device)
    began = time.perf_counter()
    for _ in range(steps):
        loop.step()
    synchronise(device)
    row: Row = {"step_ms": 1e3 * (time.perf_counter() - began) / steps, "assemble_ms": 1e3 * assembling}
    if device.type == "cuda":
        row["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    turn.give()
    return row


def overhead(cfg: RunConfig, phases: Phases, pairs: int) -> Row:
    """The trainer beside a bare loop around a DeepSpeed engine, one after the other, several times.

    Both have the same network, loader and assembly; median, least and greatest of the pairs' ratios, in time and in the
    CPU time of the process, which other work on the machine disturbs less.
    """
    ours, plain = [], []
    with process_group.kept():
        for number in range(pairs):
            # Either goes first, so that neither gains from it.
            if number % 2:
                plain.append(_deepspeed(cfg, phases))
            ours.append(trainer(cfg, phases))
            if number % 2 == 0:
                plain.append(_deepspeed(cfg, phases))

    def ratios(name: str) -> tuple[float, float, float]:
        return middle([mine[name] / other[name] - 1 for mine, other in zip(ours, plain, strict=True)])

    share, least, greatest = ratios("step_ms")
    of_cpu = dict(zip(("cpu_overhead", "cpu_least", "cpu_greatest"), ratios("cpu_s_a_step"), strict=True))
    return {"overhead": share, "least": least, "greatest": greatest, **of_cpu, "pairs": pairs}


def _deepspeed(cfg: RunConfig, phases: Phases) -> Row:
    """A bare loop around a DeepSpeed engine on one rank."""
    with process_group.kept() as ranks:
        parts = _Parts(cfg, ranks.device)
        torch.set_num_threads(cfg.engine.threads or torch.get_num_threads())
        engine = plain_engine(parts.network, cfg.engine, cfg.optim, ranks)
        engine.train()
        loop = BareDeepSpeed(engine, parts.task, parts.assemble, parts.loader, parts.ready, parts.dtype)
        with contextlib.closing(parts.loader):
            for _ in range(phases.warmup):
                loop.step()
            synchronise(ranks.device)
            cpu, began = time.process_time(), time.perf_counter()
            for _ in range(phases.timed):
                loop.step()
            synchronise(ranks.device)
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    free()
    return {"step_ms": 1e3 * seconds / phases.timed, "cpu_s_a_step": cpu / phases.timed}


def efficiency(work: Work, samples_per_s: float, product_tflops: float) -> Row:
    """Operations that a rate of training stands for, and their share of what the device's matrix product reaches."""
    tflops = work.flops_a_sample * samples_per_s / 1e12
    return {"tflop_a_sample": work.flops_a_sample / 1e12, "tflops": tflops, "mfu": tflops / product_tflops}


def work_here(cfg: RunConfig) -> Work:
    """The work of a micro batch of a config, tiles as large as those of its shards."""
    tile = build.open_sets(cfg)[0].manifest.tile
    return work_of(cfg, tile, accumulation_steps(cfg.engine, 1)[0])


def _copied(batch: Batch) -> Batch:
    """A batch in memory of its own, not in the ring's."""
    tensors = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    copies: dict[str, Any] = {name: value.clone() for name, value in tensors.items() if isinstance(value, Tensor)}
    return dataclasses.replace(batch, **copies)


def _loader(cfg: RunConfig, sets: Sequence[ShardSet], device: torch.device) -> Loader | WebDatasetLoader:
    """The loader of one rank."""
    selection = build.selection_of(cfg, sets, "train")
    share = build.share_of(cfg, Ranks(0, 0, 1, 1, device))
    return build.loader_of(cfg, selection, sets[0].manifest.tile, share, pin_memory=device.type == "cuda")


class _Parts:
    """A network, its task, a loader and what makes inputs of its batches, for one rank."""

    def __init__(self, cfg: RunConfig, device: torch.device) -> None:
        sets = build.open_sets(cfg)
        self._device, self._seed, self.dtype = device, cfg.seed, DTYPES[cfg.engine.precision]
        self.network = build.build_model(cfg, sets[0].manifest.tile)
        self.task = build.build_task(cfg, self.network)
        self.loader = _loader(cfg, sets, device)
        statistics = build.statistics_of(cfg, sets)
        want = self.task.want(self.dtype)
        self.assemble = Assemble.of(cfg.data, statistics, want, compiled=cfg.engine.compile)

    def ready(self, batch: Batch) -> Batch:
        """A batch of the loader with all that is drawn for it, on the device."""
        drawn = self.task.draw(batch.place.tolist(), batch.size)
        seeds = sample_seeds(self._seed, 0, batch.place)
        return self.assemble.moved(dataclasses.replace(batch, drawn=drawn, seeds=seeds), self._device)

    def held(self, count: int) -> list[Batch]:
        """The first micro batches, on the device, in memory of their own; closes the loader."""
        with contextlib.closing(self.loader):
            batches = []
            for _ in range(count):
                batches.append(self.ready(_copied(self.loader.step()[0])))
                self.loader.stepped()
        synchronise(self._device)
        return batches

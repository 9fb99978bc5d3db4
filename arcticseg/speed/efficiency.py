"""A hook that tells which share of its device's speed a training reaches (MFU)."""

from __future__ import annotations

import warnings

import torch

from arcticseg.engine.hooks.hook import Hook, Training, Values
from arcticseg.run.config import RunConfig
from arcticseg.speed.device import free
from arcticseg.speed.measure import product_tflops
from arcticseg.speed.network import work_of

# Edge and number of the products that say what a device reaches: some milliseconds.
_PRODUCTS = {"cuda": (8192, 3), "cpu": (512, 4)}


class Efficiency(Hook):
    """Adds `speed/tflops_a_gpu` and `speed/mfu` to log lines of rank 0, the only one that logs.

    As of `arcticseg bench`: operations of forward and backward, counted without a device, that the rate of training
    stands for, and their share of what a matrix product reaches on rank 0's device, measured once at the start: of
    bfloat16 on a GPU, of float32 on the CPU threads of a rank. With stages the operations are those of the last.
    """

    name = "efficiency"

    def __init__(self, cfg: RunConfig) -> None:
        self._cfg = cfg
        self._flops: float | None = None

    def on_start(self, training: Training) -> None:
        if not training.ranks.is_main or self._flops is not None:
            return
        device = training.ranks.device
        try:
            # What is drawn here is no part of the training.
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                work = work_of(self._cfg, int(training.metadata["tile"]), 1)
                self._peak = product_tflops(device, *_PRODUCTS[device.type])
                free()
            self._flops, self._ranks = work.flops_a_sample, training.ranks.world_size
        # A network from elsewhere may do what cannot be counted.
        except Exception as error:
            warnings.warn(f"no MFU is told: {type(error).__name__}: {' '.join(str(error).split())[:200]}", stacklevel=2)

    def logged(self, values: Values) -> dict[str, float]:
        if self._flops is None:
            return {}
        tflops = self._flops * float(values["samples_per_s"]) / self._ranks / 1e12
        return {"speed/tflops_a_gpu": float(f"{tflops:.4g}"), "speed/mfu": float(f"{tflops / self._peak:.4g}")}

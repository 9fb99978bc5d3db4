"""The device that is measured."""

from __future__ import annotations

import gc

import torch


def device_here() -> torch.device:
    """The device that a training of one rank would use."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def synchronise(device: torch.device) -> None:
    """Wait for all work on a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free() -> None:
    """Give memory back before the next measurement."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

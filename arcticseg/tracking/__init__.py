"""Logs of a run: metrics.jsonl, which is always written, wandb, and TensorBoard by choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from arcticseg.tracking.board import Board, check_installed
from arcticseg.tracking.config import TrackingConfig
from arcticseg.tracking.identity import begin
from arcticseg.tracking.jsonl import Jsonl, restore_metrics
from arcticseg.tracking.mode import wandb_mode
from arcticseg.tracking.tracker import Confusions, Tracker
from arcticseg.tracking.wandb_run import Wandb

__all__ = [
    "Confusions",
    "Jsonl",
    "RunFacts",
    "Tracker",
    "TrackingConfig",
    "Wandb",
    "check_installed",
    "make_trackers",
    "restore_metrics",
    "wandb_mode",
]


@dataclass(frozen=True)
class RunFacts:
    """What logs tell of a run beside its values.

    Attributes:
        name: of the run.
        config: resolved.
        facts: what else is known at a start: versions, code, fingerprint of the samples, ranks.
    """

    name: str
    config: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


def make_trackers(folder: Path, cfg: TrackingConfig, run: RunFacts, keep_until: int = 0) -> list[Tracker]:
    """metrics.jsonl, wandb unless it is off, TensorBoard where it is asked for.

    Args:
        keep_until: steps that are done; logs go on after them.

    Raises:
        OutputError: the folder cannot be written to.
    """
    wanted = wandb_mode(cfg) != "off"
    # Asks metrics.jsonl how far wandb has seen, before it is cut.
    identity = begin(folder, keep_until) if wanted else None
    jsonl = Jsonl(folder, keep_until)
    trackers: list[Tracker] = [jsonl]
    if run.facts:
        jsonl.log("run", keep_until, run.facts)
    if identity is not None:
        trackers.append(Wandb(folder, cfg, {**run.config, "run": dict(run.facts)}, run.name, identity, keep_until))
    if cfg.tensorboard:
        text = yaml.safe_dump({**run.config, "run": dict(run.facts)}, sort_keys=False)
        trackers.append(Board(folder, text, keep_until))
    return trackers

"""Which logs a run has besides metrics.jsonl."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from arcticseg.errors import need

PROJECT = "arcticseg"


@dataclass(frozen=True)
class TrackingConfig:
    """Logs besides metrics.jsonl."""

    # auto: online with a key or a login, else offline; WANDB_MODE can only make it less.
    wandb: Literal["auto", "offline", "off"] = "auto"
    project: str = PROJECT
    group: str | None = None
    # Event files for TensorBoard, too.
    tensorboard: bool = False
    # Count the network's operations at the start, for the share of the device's speed that a training reaches.
    mfu: bool = True
    # Steps between log lines.
    every: int = 10

    def __post_init__(self) -> None:
        need(self.every > 0, "every", self.every, "set 1 or more")
        good = 0 < len(self.project) <= 128 and not set(self.project) & set("/\\#?%:")
        need(good, "project", self.project, "set a name of at most 128 characters without / \\ # ? % :")
        need(self.group != "", "group", "", "set a name, or null")

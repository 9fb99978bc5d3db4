"""A hook that makes each step take longer, so that tests can end trainings under way; they give it by --import."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from arcticseg.engine.config import HookConfig
from arcticseg.engine.hooks.hook import Hook, Values


class Slow(Hook):
    """Sleeps after each step."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_step(self, step: int, values: Values | None) -> None:
        time.sleep(self.seconds)


@dataclass(frozen=True)
class SlowConfig(HookConfig):
    """A pause after each step."""

    name: str = "slow"
    seconds: float = 0.1

    implementation: ClassVar[str] = f"{__name__}:Slow"


HookConfig.table["slow"] = SlowConfig

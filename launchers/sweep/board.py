"""How each trial of a study stands, while it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arcticseg.run.folder import LOG
from launchers.status import DONE, INTERRUPTED, PROBLEMS
from launchers.sweep import standings
from launchers.sweep.standings import Standing
from launchers.sweep.study import Phase, Trial
from launchers.sweep.trial import FAILURE
from launchers.terminal import note, show


class Board:
    """How the trials stand; tells on the terminal what happens to them, and keeps the results files up to date."""

    def __init__(self, out: Path, trials: Sequence[Trial], simulated: bool, stopped: set[str]) -> None:
        self.out, self.simulated, self.interrupted = out, simulated, False
        self.standings = {trial.key: self._first(trial, stopped) for trial in trials}
        self._began: dict[str, float] = {}
        self._failures: dict[str, str] = {}

    @staticmethod
    def _first(trial: Trial, stopped: set[str]) -> Standing:
        if trial.finished:
            return standings.standing(trial, "finished")
        return standings.standing(trial, "stopped" if trial.key in stopped else "open", "not run")

    def waiting(self, phase: Phase) -> list[Trial]:
        """Trials of a phase that are still to run."""
        open_trials = [standing.trial for standing in self.standings.values() if standing.status == "open"]
        return [trial for trial in open_trials if trial.phase == phase]

    def started(self, key: str) -> None:
        """Note that a trial began."""
        self._began[key] = time.monotonic()
        note(f"{key}: started, log in {self.standings[key].trial.folder / LOG}")

    def reported(self, key: str, result: Mapping[str, Any]) -> None:
        """Note a validation, or why a trial is about to fail."""
        if FAILURE in result:
            self._failures[key] = result[FAILURE]
            return
        scores = [f"{name} {result[name]:.2f}" for name in (*standings.SCORES, "reconstruction") if name in result]
        if scores:
            note(f"{key}: validation at step {result['step']}: {'  '.join(scores)}")

    def failed(self, key: str, reason: str | None = None) -> None:
        """Note that a trial failed; without a reason here, it has reported one before, or its worker was killed."""
        self.ended(key, reason or self._failures.get(key, "its Ray worker died, perhaps because memory ran out"))

    def ended(self, key: str, reason: str | None = None) -> None:
        """Note that a trial ended, with a reason where it failed."""
        trial = self.standings[key].trial
        if reason is not None:
            standing = standings.standing(trial, "failed", reason)
        else:
            standing = standings.standing(trial, "finished" if trial.finished else "stopped")
        self.standings[key] = standing
        ended = sum(other.status != "open" for other in self.standings.values())
        seconds = time.monotonic() - self._began.get(key, time.monotonic())
        why = f": {reason}" if reason else f" after {seconds:.0f} s"
        note(f"{key}: {standing.status}{why} [{ended}/{len(self.standings)}]")
        self.write()

    def write(self) -> None:
        """Write the results files."""
        standings.write(self.out, list(self.standings.values()), self.simulated)

    def close(self) -> int:
        """Print the table and what went wrong; the exit status."""
        self.write()
        all_standings = list(self.standings.values())
        show(standings.table(all_standings, self.simulated))
        show(self.out / standings.TABLE)
        for standing in all_standings:
            if standing.status == "failed":
                note(f"{standing.trial.key}: failed: {standing.reason}")
        if self.interrupted:
            note("arcticseg: stopped; go on with --resume")
            return INTERRUPTED
        return DONE if all(standing.status in ("finished", "stopped") for standing in all_standings) else PROBLEMS

"""The share of a step that ranks spend on talking, measured on two ranks of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from arcticseg import config
from arcticseg.errors import ArcticSegError
from arcticseg.processes import ending_with
from arcticseg.ranks import free_port, without_rank_variables
from arcticseg.run.config import RunConfig, load
from arcticseg.speed.clock import Phases
from arcticseg.speed.turns import VARIABLE, TurnOnTheClock

# Seconds in which two ranks must be done.
_PATIENCE = 600


def communication(cfg: RunConfig, phases: Phases, ranks: int = 2) -> dict[str, Any]:
    """What rank 0 measures of a training on so many ranks, each a process of its own.

    Raises:
        ArcticSegError: a rank failed.
    """
    with tempfile.TemporaryDirectory(prefix="arcticseg-ranks-") as folder:
        said, result = Path(folder) / "config.yaml", Path(folder) / "row.json"
        said.write_text(config.dump(cfg))
        arguments = [said, result, phases.warmup, phases.timed]
        command = [sys.executable, "-m", "arcticseg.speed.ranks", *map(str, arguments)]
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
        address |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
        environment = without_rank_variables(os.environ) | address
        # Ranks that waited for one another's turn would wait for ever: it is taken once, for all of them.
        environment.pop(VARIABLE, None)
        turn = TurnOnTheClock()
        turn.take()
        processes = [
            subprocess.Popen(
                command,
                env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=ending_with(os.getpid()),
            )
            for rank in range(ranks)
        ]
        try:
            errors = [process.communicate(timeout=_PATIENCE)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
            turn.give()
        if not result.exists():
            raise ArcticSegError(f"the training on {ranks} ranks failed: {errors[0].strip()[-600:]}")
        row: dict[str, Any] = json.loads(result.read_text())
        return row


def main(said: str, result: str, warmup: str, timed: str) -> None:
    """One rank."""
    from arcticseg.ranks import is_main_rank
    from arcticseg.speed.measure import trainer

    phases, out = Phases(int(warmup), int(timed)), Path(said).with_name("run")
    row = trainer(load(said), phases, communication=True, out=out)
    if is_main_rank():
        Path(result).write_text(json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])

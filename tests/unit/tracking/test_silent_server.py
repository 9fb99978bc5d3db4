"""A server of wandb that does not answer never blocks a training."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import wandb_files
from tests.wandb_server import falling_silent

pytest.importorskip("wandb")

# Seconds that a step's logs may take, and the end of a run with a second for wandb to finish.
_LOG, _END = 0.5, 30.0

_RUN = """
import sys, time
from pathlib import Path
from arcticseg.tracking import TrackingConfig, Wandb
from arcticseg.tracking.identity import Identity

began = time.monotonic()
tracker = Wandb(Path(sys.argv[1]), TrackingConfig(), {}, "run", Identity("ab12cd34", sys.argv[1]))
for step in range(1, 201):
    before = time.monotonic()
    tracker.log("train", step, {"loss": 1.0})
    print("log", time.monotonic() - before)
    time.sleep(0.01)
before = time.monotonic()
tracker.close()
print("end", time.monotonic() - before, flush=True)
time.sleep(100)  # wandb's own end is killed
"""


@pytest.mark.parametrize(
    ("begins", "told"), [(True, "send the rest by `wandb sync --include-online"), (False, "the run is logged offline")]
)
def test_a_server_that_falls_silent_blocks_neither_steps_nor_the_end(begins: bool, told: str, tmp_path: Path) -> None:
    with falling_silent(begins) as (address, silent):
        variables = {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "2"}
        plain = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(tmp_path)],
            env={**plain, **variables, "WANDB_FINISH_TIMEOUT": "1", "HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=open(tmp_path / "stderr", "w"),  # noqa: SIM115  ends with the test
            text=True,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("end"):
                    break
        finally:
            os.killpg(process.pid, 9)
            process.wait()
        assert silent.is_set()
    seconds = {name: [float(line.split()[1]) for line in lines if line.startswith(name)] for name in ("log", "end")}
    said = (tmp_path / "stderr").read_text()
    assert len(seconds["log"]) == 200, said
    assert max(seconds["log"]) < _LOG
    assert seconds["end"][0] < _END
    assert re.search(re.escape(told), said), said
    # Nothing is lost: all of it is on the disk.
    (file,) = tmp_path.glob(f"wandb/{'' if begins else 'offline-'}run-*/*.wandb")
    assert list(wandb_files.read(file, ended=not begins).rows) == list(range(1, 201))

"""Children end with their parent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

PARENT = """
import os, subprocess, sys, time
from arcticseg.processes import ending_with
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], preexec_fn=ending_with(os.getpid()))
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_child_ends_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = Path(f"/proc/{int(parent.stdout.readline())}")
    assert child.exists()
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while child.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not child.exists()


def test_a_child_whose_parent_has_gone_already_ends_at_once() -> None:
    text = "from arcticseg.processes import ending_with; ending_with(1 << 22)(); print('lives')"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")

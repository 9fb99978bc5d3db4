"""Trainings over two nodes that are killed, and chains of SLURM jobs that are preempted, go on and end as undisturbed.

    python -m tests.cluster --kills 6 --preemptions 4 --seed 0

By ssh: `deepspeed --hostfile` over pdsh between two network namespaces, two ranks each, killed and resumed: a rank of
the second node, the launcher, pdsh alone, or the second node with all its ranks; or started by torchrun, whose second
agent is killed. After each kill all ranks end by themselves; in the end the metrics are those of four ranks that nobody
disturbs. Rank 0 is reached by IPv4 and IPv6 in turn. By SLURM: build array -> pretrain -> fine-tune -> evaluate as
dependent jobs on two nodes, and jobs of more urgency that take their place.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from arcticseg.ranks import free_port
from arcticseg.run.folder import METRICS
from shards.simulate import simulate_archive
from tests import nodes, slurm
from tests.chaos import shards_in
from tests.nodes import ADDRESSES, ADDRESSES_6, Nodes
from tests.slurm import URGENT, Slurm, wait_until
from tests.training import COMMON, MAE, SLOW, UNET, VIT, empty_config, lines, overrides, start

KILLED = ("launcher", "rank", "pdsh", "node", "torchrun")
RANKS = 4
# Steps that a training over ssh does in a round, and those that it has left at the end.
_STEPS, _LAST = 4, 30
# Seconds in which all ranks of a training that was killed have ended.
_END = 60.0
TRAINING = "launchers.train"


def over_ssh(folder: Path, kills: list[str], report: Callable[[str], None] = print) -> None:
    """Train over two nodes, killed so often, and compare with a training on one.

    Args:
        kills: of KILLED, one a round.
    """
    shards = shards_in(folder)
    steps = _STEPS * len(kills) + _LAST
    settings = UNET | {"steps": steps, "checkpoint_every": 2, "hooks": "[slow]", "validate_every": steps}
    config = empty_config(folder)
    outs = [folder / name for name in ("calm", "run")]
    calm, own = (["--import", str(SLOW), *overrides(shards, out, settings)] for out in outs)
    undisturbed = start(config, calm, ranks=RANKS)
    assert undisturbed.wait(300) == 0, undisturbed.communicate()[0]
    with nodes.two_nodes(folder / "nodes") as both:
        for number, kill in enumerate([*kills, None]):
            master = (ADDRESSES, ADDRESSES_6)[number % 2][0]
            words = ["--config", config, *own, *(["--resume"] if number else [])]
            report(f"round {number + 1}: {_round(both, master, words, outs[1], kill)}")
    assert [line["step"] for line in lines(outs[1], "train")] == list(range(1, steps + 1))
    for kind, key in (("train", "loss"), ("validation", "combined")):
        undisturbed_values, values = ([line[key] for line in lines(out, kind)] for out in outs)
        assert values == pytest.approx(undisturbed_values, rel=1e-5), kind
    report(f"over ssh: {steps} steps, {len(kills)} kills: metrics of the undisturbed training; no rank left")


def _round(both: Nodes, master: str, words: list[str], out: Path, kill: str | None) -> str:
    """Start the training, and kill it or let it end; what happened."""
    log = both.folder / "training.log"
    before = _step(out)
    launchers = (_by_torchrun if kill == "torchrun" else _by_deepspeed)(both, master, words, log)
    if kill is None:
        assert launchers[0].wait(300) == 0, log.read_text()
        wait_until(lambda: not both.ranks(), _END, "ranks are left")
        return f"from step {before + 1} to the end, by {master}"

    def far() -> bool:
        assert all(launcher.poll() is None for launcher in launchers), log.read_text()
        return _step(out) >= before + _STEPS

    wait_until(far, 300, "the training does not begin")
    _kill(both, launchers[-1], kill)
    began = time.monotonic()
    wait_until(lambda: not both.ranks(), _END, f"ranks are left after the kill of {kill}:\n{log.read_text()}")
    told = f"{kill} killed at step {_step(out)}, all ranks gone in {time.monotonic() - began:.1f} s, by {master}"
    for launcher in launchers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait(30)
    return told


def _by_deepspeed(both: Nodes, master: str, words: list[str], log: Path) -> list[subprocess.Popen[bytes]]:
    hosts = both.folder.parent / "hosts"
    hosts.write_text("".join(f"{address} slots=2\n" for address in ADDRESSES))
    command = ["deepspeed", "--hostfile", str(hosts), "--launcher", "pdsh", "--no_ssh_check", "--no_local_rank"]
    command += ["--master_addr", master, "--master_port", str(free_port()), "--module", TRAINING]
    return [both.launch([*command, *words], log)]


def _by_torchrun(both: Nodes, master: str, words: list[str], log: Path) -> list[subprocess.Popen[bytes]]:
    """A command on each node."""
    port = str(free_port())
    addresses = ADDRESSES_6 if ":" in master else ADDRESSES
    started = []
    for node, address in enumerate(addresses):
        command = ["torchrun", "--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "2"]
        command += ["--master-addr", master, "--master-port", port, "--local-addr", address, "-m", TRAINING]
        started.append(both.launch([*command, *words], log, node))
    return started


def _step(out: Path) -> int:
    """The last step that metrics.jsonl holds."""
    text = (out / METRICS).read_text() if (out / METRICS).exists() else ""
    steps = [record["step"] for record in map(json.loads, text.splitlines()) if record["kind"] == "train"]
    return max(steps, default=0)


def _kill(both: Nodes, launcher: subprocess.Popen[bytes], kill: str) -> None:
    """Kill what a word stands for, with SIGKILL."""
    if kill in ("launcher", "torchrun"):
        os.killpg(launcher.pid, signal.SIGKILL)
        return
    if kill == "pdsh":
        chosen = both.processes("pdsh")
    elif kill == "rank":
        chosen = {pid: known for pid, known in both.ranks().items() if known.get("RANK") == str(RANKS - 1)}
    else:
        chosen = {pid: {} for pid in both.sessions(1)}
    assert chosen, kill
    for pid in chosen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def chain(cluster: Slurm, folder: Path, preemptions: int, report: Callable[[str], None] = print) -> None:
    """Submit build array -> pretrain -> fine-tune -> evaluate, and preempt the pretraining so often."""
    simulate_archive(folder / "my scenes", 4, 0, (500, 500))
    config, steps = empty_config(folder), 8 + 8 * preemptions

    def training(out: str, *parts: dict[str, object]) -> list[str]:
        common = COMMON | {"out": out, "data.shards": "shards", "hooks": "[slow]", "checkpoint_every": 2}
        merged = {key: value for part in (common, *parts) for key, value in part.items()}
        words = [config, *(f"{key}={value}" for key, value in merged.items())]
        return [*words, "--import", str(SLOW), "--nodes", "2"]

    build = [
        "build",
        "my scenes",
        "--out",
        "shards",
        "--factors",
        "4",
        "--tile",
        "32",
        "--workers",
        "1",
        "--parts",
        "2",
    ]
    first = cluster.submit(*build, folder=folder)
    mae = training("runs/mae", MAE, {"steps": steps})
    second = cluster.submit(*mae, "--after", first, folder=folder)
    tuning = training("runs/vit", VIT, {"steps": 4, "model.init_from": "runs/mae"})
    third = cluster.submit(*tuning, "--after", second, folder=folder)
    scores = ["evaluate", "runs/vit", "my scenes", "--no-products", "--no-maps", "--device", "cpu", "--parts", "2"]
    fourth = cluster.submit(*scores, "--after", third, folder=folder)
    for _ in range(preemptions):
        report(_preempt(cluster, second, folder))
    cluster.finish([first, second, third, fourth], lambda: _logs(folder))
    # The arrays have done all of it.
    for job, said in (("build", "opening scenes: 0/0"), ("evaluate", "4 of 4 scenes were finished before")):
        (log,) = folder.rglob(f"*.{job}-[0-9]*.log")
        assert said in log.read_text(), _logs(folder)
    for out, length in (("mae", steps), ("vit", 4)):
        assert [line["step"] for line in lines(folder / "runs" / out, "train")] == list(range(1, length + 1)), out
    pooled = json.loads((folder / "runs" / "vit" / "evaluation" / "evaluation.json").read_text())["pooled"]
    assert all(isinstance(pooled[chart], float) for chart in ("SIC", "SOD", "FLOE")), pooled
    report(f"SLURM: four jobs, {preemptions} preemptions; scores {pooled}")


def _preempt(cluster: Slurm, job: str, folder: Path) -> str:
    """Take the nodes of a training under way for a more urgent job, and let it begin again; what happened."""
    out, before = folder / "runs" / "mae", int(cluster.state(job)["Restarts"])
    step = _step(out)

    def trains() -> bool:
        known = cluster.state(job)
        assert known["JobState"] in ("PENDING", "CONFIGURING", "RUNNING"), _logs(folder)
        return _step(out) >= step + 2

    wait_until(trains, 300, "the training does not begin")
    urgent = [
        "--partition",
        URGENT,
        "--nodes=2",
        "--ntasks-per-node=1",
        f"--output={folder}/urgent.log",
        "--wrap=sleep 1",
    ]
    cluster.run("sbatch", *urgent)
    wait_until(lambda: int(cluster.state(job)["Restarts"]) > before, 120, "the training is not preempted")
    wait_until(lambda: cluster.state(job)["JobState"] == "PENDING", 120, "the training is not queued again")
    cluster.begin_again(job)
    return f"preempted at step {_step(out)}"


def _logs(folder: Path) -> str:
    paths = [*folder.rglob("*.log")]
    return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in paths if path.is_file())


def main(argv: list[str] | None = None) -> int:
    """All rounds of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=6, help="of a training over ssh (default 6)")
    parser.add_argument("--preemptions", type=int, default=4, help="of a chain of jobs (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of what is killed (default 0)")
    arguments = parser.parse_args(argv)
    lacking = [text for text in (nodes.missing(), slurm.missing()) if text is not None]
    if lacking:
        print("; ".join(lacking), file=sys.stderr)
        return 2
    draw = random.Random(arguments.seed)
    kills = [*KILLED, *(draw.choice(KILLED) for _ in range(arguments.kills))][: arguments.kills]
    draw.shuffle(kills)
    with tempfile.TemporaryDirectory(prefix="cluster-") as place:
        folder = Path(place)
        over_ssh(folder / "ssh", kills, lambda text: print(text, flush=True))
        with slurm.slurm_in(folder / "slurm") as cluster:
            (folder / "chain").mkdir()
            chain(cluster, folder / "chain", arguments.preemptions, lambda text: print(text, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())

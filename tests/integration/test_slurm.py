"""Jobs on a SLURM of two virtual nodes; `make cluster` does more of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import launchers.slurm
from arcticseg.run.folder import CHECKPOINTS, METRICS
from tests import cluster, slurm
from tests.slurm import Slurm, slurm_in, wait_until
from tests.training import SLOW, UNET, empty_config, lines, overrides

SCRIPT = Path(launchers.slurm.__file__).parent / "train.sbatch"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(slurm.missing() is not None, reason=str(slurm.missing()))]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm_in(tmp_path_factory.mktemp("slurm")) as started:
        yield started


def test_dependent_jobs_come_to_scores_though_one_is_preempted(two: Slurm, tmp_path: Path) -> None:
    told: list[str] = []
    cluster.chain(two, tmp_path, 1, told.append)
    assert [text.split()[0] for text in told] == ["preempted", "SLURM:"]
    # Two ranks have written.
    (checkpoint,) = (tmp_path / "runs" / "vit" / CHECKPOINTS).glob("step-00000004")
    assert {"model-00000.safetensors", "model-00001.safetensors"} <= {path.name for path in checkpoint.iterdir()}


def test_a_signal_before_the_time_limit_checkpoints_and_queues_again(
    two: Slurm, tiny_shards: Path, tmp_path: Path
) -> None:
    """By the script itself, as it is shipped."""
    steps = 60
    settings = UNET | {"steps": steps, "hooks": "[slow]"}
    words = ["--import", str(SLOW), "--config", empty_config(tmp_path)]
    options = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", f"--output={tmp_path}/job.log"]
    training = [str(SCRIPT), *words, *overrides(tiny_shards, tmp_path / "run", settings)]
    job = two.run("sbatch", "--parsable", f"--chdir={tmp_path}", *options, *training)
    metrics = tmp_path / "run" / METRICS

    def trains() -> bool:
        assert two.state(job)["JobState"] in ("PENDING", "RUNNING"), (tmp_path / "job.log").read_text()
        return metrics.exists() and bool(metrics.read_text())

    wait_until(trains, 300, "training does not start")
    two.run("scancel", "--batch", "--signal=USR1", job)
    wait_until(lambda: two.state(job)["JobState"] == "PENDING", 120, "job is not queued again")
    stopped_at = len(lines(tmp_path / "run", "train"))
    assert stopped_at < steps
    assert (tmp_path / "run" / CHECKPOINTS / "last").read_text().strip() == f"step-{stopped_at:08d}"
    two.begin_again(job)
    two.finish([job], (tmp_path / "job.log").read_text)
    assert two.state(job)["Restarts"] == "1"
    assert [line["step"] for line in lines(tmp_path / "run", "train")] == list(range(1, steps + 1))

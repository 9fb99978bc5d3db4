"""Names of series in wandb and TensorBoard: a tree, from the flat names that metrics.jsonl has always had."""

from __future__ import annotations

# Families of names of a `train` line that stand beside `train/`, not under it.
_FAMILIES = ("speed/", "memory/")
_SPEED = ("samples_per_s", "data_wait")
# What begins with these is a branch: `loss_SIC` is `loss/SIC`.
_BRANCHES = ("loss", "weight", "grad_norm")


def series(kind: str, name: str) -> str:
    """The series of a value of metrics.jsonl.

    `train` and `loss_SIC` give `train/loss/SIC`, `data_wait` gives `speed/data_wait`, `memory/host_gb/rank_0` stays;
    `SOD/F1/old_ice` of `validation` is `validation/SOD/F1/old_ice`.
    """
    if kind != "train":
        return f"{kind}/{name}"
    if name.startswith(_FAMILIES):
        return name
    if name in _SPEED:
        return f"speed/{name}"
    branch = next((branch for branch in _BRANCHES if name.startswith(f"{branch}_")), None)
    return f"train/{name}" if branch is None else f"train/{branch}/{name.removeprefix(f'{branch}_')}"

"""The model card: what weights are, what they have learnt from, how they score, and how they are loaded; facts only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arcticseg.ice.channels import CHANNELS, RAW_SPACING
from arcticseg.ice.simulated import SCENES_DISCLAIMER, marked
from arcticseg.models.exchange.public import Public
from arcticseg.shown import visible

_TASKS = {"pretrain": "reconstructing removed patches (masked autoencoder)", "segment": "drawing ice charts"}


def statistics_of(planes: Sequence[str], statistics: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """Plane -> mean and standard deviation that it is normalised by; planes that are no channel are left out."""
    published = {name: (CHANNELS[name].mean, CHANNELS[name].std) for name in planes if name in CHANNELS}
    return {name: (statistics[name][0], statistics[name][1]) if name in statistics else published[name]
            for name in planes if name in statistics or name in published}  # fmt: skip


def card(
    name: str,
    file: str,
    public: Public,
    facts: Mapping[str, Any],
    planes: Sequence[str],
    keys: str,
    scores: Mapping[str, Any] | None,
) -> str:
    """The card as Markdown.

    Args:
        name: of the run.
        file: name of the weights file that it is about.
        public: what is in the file.
        facts: what stands beside the weights: `models.weights.facts_of`.
        planes: input planes in order.
        keys: the run's config as YAML.
        scores: a validation of the run, with its `step`; None: there is none.
    """
    simulated, task = bool(facts["simulated"]), str(facts["config"]["task"])
    spacings = ", ".join(f"{factor * RAW_SPACING:g}" for factor in facts["factors"])
    lines = [
        f"# {visible(name)}: encoder {public.name}",
        "",
        *([f"**{SCENES_DISCLAIMER.strip()}**", ""] if simulated else []),
        f"The encoder of a network that ArcticSeg has trained on {_TASKS.get(task, task)}, in timm's names and shapes, "
        f"in `{visible(file)}`.",
        "",
        "## Data",
        "",
        f"Tiles of {facts['tile']} x {facts['tile']} pixels of {marked('Sentinel-1 scenes', simulated)}, with "
        f"pixels of {spacings} m. Inputs, in this order, are normalised by (value - mean) / std; no data is 0.",
        "",
        *_table(planes, facts["statistics"]),
        "",
        "## Validation",
        "",
        *_scores(scores, simulated),
        "",
        "## Use",
        "",
        "In timm:",
        "",
        "```python",
        "import timm",
        "from safetensors.torch import load_file",
        "",
        f"network = {public.call}",
        f"network.load_state_dict(load_file({visible(file)!r}))",
        "```",
        "",
        "In ArcticSeg, with the same encoder and channels, or with other channels and `model.init_adapt`:",
        "",
        "```bash",
        f"arcticseg train --config CONFIG model.init_from={visible(file)}",
        "```",
        "",
        "## Config of the run",
        "",
        "```yaml",
        keys.rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _table(planes: Sequence[str], statistics: Mapping[str, Sequence[float]]) -> list[str]:
    known = statistics_of(planes, statistics)
    rows = ["| # | plane | unit | mean | std |", "|---|---|---|---|---|"]
    for number, plane in enumerate(planes):
        unit = CHANNELS[plane].unit if plane in CHANNELS else "-"
        mean, std = (f"{value:.6g}" for value in known[plane]) if plane in known else ("-", "-")
        rows.append(f"| {number} | {visible(plane)} | {unit} | {mean} | {std} |")
    return rows


def _scores(scores: Mapping[str, Any] | None, simulated: bool) -> list[str]:
    numbers = {key: value for key, value in (scores or {}).items() if isinstance(value, (int, float))}
    if scores is None or not numbers.keys() - {"step"}:
        return ["None is recorded."]
    rows = [f"At step {numbers.get('step', '-')}, on {marked('validation scenes', simulated)}:", ""]
    rows += ["| score | value |", "|---|---|"]
    return rows + [f"| {visible(key)} | {value:.6g} |" for key, value in numbers.items() if key not in ("step", "time")]

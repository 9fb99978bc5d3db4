"""What a folder of shards holds, for a person to read: `arcticseg shards info`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from arcticseg.data.manifest import SPLITS, Manifest, read_manifest
from arcticseg.ice.sigrid import CHARTS
from arcticseg.ice.simulated import MARK
from shards.resources import show_size


def summary(folder: Path) -> str:
    """Scenes, samples, bytes, class shares, options and builder.

    Raises:
        ShardError: the manifest cannot be read.
    """
    manifest = read_manifest(folder)
    blocks = [_head(folder, manifest), _splits(manifest), _classes(manifest), _failed(manifest), _options(manifest)]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _head(folder: Path, manifest: Manifest) -> list[str]:
    shards = [shard for shards in manifest.splits.values() for shard in shards]
    samples, size = sum(shard.samples for shard in shards), sum(shard.bytes for shard in shards)
    scenes = [facts for facts in manifest.scenes.values() if "error" not in facts]
    simulated = sum(bool(facts["simulated"]) for facts in scenes)
    services = Counter(facts["ice_service"] or "unknown" for facts in scenes)
    times = sorted(facts["time"][:10] for facts in scenes if facts["time"])
    lines = [f"{folder}: {len(scenes)} scenes, {samples} samples, {len(shards)} shards, {show_size(size)}"]
    if manifest.simulated:
        lines[:0] = [f"{MARK}: {simulated} of {len(scenes)} scenes are not observations", ""]
    lines.append(f"  ice service  {', '.join(f'{name} {n}' for name, n in sorted(services.items()))}")
    lines.append(f"  acquired     {f'{times[0]} to {times[-1]}' if times else 'unknown'}")
    lines.append(f"  fingerprint  {manifest.fingerprint}")
    return lines


def _splits(manifest: Manifest) -> list[str]:
    """A table: split by factor, number of samples."""
    lines = [
        f"{'split':6}{'scenes':>8}{'charts':>8}{'bytes':>10}{'samples':>10}"
        + "".join(f"{f'k={k}':>9}" for k in manifest.factors)
    ]
    for split in SPLITS:
        scenes = [facts for facts in manifest.scenes.values() if facts["split"] == split and "error" not in facts]
        if not scenes:
            continue
        tiles = [sum(facts["tiles"].get(str(k), 0) for facts in scenes) for k in manifest.factors]
        charts = sum(bool(facts["has_chart"]) for facts in scenes)
        size = show_size(sum(shard.bytes for shard in manifest.splits[split]))
        lines.append(f"{split:6}{len(scenes):8}{charts:8}{size:>10}{sum(tiles):10}" + "".join(f"{n:9}" for n in tiles))
    return lines


def _classes(manifest: Manifest) -> list[str]:
    """Share of each class in the labelled pixels of each split, at the finest factor that it has."""
    lines: list[str] = []
    for chart in CHARTS:
        shares = {split: share for split in SPLITS if (share := _shares(manifest, split, chart)) is not None}
        if shares:
            lines += ["", f"{chart:24}" + "".join(f"{split:>9}" for split in shares)]
            for k, name in enumerate([*manifest.classes[chart], "masked, of all"]):
                lines.append(f"  {name:22}" + "".join(f"{share[k]:8.1%} " for share in shares.values()).rstrip())
    return ["share of labelled pixels, at the finest factor", *lines[1:]] if lines else []


def _shares(manifest: Manifest, split: str, chart: str) -> np.ndarray | None:
    """Shares [classes + 1] in the labelled pixels and, last, of masked pixels in all; None: nothing is labelled."""
    counts = np.array(
        [
            facts["counts"][factor][chart]
            for facts in manifest.scenes.values()
            if facts["split"] == split and facts.get("counts")
            for factor in [min(facts["counts"], key=int)]
        ]
    )
    total = counts.sum(0) if counts.size else np.zeros(1)
    labelled = total[:-1].sum()
    return np.append(total[:-1] / labelled, total[-1] / total.sum()) if labelled else None


def _failed(manifest: Manifest) -> list[str]:
    failed = {name: facts["error"] for name, facts in manifest.scenes.items() if "error" in facts}
    warned = sum(bool(facts.get("warnings")) for facts in manifest.scenes.values())
    lines = (
        [f"scenes that could not be read: {len(failed)}", *(f"  {reason}" for reason in failed.values())]
        if failed
        else []
    )
    return [*lines, *([f"scenes with warnings, which the manifest holds: {warned}"] if warned else [])]


def _options(manifest: Manifest) -> list[str]:
    def flat(values: dict, prefix: str = "") -> Iterator[str]:
        for key, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}={value}"

    return [
        f"built by arcticseg {manifest.builder['version']}, format {manifest.schema}, with",
        "  " + ", ".join(flat(manifest.builder["config"])),
    ]

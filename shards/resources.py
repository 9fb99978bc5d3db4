"""What a build needs of memory and disk, and what the machine has."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from arcticseg.errors import ConfigError
from arcticseg.ice.channels import RAW_SPACING, RTT_SPACING
from arcticseg.ice.tiling import starts
from shards.part import BuildConfig

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)

# Share of the free memory that a build may take; the rest is a reserve.
_MEMORY_SHARE = 0.9


def parse_size(text: str, key: str) -> int:
    """Bytes of `24G`, `500M` or `1.5 TB`; units are powers of 1000.

    Raises:
        ConfigError: the text is not such a size.
    """
    match = _SIZE.fullmatch(text.strip())
    size = float(match.group(1)) * _UNITS[match.group(2).upper()] if match else 0
    if size < 1:
        raise ConfigError(f"{key} is '{text}'; set a size such as 24G or 500M")
    return int(size)


def show_size(size: float) -> str:
    """Bytes for a person: `1.5 GB`."""
    power = sum(size >= 1000**k for k in range(1, 5))
    value, unit = size / 1000**power, ("bytes", "kB", "MB", "GB", "TB")[power]
    return f"{value:.0f} {unit}" if value >= 100 or not power else f"{value:.1f} {unit}"


def scene_memory(lines: int, samples: int, pixel_spacing: float, config: BuildConfig) -> int:
    """Bytes that a process takes at most to work on a scene of lines x samples pixels; measured, with a margin.

    300 MB for the program and its libraries; 15 bytes a pixel, or 30 where values are turned back from z-scores, as in
    ready-to-train files; 12 bytes a pixel at the finest factor. So a raw scene of 10,000 x 10,000 counts as 2.1 GB
    from factor 2 on (1.35 GB were measured) and as 3.0 GB with factor 1 (2.7 GB).
    """
    pixels = lines * samples
    finest = pixels * (pixel_spacing / RAW_SPACING / min(config.factors)) ** 2
    return 300 * 10**6 + (15 if pixel_spacing < RTT_SPACING else 30) * pixels + int(12 * finest)


def part_bytes(lines: int, samples: int, pixel_spacing: float, config: BuildConfig) -> int:
    """Bytes on disk that the tiles of a scene take at most, by experience: 2.5 a pixel and 10,000 a tile."""
    total = 0
    for factor in config.factors:
        edges = (int(n * pixel_spacing / RAW_SPACING) // factor for n in (lines, samples))
        rows, columns = (len(starts(n, config.tile, config.overlap)) for n in edges)
        total += rows * columns * (10_000 + 5 * config.tile**2 // 2)
    return total


def _limits() -> Iterator[int]:
    """The memory limits of the control groups, version 1 or 2, that this process is in; none where none is set."""
    root = Path("/sys/fs/cgroup")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        inside = base / group.lstrip("/")
        for folder in (inside, *inside.parents):
            if folder.is_relative_to(base) and (folder / name).is_file():
                text = (folder / name).read_text().strip()
                if text.isdigit():
                    yield int(text)


def machine_memory() -> tuple[int, int]:
    """Bytes of memory that are free now for a build, and those of the whole machine.

    Control groups, in which schedulers and containers hold their jobs, count as the machine.
    """
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (1024 * int(meminfo[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    total = min(total, *_limits(), total)
    return int(_MEMORY_SHARE * min(available, total)), total


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))

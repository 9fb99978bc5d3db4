from pathlib import Path

import pytest

from arcticseg.errors import ConfigError
from shards import resources
from shards.part import BuildConfig, build_part
from shards.resources import machine_memory, parse_size, part_bytes, scene_memory, show_size
from tests import scenes


@pytest.mark.parametrize(
    ("text", "size"),
    [("24G", 24e9), ("500M", 5e8), ("1.5 TB", 1.5e12), ("24gb", 24e9), (" 7k ", 7000), ("1000000", 1e6)],
)
def test_sizes(text: str, size: float) -> None:
    assert parse_size(text, "--max-memory") == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "24X", "1e9", "0", "0.1", "24 GiB"])
def test_texts_that_are_not_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--max-memory is '{text}'"):
        parse_size(text, "--max-memory")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (3e9, "3.0 GB"), (146e6, "146 MB"), (2e15, "2000 TB")],
)
def test_sizes_are_shown(size: float, text: str) -> None:
    assert show_size(size) == text


def test_memory_of_a_scene_grows_with_its_pixels_and_those_of_the_finest_factor() -> None:
    from_two, from_one = BuildConfig(), BuildConfig(factors=(1, 2))
    # What was measured, in GB, with up to a half more; docs/data-format.md says 2.1.
    assert 1.35e9 < scene_memory(10_000, 10_000, 40.0, from_two) == 2_100_000_000
    assert 2.66e9 < scene_memory(10_000, 10_000, 40.0, from_one) == 3_000_000_000
    assert 1.25e9 < scene_memory(5_000, 5_000, 80.0, from_two) < 1.5e9
    assert scene_memory(10_000, 20_000, 40.0, from_two) > scene_memory(10_000, 10_000, 40.0, from_two)


def test_memory_is_that_of_the_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    available, total = machine_memory()
    assert 0 < available < total
    monkeypatch.setattr(resources, "_limits", lambda: iter([total // 2, total // 8]))
    assert machine_memory()[1] == total // 8
    assert machine_memory()[0] <= total // 8
    monkeypatch.setattr(resources, "_limits", lambda: iter([1 << 62]))
    assert machine_memory()[1] == total


def test_space_for_a_part_is_neither_too_small_nor_twice_too_large(tmp_path: Path) -> None:
    path = scenes.write_raw(tmp_path / "a.nc", lines=900, samples=1000)
    for config in (BuildConfig(tile=64, factors=(2, 3, 5)), BuildConfig(tile=128, factors=(2,), overlap=32)):
        build_part(path, tmp_path / "part.tar", config)
        size = (tmp_path / "part.tar").stat().st_size
        assert size <= part_bytes(900, 1000, 40.0, config) <= 2 * size
    # A ready-to-train file has half as many pixels for the same tiles.
    assert part_bytes(450, 500, 80.0, config) == part_bytes(900, 1000, 40.0, config)

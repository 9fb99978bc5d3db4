"""What the documents say is so: keys, defaults, links, commands and code."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from arcticseg import config, settings
from arcticseg.settings import RunConfig
from launchers import train
from launchers.cli import make_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| `([\w.]+)` \| (.+?) \| `(.+?)` \| ")


def keys(cls: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, default) of every leaf of a config."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from keys(hints[field.name], f"{prefix}{field.name}.")
        else:
            missing = field.default is dataclasses.MISSING
            yield f"{prefix}{field.name}", field.default_factory() if missing else field.default  # type: ignore[misc]


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages."""
    return [body for language, body in _FENCE.findall(page.read_text()) if language in languages]


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page, as words, without comments; continued lines are joined."""
    lines = [line for body in blocks(page, "bash", "sh") for line in body.replace("\\\n", " ").splitlines()]
    found = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [words for words in found if words]


def anchor(title: str) -> str:
    """The address of a heading within its page, as common viewers make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    return [text for text in arguments.overrides if "$" not in text]


def test_every_key_is_described_with_its_default() -> None:
    rows = [_ROW.match(line) for line in (ROOT / "docs" / "configs.md").read_text().splitlines()]
    described = {row.group(1): row.group(3) for row in rows if row}
    expected = dict(keys(RunConfig))
    assert sorted(described) == sorted(expected)
    for key, default in expected.items():
        assert yaml.safe_load(described[key]) == config.to_dict(default), key


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        name, _, part = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), target
        if part:
            titles = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            assert part in map(anchor, titles), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = argparse.ArgumentParser()
    train.add_arguments(training)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(page):
        shown = " ".join(words)
        arguments = None
        try:
            if words[0] == "arcticseg":
                arguments = make_parser().parse_args(words[1:])
            for script in ("launchers/train.py", "launchers.train", "launchers/slurm/train.sbatch"):
                if script in words:
                    arguments = training.parse_intermixed_args(words[words.index(script) + 1 :])
        except SystemExit:
            pytest.fail(f"{shown}: {capsys.readouterr().err}")
        if words[0] == "make":
            assert set(word for word in words[1:] if "=" not in word) <= targets, shown
        if arguments is not None and hasattr(arguments, "overrides") and getattr(arguments, "verb", "train") == "train":
            shipped = f"{arguments.config.removesuffix('.yaml')}.yaml" in config.shipped()
            if shipped:
                settings.load(arguments.config, overrides_of(arguments))


def test_the_plain_webdataset_pipeline_reads_shards(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("webdataset")
    (code,) = blocks(ROOT / "docs" / "data-format.md", "python")
    (tmp_path / "shards").symlink_to(tiny_shards)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "data-format.md", "exec"), {})
    assert capsys.readouterr().out.startswith("(4, 32, 32) (4, 3, 32, 32) S1")

"""What the documents say is so: keys, defaults, links, commands and code."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import re
import runpy
import shlex
import sys
import tomllib
import typing
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from arcticseg import config
from arcticseg.choice import Choice
from arcticseg.run import config as run_config
from arcticseg.run.config import RunConfig
from arcticseg.run.folder import CHANGEABLE
from launchers import train
from launchers.cli import make_parser
from tests import house

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {str(page.relative_to(ROOT)): page for page in (*ROOT.glob("*.md"), *DOCS.glob("*.md"))}
SCRIPTS = {"launchers/train.py", "launchers.train", "launchers/slurm/train.sbatch"}

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| `([\w.]+)` \| .+? \| `(.+?)` \| ")
# A table of modules: its folder, its rows.
_MODULES = re.compile(r"^\| `([\w/]+/)` \| \|\n\|---\|---\|\n((?:\|.*\n)+)", re.MULTILINE)


def keys(cls: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, default) of every leaf of a config; of what is chosen by name, the keys of all that can be named."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        key, hint = prefix + field.name, hints[field.name]
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        chosen = next((kind for kind in parts_of(hint) if is_choice(kind)), None)
        if chosen:
            # Of a mapping or a list of choices, keys are described as those of `segment.losses.CHART` or `hooks.NAME`.
            item = {dict: f"{key}.CHART.", tuple: f"{key}.NAME."}.get(typing.get_origin(hint), f"{key}.")
            yield (key, config.to_dict(default)) if item != f"{key}." else (f"{key}.name", default and default.name)
            for kind in dict.fromkeys(chosen.table.values()):
                yield from (pair for pair in keys(kind, item) if pair[0] != f"{item}name")
        elif dataclasses.is_dataclass(hint):
            yield from keys(hint, f"{key}.")
        elif sections := [part for part in typing.get_args(hint) if dataclasses.is_dataclass(part)]:
            yield key, list(default) if isinstance(default, tuple) else default
            item = {dict: f"{key}.CHART.", tuple: f"{key}.N."}.get(typing.get_origin(hint), f"{key}.")
            yield from keys(sections[0], item)
        else:
            yield key, list(default) if isinstance(default, tuple) else default


def parts_of(hint: Any) -> Iterator[Any]:
    """A type and all types that it is made of."""
    yield hint
    for part in typing.get_args(hint):
        yield from parts_of(part)


def is_choice(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Choice)


def choices(cls: Any) -> set[type[Choice]]:
    """All choices in a config and in its sections."""
    hints = [part for hint in typing.get_type_hints(cls).values() for part in parts_of(hint)]
    sections = [hint for hint in hints if dataclasses.is_dataclass(hint) and not is_choice(hint)]
    return {hint for hint in hints if is_choice(hint)}.union(*map(choices, sections))


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages."""
    return [body for language, body in _FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def script(page: str, name: str, folder: Path) -> str:
    """Write the script of a page that names itself to a folder; return its path."""
    (code,) = [body for body in blocks(DOCS / page, "python") if name in body]
    path = folder / name
    path.write_text(code, encoding="utf-8")
    return str(path)


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page, as words, without comments; continued lines are joined."""
    lines = [line for body in blocks(page, "bash", "sh") for line in body.replace("\\\n", " ").splitlines()]
    split = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [words for words in split if words]


def anchor(title: str) -> str:
    """The address of a heading within its page, as common viewers make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_every_key_is_described_with_its_default() -> None:
    rows = [_ROW.match(line) for line in (DOCS / "configs.md").read_text(encoding="utf-8").splitlines()]
    described = [(row.group(1), yaml.safe_load(row.group(2))) for row in rows if row]
    # What kinds of a choice have in common is described once.
    assert sorted(described, key=str) == sorted({str(pair): pair for pair in keys(RunConfig)}.values(), key=str)


def test_every_name_that_can_be_chosen_is_described() -> None:
    text = (DOCS / "configs.md").read_text(encoding="utf-8")
    names = [name for kind in choices(RunConfig) for name in kind.table]
    assert {"vit_*", "upernet", "regression", "cross_entropy"} <= set(names)
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_page_tells_what_may_change_on_resume() -> None:
    section = (DOCS / "configs.md").read_text(encoding="utf-8").partition("\n## What a resumed run may change\n")[2]
    assert set(re.findall(r"`([\w.]+)`", section.partition("Anything")[0])) == set(CHANGEABLE)


@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, part = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if part:
            titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert part in map(anchor, titles), target


@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
def test_commands_parse_and_their_configs_are_whole(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = argparse.ArgumentParser()
    train.add_arguments(training)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(page):
        shown = " ".join(words)
        arguments = argparse.Namespace()
        try:
            if words[0] == "arcticseg":
                arguments = make_parser().parse_args(words[1:])
            for name in SCRIPTS.intersection(words):
                arguments = training.parse_intermixed_args(
                    words[words.index(name) + 1 :], argparse.Namespace(verb="train")
                )
        except SystemExit:
            pytest.fail(f"{shown}: {capsys.readouterr().err}")
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, shown
        # What that page chooses, its readers have just added.
        if page.name == "extending.md":
            continue
        if getattr(arguments, "verb", "") == "train" and f"{arguments.config}.yaml" in config.shipped():
            # A shell's variable stands for a value that is not known here.
            run_config.load(arguments.config, [text for text in arguments.overrides if "$" not in text])


def modules(*packages: str) -> dict[str, Path]:
    """Dotted name -> file of the modules of these packages, `__init__` left out."""
    files = [path for path in house.python_files(ROOT, packages) if path.name != "__init__.py"]
    return {house.module_of(path.relative_to(ROOT)): path for path in files}


def test_the_page_draws_the_layers_of_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["name"] == "Rooms of the library"]
    section = (DOCS / "architecture.md").read_text(encoding="utf-8").partition("\n## Arrows\n")[2].partition("\n## ")[0]
    drawn = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    assert drawn == [layer.replace("arcticseg.", "") for layer in layers]
    # Every module has a place in it; the rooms' own configs stand apart.
    rooms = {f"arcticseg.{room}" for layer in drawn for room in layer.split(" | ")}
    names = [name for name in modules("arcticseg") if not rooms.intersection([name, *house.parents_of(name)])]
    assert names == []


def test_the_page_names_every_module() -> None:
    named: set[Path] = set()
    for folder, rows in _MODULES.findall((DOCS / "architecture.md").read_text(encoding="utf-8")):
        for row in rows.splitlines():
            for name in re.findall(r"`([\w/]+(?:\.py|/))`", row.split("|")[1]):
                path = ROOT / folder / name
                assert path.exists(), path
                named.update(path.rglob("*.py") if path.is_dir() else [path])
    missing = [name for name, path in modules("arcticseg", "shards", "launchers").items() if path not in named]
    assert missing == []


def test_the_plain_webdataset_pipeline_reads_shards(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shards").symlink_to(tiny_shards)
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(DOCS / "data-format.md", "python")
    exec(compile(code, "data-format.md", "exec"), {})
    assert capsys.readouterr().out.startswith("(4, 32, 32) (4, 3, 32, 32) S1")


def test_the_download_keeps_whole_files_and_refuses_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"a.nc": b"one", "b.nc": b"two"}
    asked: list[str] = []

    def answer(url: str) -> io.BytesIO:
        asked.append(url)
        if "/articles/7/files" not in url:
            return io.BytesIO(content[url])
        files = [
            {"name": name, "size": 3, "download_url": name, "computed_md5": hashlib.md5(known).hexdigest()}
            for name, known in (("a.nc", b"one"), ("b.nc", b"two"))
        ]
        return io.BytesIO(json.dumps(files).encode())

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    monkeypatch.setattr(sys, "argv", ["fetch.py", "7", str(tmp_path / "got")])
    fetch = script("recipes.md", "fetch.py", tmp_path)
    content["b.nc"] = b"bad"
    with pytest.raises(SystemExit, match=r"b\.nc: the checksum differs"):
        runpy.run_path(fetch)
    assert not (tmp_path / "got" / "b.nc").exists()
    content["b.nc"] = b"two"
    runpy.run_path(fetch)
    assert {path.name: path.read_bytes() for path in (tmp_path / "got").iterdir()} == content
    assert asked.count("a.nc") == 1

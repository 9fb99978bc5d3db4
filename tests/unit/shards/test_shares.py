"""Builds by shares, as the tasks of a job array make them."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from arcticseg.data.manifest import read_manifest
from arcticseg.errors import ConfigError, OutputError, SceneError
from shards import build as builder
from shards.build import Left, build, build_share
from shards.share import Share, parse_share, share_of
from tests.archive import CONFIG, contents, quiet, telling


def test_scenes_are_dealt_by_size_and_always_the_same(tmp_path: Path) -> None:
    sizes = {"a": 10, "b": 70, "c": 40, "d": 40, "e": 20, "f": 60, "g": 50}
    paths = [tmp_path / f"{name}.nc" for name in sizes]
    for path in paths:
        path.write_bytes(bytes(sizes[path.stem]))
    # By size, equal ones by name: b f g c d e a; dealt to 1 2 3, back to 3 2 1, and to 1 again.
    expected = {1: "abe", 2: "df", 3: "cg"}
    for given in (paths, paths[::-1]):
        shares = {number: share_of(given, Share(number, 3)) for number in (1, 2, 3)}
        assert {number: "".join(sorted(path.stem for path in share)) for number, share in shares.items()} == expected
        assert shares[1] == [path for path in given if path.stem in "abe"]
    assert share_of(paths, Share(9, 9)) == []
    assert share_of([tmp_path / "gone.nc"], Share(1, 2)) == [tmp_path / "gone.nc"]


@pytest.mark.parametrize("text", ["5/4", "0/4", "4", "a/b", "1/0", "-1/4", "1/4/4", ""])
def test_shares_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--part is '{text}'; set I/N .*SLURM_ARRAY_TASK_ID"):
        parse_share(text)
    assert parse_share(" 4/4 ") == Share(4, 4)


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_shares_and_a_build_give_the_bytes_of_a_build_alone(
    built: Path, splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert build_share(splits, out, Share(1, 3), CONFIG, report=quiet) == Left(1, 1, 0, 5, 4)
    # Once more: nothing is left to do.
    with monkeypatch.context() as patch:
        patch.setattr(builder, "build_part", None)
        assert build_share(splits, out, Share(1, 3), CONFIG, report=quiet) == Left(1, 1, 0, 5, 4)
    assert build_share(splits, out, Share(3, 3), CONFIG, report=quiet) == Left(2, 2, 0, 5, 2)
    cut: list[Path] = []
    real = builder.build_part
    monkeypatch.setattr(builder, "build_part", lambda *a: (cut.append(a[0]), real(*a))[1])
    manifest = build(splits, out, CONFIG, report=quiet)
    assert len(cut) == 2
    assert contents(out) == contents(built)
    assert manifest.fingerprint == read_manifest(built).fingerprint
    assert build_share(splits, out, Share(2, 3), CONFIG, report=quiet) == Left(0, 0, 0, 0, 0)
    with pytest.raises(OutputError, match="other scenes or options"):
        build_share(splits, out, Share(2, 3), replace(CONFIG, tile=48), report=quiet)


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_what_a_share_could_not_read_is_not_read_again(
    splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad.nc"
    bad.write_bytes(splits["val"][0].read_bytes()[:10_000])
    asked = {"train": [bad], "val": splits["val"]}
    out, told = tmp_path / "out", []
    for number, expected in ((1, Left(1, 1, 0, 2, 1)), (2, Left(1, 0, 1, 2, 0))):
        left = build_share(asked, out, Share(number, 2), CONFIG, on_error="skip", report=told.append)
        assert left == expected, number
    assert [text.partition(f"{bad}: ")[0] for text in told] == ["skipped: "]
    measured: list[Path] = []
    real = builder._measure
    monkeypatch.setattr(builder, "_measure", lambda path: (measured.append(path), real(path))[1])
    with pytest.raises(SceneError, match=rf"^{bad}: "):
        build(asked, out, CONFIG, report=quiet)
    assert measured == [bad]
    manifest = build(asked, out, CONFIG, on_error="skip", report=told.append)
    assert measured == [bad], "it was not opened again"
    assert told[-1].startswith(f"skipped: {bad}, as a part of this build did: bad.nc: ")
    alone = build(asked, tmp_path / "alone", CONFIG, on_error="skip", report=quiet)
    assert manifest == alone
    assert contents(out) == contents(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_parts_of_other_options_are_told_and_not_used(splits: dict[str, list[Path]], tmp_path: Path) -> None:
    asked, out = {"val": splits["val"]}, tmp_path / "out"
    other = build_share(asked, out, Share(1, 1), replace(CONFIG, min_valid=0.5), report=quiet)
    assert other.left == 0
    told: list[str] = []
    assert build_share(asked, out, Share(2, 2), CONFIG, report=told.append) == Left(0, 0, 0, 1, 1)
    build(asked, out, CONFIG, report=told.append)
    (text,) = told
    assert text.startswith(f"warning: {out / '.parts'}/{splits['val'][0].stem}-")
    assert "other options" in text
    build(asked, tmp_path / "alone", CONFIG, report=quiet)
    assert contents(out) == contents(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_a_share_does_not_touch_what_another_one_writes(splits: dict[str, list[Path]], tmp_path: Path) -> None:
    half = tmp_path / "out" / ".parts" / ".another.1.tmp.tar"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half a part")
    bad = tmp_path / "bad.nc"
    bad.write_bytes(b"CDF")
    with pytest.raises(SceneError):
        build_share({"val": [bad]}, tmp_path / "out", Share(1, 1), CONFIG, report=quiet)
    assert half.exists()
    build({"val": splits["val"]}, tmp_path / "out", CONFIG, report=quiet)
    assert not half.exists()
    # Shards of nobody are not taken for those of an unfinished build because a part came first.
    stray = tmp_path / "stray" / "train-000000.tar"
    stray.parent.mkdir()
    stray.write_bytes(b"of somebody")
    for _ in range(2):
        with pytest.raises(OutputError, match=rf"^{stray}: belongs to no build"):
            build_share({"val": splits["val"]}, stray.parent, Share(1, 1), CONFIG, report=quiet)
    assert stray.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_shares_work_beside_each_other_and_a_build_alone(splits: dict[str, list[Path]], tmp_path: Path) -> None:
    out, said = tmp_path / "out", []

    def meet(done: int, total: int) -> None:
        if said:
            return
        said.append("")
        with pytest.raises(OutputError, match=rf"^{out}: part 1/2 of a build works here \(process {os.getpid()} on "):
            build({"val": splits["val"]}, out, CONFIG, report=quiet)
        with pytest.raises(OutputError, match="part 1/2 of a build works here"):
            build_share({"val": splits["val"]}, out, Share(1, 2), CONFIG, report=quiet)
        assert build_share({"val": splits["val"]}, out, Share(2, 2), CONFIG, report=quiet).share == 0

    build_share({"val": splits["val"]}, out, Share(1, 2), CONFIG, report=quiet, progress=telling(meet))
    said.clear()

    def refuse(done: int, total: int) -> None:
        said.append("")
        with pytest.raises(OutputError, match=rf"^{out}: another build works here \(process {os.getpid()} on "):
            build_share({"val": splits["val"]}, out, Share(2, 2), CONFIG, report=quiet)

    build({"val": splits["val"]}, out, CONFIG, report=quiet, progress=telling(refuse))
    assert said
    assert not list(out.glob(".*"))
    shutil.rmtree(out)

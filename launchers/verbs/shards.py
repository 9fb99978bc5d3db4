"""Build, extend, check, split and describe tar shards.

arcticseg shards split scenes --out lists --val 0.1 --test 0.1
arcticseg shards split scenes --out lists --test-list test.json --fractions 20,40,60,80,100 --counts shards
arcticseg shards build scenes --out shards --lists lists --factors 2-10 --workers 8 --max-memory 24G
arcticseg shards build scenes --out shards --part 2/4
arcticseg shards build scenes --out shards --ray auto
arcticseg shards build more_scenes --out shards --extend --factors 2-10
arcticseg shards check shards
arcticseg shards info shards --picture tiles.png
arcticseg shards stats shards
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from arcticseg.errors import ConfigError
from launchers.spread import add_part_argument, add_ray_argument, asked_share
from launchers.status import DONE, PROBLEMS
from launchers.terminal import note, plain_warnings, progress, show

if TYPE_CHECKING:
    from shards.build import Left
    from shards.machines import Machines
    from shards.part import BuildConfig
    from shards.share import Share

Actions = argparse._SubParsersAction  # type of what `add_subparsers` returns, which argparse does not publish


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg shards`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_build(actions)
    _add_check(actions)
    _add_info(actions)
    _add_split(actions)
    _add_stats(actions)


def _add_build(actions: Actions) -> None:
    """Arguments of `arcticseg shards build`."""
    text = (
        "Cut scenes into tiles and write tar shards with index, manifest, statistics. An interrupted build, given the "
        "same options again, goes on; a finished build is left as it is."
    )
    build = actions.add_parser("build", help="scenes to shards", description=text)
    build.add_argument("scenes", type=Path, help="folder of raw or ready-to-train scenes")
    build.add_argument("--out", type=Path, required=True, help="folder to write to")
    build.add_argument(
        "--lists", type=Path, help="folder of train.txt, val.txt, test.txt (default: split 80/10/10 by seed)"
    )
    _add_tiles(build)
    _add_layers(build)
    build.add_argument("--shard-mb", type=float, default=384, help="size of a shard in MB (default 384)")
    build.add_argument("--workers", type=int, help="scenes in work at a time (default: cores of this machine)")
    build.add_argument(
        "--max-memory", metavar="SIZE", help="memory for the scenes in work, such as 24G (default: what is free)"
    )
    build.add_argument(
        "--time-limit", type=float, default=60, help="minutes after which a scene is given up (default 60)"
    )
    build.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="at a scene that cannot be read (default stop)"
    )
    build.add_argument(
        "--extend",
        action="store_true",
        help="add scenes to finished shards, with the same options; without --lists new passes train",
    )
    build.add_argument("--seed", type=int, default=0, help="of the split and of the order in shards (default 0)")
    add_part_argument(build, "does what is left and writes the shards")
    add_ray_argument(build)
    build.set_defaults(main=run_build)


def _add_tiles(build: argparse.ArgumentParser) -> None:
    """How scenes are cut."""
    build.add_argument(
        "--factors", default="2-10", help="downsampling factors of 40 m, such as 4, 2-10 or 2,4,8 (default 2-10)"
    )
    build.add_argument("--tile", type=int, default=384, help="edge of a tile in pixels (default 384)")
    build.add_argument("--overlap", type=int, default=0, help="pixels that neighbouring tiles share (default 0)")
    build.add_argument(
        "--min-valid", type=float, default=0.25, help="share of valid pixels to keep a tile (default 0.25)"
    )


def _add_layers(build: argparse.ArgumentParser) -> None:
    """How charts are read and pixels averaged."""
    build.add_argument(
        "--rules", choices=("autoice", "corrected"), default="autoice", help="chart rules (default autoice)"
    )
    build.add_argument(
        "--strict", action="store_true", help="an ice code that no table lists is an error, not a warning"
    )
    build.add_argument(
        "--sar-average", choices=("linear", "db"), default="linear", help="average power or dB (default linear)"
    )
    build.add_argument(
        "--block-valid", type=float, default=0.5, help="share of valid pixels for an average to be valid (default 0.5)"
    )
    build.add_argument(
        "--labels", choices=("majority", "nearest", "maximum"), default="majority", help="label reduction"
    )


def _add_check(actions: Actions) -> None:
    """Arguments of `arcticseg shards check`."""
    check = actions.add_parser("check", help="verify every byte", description="Verify shards against their checksums.")
    check.add_argument("shards", type=Path, help="folder of shards")
    check.add_argument("--workers", type=int, help="shards checked at a time (default: cores of this machine)")
    check.set_defaults(main=run_check)


def _add_info(actions: Actions) -> None:
    """Arguments of `arcticseg shards info`."""
    text = "Scenes, samples, class shares and options of a folder of shards; a picture of some of its tiles."
    info = actions.add_parser("info", help="what shards hold", description=text)
    info.add_argument("shards", type=Path, help="folder of shards")
    info.add_argument("--picture", type=Path, metavar="FILE.png", help="draw random tiles with all layers and labels")
    info.add_argument("--tiles", type=int, default=6, help="tiles in the picture (default 6)")
    info.add_argument("--seed", type=int, default=0, help="of the choice of tiles (default 0)")
    info.set_defaults(main=run_info)


def _add_split(actions: Actions) -> None:
    """Arguments of `arcticseg shards split`."""
    text = (
        "Divide scenes into training, validation and test, and the training scenes into label fractions and their "
        "complements; scenes of one satellite pass stay together. A list is a text file, one scene a line, or a JSON "
        "array of names; a given list is taken as it is."
    )
    split = actions.add_parser("split", help="lists of scenes", description=text)
    split.add_argument("scenes", type=Path, help="folder of scenes, or a list of their names")
    split.add_argument("--out", type=Path, required=True, help="folder for train.txt, val.txt, test.txt and so on")
    split.add_argument("--val", type=float, default=0.1, help="share for validation (default 0.1)")
    split.add_argument("--test", type=float, default=0.1, help="share for the test (default 0.1)")
    split.add_argument("--train-list", type=Path, help="the training scenes (default: all that are on no other list)")
    split.add_argument("--val-list", type=Path, help="the validation scenes, instead of --val; they leave the training")
    split.add_argument("--test-list", type=Path, help="the test scenes, instead of --test")
    split.add_argument(
        "--fractions", metavar="PERCENTS", help="write nested labels_20.txt, pretrain_80.txt and so on, of 20,40,60,80"
    )
    split.add_argument(
        "--counts", type=Path, help="stratify fractions by class content, too: shards, a CSV file, or scenes to read"
    )
    split.add_argument("--workers", type=int, default=1, help="scenes read at a time for --counts (default 1)")
    split.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    split.set_defaults(main=run_split)


def _add_stats(actions: Actions) -> None:
    """Arguments of `arcticseg shards stats`."""
    text = "Mean, deviation and histogram of each channel over the training scenes, beside what is published."
    stats = actions.add_parser("stats", help="channel statistics", description=text)
    stats.add_argument("shards", type=Path, help="folder of shards")
    stats.add_argument("--factor", type=int, help="show backscatter and distance at this factor only (default: at all)")
    stats.add_argument("--picture", type=Path, metavar="PNG", help="draw the histograms to this file, too")
    stats.set_defaults(main=run_stats)


def parse_factors(text: str) -> tuple[int, ...]:
    """Factors of `4`, `2-10` or `2,4,8`.

    Raises:
        ConfigError: the text has none of these forms.
    """
    factors: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            factors += range(int(first), int(last if dash else first) + 1)
    except ValueError:
        factors = []
    if not factors or min(factors) < 1:
        raise ConfigError(f"--factors is '{text}'; set factors of 1 or more, such as 4, 2-10 or 2,4,8")
    return tuple(sorted(set(factors)))


def parse_percents(text: str) -> list[int]:
    """Percentages of `20,40,60,80`.

    Raises:
        ConfigError: a part is not a whole number.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--fractions is '{text}'; set percentages of 1 to 100, such as 20,40,60,80") from error


def run_build(arguments: argparse.Namespace) -> None:
    """`arcticseg shards build`."""
    from arcticseg.data.manifest import SPLITS
    from arcticseg.ice.scenes.open import list_scenes
    from shards.build import build, build_share
    from shards.lists import assign

    share = asked_share(arguments)
    config = _build_config(arguments)
    config.check()
    with contextlib.ExitStack() as stack:
        machines = _machines(arguments, stack)
        paths = list_scenes(arguments.scenes)
        splits = assign(paths, _lists(arguments, paths))
        options = (config, machines, arguments.on_error, arguments.extend)
        if share is not None:
            _show_left(share, build_share(splits, arguments.out, share, *options, report=note, progress=progress))
            return
        manifest = build(splits, arguments.out, *options, report=note, progress=progress)
    for part in filter(manifest.splits.__contains__, SPLITS):
        shards = manifest.splits[part]
        samples, size = sum(shard.samples for shard in shards), sum(shard.bytes for shard in shards)
        scenes = sum(facts["split"] == part for facts in manifest.scenes.values())
        show(f"{part:5} {scenes:5} scenes {samples:8} samples {len(shards):5} shards {size / 1e6:10.1f} MB")
    show(f"fingerprint {manifest.fingerprint}")


def _machines(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> Machines:
    """Where scenes are worked on: this machine, or a cluster that is joined until the stack ends."""
    from shards import resources
    from shards.machines import Machine

    time_limit = 60 * arguments.time_limit
    memory = None if arguments.max_memory is None else resources.parse_size(arguments.max_memory, "--max-memory")
    if arguments.ray is None:
        return Machine(resources.cores() if arguments.workers is None else arguments.workers, memory, time_limit)
    for key, value in (("--workers", arguments.workers), ("--max-memory", memory)):
        if value is not None:
            raise ConfigError(f"{key} with --ray: Ray itself goes by what its machines have; leave {key} out")
    from launchers.ray_workers import RayMachines, joined
    from shards.build import PARTS

    stack.enter_context(joined(arguments.ray))
    # Other machines find files by their whole names.
    arguments.scenes, arguments.out = arguments.scenes.absolute(), arguments.out.absolute()
    return RayMachines(arguments.out / PARTS, note, time_limit)


def _show_left(share: Share, left: Left) -> None:
    """What a part has done, and what is left."""
    if not left.total:
        show(f"part {share}: the shards are finished")
        return
    failed = f", {left.failed} could not be read" if left.failed else ""
    rest = f"{left.left} of all {left.total} are left" if left.left else f"all {left.total} are done"
    show(
        f"part {share}: {left.ready} of {left.share} scenes are ready{failed}; {rest}; "
        "the same command without --part does the rest"
    )


def _build_config(arguments: argparse.Namespace) -> BuildConfig:
    """How scenes become shards."""
    from arcticseg.ice.layers import LayerConfig
    from shards.part import BuildConfig

    return BuildConfig(
        tile=arguments.tile,
        factors=parse_factors(arguments.factors),
        overlap=arguments.overlap,
        min_valid=arguments.min_valid,
        shard_bytes=int(arguments.shard_mb * 1e6),
        seed=arguments.seed,
        layers=LayerConfig(
            rules=arguments.rules,
            strict=arguments.strict,
            sar_average=arguments.sar_average,
            min_valid=arguments.block_valid,
            labels=arguments.labels,
        ),
    )


def _lists(arguments: argparse.Namespace, paths: list[Path]) -> dict[str, list[str]]:
    """Scene names by split: from lists, else drawn, or as it suits the shards that are to be extended."""
    from arcticseg.data.manifest import MANIFEST, read_manifest
    from shards import extend, lists, split

    names = [path.stem for path in paths]
    if arguments.lists:
        return lists.read_lists(arguments.lists)
    if arguments.extend and (arguments.out / MANIFEST).exists():
        return extend.default_splits(read_manifest(arguments.out), names)
    with plain_warnings():
        return split.default(names, arguments.seed, lists.facts_in_files(paths))


def run_check(arguments: argparse.Namespace) -> int:
    """`arcticseg shards check`; status 1 when something is wrong."""
    from shards.check import check
    from shards.resources import cores

    with progress("check") as on_progress:
        problems = check(arguments.shards, cores() if arguments.workers is None else arguments.workers, on_progress)
    for problem in problems:
        show(problem)
    show(f"{arguments.shards}: {len(problems)} problems" if problems else f"{arguments.shards}: whole")
    return PROBLEMS if problems else DONE


def run_info(arguments: argparse.Namespace) -> None:
    """`arcticseg shards info`."""
    from shards.info import summary

    show(summary(arguments.shards))
    if arguments.picture:
        from arcticseg.pictures.tiles import draw_tiles

        draw_tiles(arguments.shards, arguments.picture, arguments.tiles, arguments.seed)
        show(f"\n{arguments.picture}")


def run_split(arguments: argparse.Namespace) -> None:
    """`arcticseg shards split`."""
    from shards.lists import Fractions, make_lists

    fractions = None
    if arguments.fractions:
        fractions = Fractions(parse_percents(arguments.fractions), arguments.counts, arguments.workers)
    given = {"train": arguments.train_list, "val": arguments.val_list, "test": arguments.test_list}
    with plain_warnings():
        written = make_lists(
            arguments.scenes,
            arguments.out,
            {part: path for part, path in given.items() if path is not None},
            {"val": arguments.val, "test": arguments.test},
            fractions,
            arguments.seed,
            progress,
        )
    for made in written:
        shares = ", ".join(f"{group} {100 * share:.1f}" for group, share in made.differences.items())
        shown = f"  largest difference of shares, points: {shares}" if shares else ""
        show(f"{made.name:11} {len(made.scenes):5} scenes  {made.path}{shown}")


def run_stats(arguments: argparse.Namespace) -> None:
    """`arcticseg shards stats`."""
    from arcticseg.data.manifest import read_manifest
    from shards import split, stats

    manifest = read_manifest(arguments.shards)
    rows = stats.rows(manifest.statistics, arguments.factor)
    show(stats.table(rows, published=any(map(split.is_ai4arctic, manifest.scenes))))
    if manifest.simulated:
        show("The scenes are SIMULATED; published statistics are those of the real archive.")
    if arguments.picture:
        from arcticseg.pictures.histograms import draw_histograms

        draw_histograms(rows, arguments.picture, manifest.simulated)
        show(arguments.picture)

"""Do two checkouts of this project do the same? Runs both side by side and compares what they write.

    python benchmarks/sameness.py OLD NEW                         everything, some minutes
    python benchmarks/sameness.py OLD NEW --only train,products   some parts
    python benchmarks/sameness.py OLD NEW --tolerance 1e-5        after a change that rounds in another way

OLD and NEW are folders of checkouts. Each is run by processes of its own with PYTHONPATH set to it, in a folder of its
own, on the CPU, one thread a process; config keys are written as the checkout calls them (`sameness_layout.py`).

| part | what is compared, all of it made by each checkout |
|---|---|
| scenes | two simulated scenes and their ready-to-train forms: variables and attributes |
| shards | every file byte for byte; what `shards info` and `stats` print and draw |
| batches | codes, draws and inputs of a training with all augmentations, 1 and 2 ranks |
| masks | masks of a pretraining, 1 and 2 ranks |
| charts | charts and layers of scenes, classes of drawn polygon codes, scores of drawn counts |
| train | losses, scores and weights of 20 steps of MAE, ViT + light, ViT + UPerNet, UNet on 1 and 2 ranks |
| products | evaluation.json, netCDF, GeoTIFF, maps and report |
| sweep | names, number and resolved configs of a study's trials, and of the shipped configs |

On each side by itself, a training that is stopped half-way and resumed must equal the undisturbed one, and that of
`arcticseg train` the probe's. Every comparison is a line, the last line is the summary; the status is 1 where anything
differs, 2 where a checkout does not run at all.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sameness_contents as contents
import sameness_layout as layout
from sameness_contents import Contents
from sameness_steps import PARTS, STEPS, FailedError, Side, steps_of, twins


@dataclass
class Tally:
    """Prints comparisons and counts them."""

    tolerance: float = 0.0
    compared: int = 0
    different: int = 0
    largest: float = 0.0

    def compare(self, name: str, old: Contents, new: Contents) -> None:
        """Compare two contents; nothing at all on either side is a difference, too."""
        texts, share = contents.differences(old, new, self.tolerance)
        self.largest = max(self.largest, share)
        if not old and not new:
            texts = ["neither side made any"]
        if texts:
            more = f" (and {len(texts) - 1} more)" if len(texts) > 1 else ""
            self.say(False, f"{name}: {texts[0]}{more}")
        else:
            size = sum(
                v.nbytes if isinstance(v, np.ndarray) else len(v) if isinstance(v, bytes) else 0 for v in old.values()
            )
            off = f", at most {share:.3g} apart" if share else ""
            held = f"{len(old)} {'files' if _is_files(old) else 'values'}"
            self.say(True, f"{name}: {held}{f', {size / 1e6:.2f} MB' if size else ''}{off}")

    def say(self, same: bool, text: str) -> None:
        """Print and count one comparison."""
        print(f"{'same     ' if same else 'DIFFERENT'} {text}", flush=True)
        self.compared += 1
        self.different += not same

    def summary(self) -> int:
        """Print the last line; return the exit status."""
        if self.tolerance:
            print(f"largest difference of floating values: {self.largest:.3g} (tolerance {self.tolerance:g})")
        n, m = self.compared, self.different
        print(f"{m} of {n} differ" if m else f"identical: {n} comparisons")
        return 1 if m else 0


def _is_files(held: Contents) -> bool:
    return all(isinstance(value, bytes) for value in held.values())


def compare_part(part: str, tally: Tally, old: Side, new: Side) -> None:
    """All comparisons of a part."""
    read = PARTS[part][1]
    ours, theirs = read(old), read(new)
    if part == "sweep":
        theirs = without_new_defaults(ours, theirs, layout.canonical(new.defaults))
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        tally.compare(f"{part}: {name}", ours.get(name, {}), theirs.get(name, {}))
    if part == "train":
        for side in (old, new):
            for name, once, again in twins(side):
                tally.compare(f"{part}: {name}", once, again)


def without_new_defaults(
    old: Mapping[str, Contents], new: Mapping[str, Contents], defaults: Mapping[str, Any]
) -> dict[str, Contents]:
    """The configs of the new side without keys that only it has and that stand at their defaults; these are listed."""
    left_out: dict[str, Any] = {}
    kept = {}
    for name, config in new.items():
        known = old.get(name, config)
        added = {key: value for key, value in config.items() if key not in known and value == defaults.get(key, value)}
        left_out |= added
        kept[name] = {key: value for key, value in config.items() if key not in added}
    for key, value in sorted(left_out.items()):
        print(f"only NEW  {key}: {value!r}")
    return kept


@contextmanager
def work_folder(place: Path | None) -> Iterator[Path]:
    """The folder given, which stays, or one that is removed in the end."""
    if place is not None:
        yield place.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="sameness-") as folder:
        yield Path(folder).resolve()


def compare(sides: tuple[Side, Side], parts: Sequence[str], tally: Tally) -> None:
    """Do the steps, each on both sides at once, and compare what comes of them."""
    failed: set[str] = set()
    with ThreadPoolExecutor(2) as pool:
        for step in steps_of(parts):
            began = time.monotonic()
            own = [part for part in parts if PARTS[part][0] == step]
            if failed & set(STEPS[step][0]):
                failed.add(step)
                for part in own:
                    tally.say(False, f"{part}: is not made, since a step before it failed")
                continue
            results = [pool.submit(STEPS[step][1], side, parts) for side in sides]
            try:
                errors = [error for error in (result.exception() for result in results) if error is not None]
            except KeyboardInterrupt:
                for side in sides:
                    side.kill()
                raise
            print(f"{step} made in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            for error in errors:
                if not isinstance(error, (FailedError, LookupError)):
                    raise error
                failed.add(step)
                tally.say(False, f"{step}: {error}")
            for part in own if not errors else ():
                try:
                    compare_part(part, tally, *sides)
                except (OSError, LookupError, ValueError) as error:
                    tally.say(False, f"{part}: results cannot be read: {error!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD", help="folder of a checkout")
    parser.add_argument("new", type=Path, metavar="NEW", help="folder of another checkout")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART[,PART]", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--tolerance", type=float, default=0.0, help="relative difference that floats may have")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="new folder to work in, which stays")
    arguments = parser.parse_args(argv)
    parts = [part for part in PARTS if part in arguments.only.split(",")]
    unknown = set(arguments.only.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--only names {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    for place in (arguments.old, arguments.new):
        if not (place / "arcticseg").is_dir():
            parser.error(f"{place}: holds no package arcticseg; give the folder of a checkout")
    if arguments.work is not None and arguments.work.exists():
        parser.error(f"--work is {arguments.work}, which exists; give a new folder")
    # So a SIGTERM, too, ends the commands that run.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tally = Tally(arguments.tolerance)
    with work_folder(arguments.work) as work:
        old, new = (
            Side(name, place.resolve(), work / name.lower())
            for name, place in (("OLD", arguments.old), ("NEW", arguments.new))
        )
        try:
            old.prepare()
            new.prepare()
        except FailedError as error:
            parser.exit(2, f"{error}\n")
        compare((old, new), parts, tally)
    return tally.summary()


if __name__ == "__main__":
    sys.exit(main())

"""Copies and assembly beside compute give what a CPU gives, without a host that waits; skipped without CUDA."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

from arcticseg.data.augment import Augment
from arcticseg.data.config import DataConfig
from arcticseg.data.decode import Layout
from arcticseg.data.inputs import Inputs
from arcticseg.data.loader import Loader, make_order
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import Selection, select
from arcticseg.data.share import Share
from arcticseg.data.transforms import Assemble
from arcticseg.data.validation import ValidationLoader
from arcticseg.engine.feed import Feed
from arcticseg.engine.process_group import Ranks
from arcticseg.engine.stage import make_stage
from arcticseg.ice.channels import GROUPS, expand
from arcticseg.ice.sigrid import N_CLASSES
from arcticseg.models.config import ModelConfig
from arcticseg.tasks.pretrain import Pretrain
from arcticseg.tasks.segment import confusion_counts
from arcticseg.tasks.task import Task
from tests.tensors import close
from tests.unit.tasks.test_segment import task_of

sys.path.append(str(Path(__file__).parents[1] / "unit" / "data"))
import made

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SIZE, MICRO, STEPS = 64, 4, 6
CHANNELS = expand(GROUPS)
LAYOUT = Layout.of(SIZE, (4,), CHANNELS)
AUGMENTS = {
    "none": Augment(),
    "turns": Augment(0, True, True, (("hh", 0.5), ("amsr2", 0.5))),
    "all": Augment(0, True, True, (("era5", 0.3),), 0.5, 0.8),
    "free": Augment(0, True, True, (("hv", 0.5),), 0.8, 0.5, 45, 1.2, 2, 0.3),
}
# Clock cycles for which the device is kept busy, so that the host is far ahead.
BUSY = 20_000_000


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    folder = tmp_path_factory.mktemp("shards")
    tiles = [made.tile(i, size=SIZE, cells=(3, 0, 5, 4)[i % 4], labelled=i % 5 > 0) for i in range(24)]
    tiles[0].geo[2, 0, 0] = float("nan")
    return select(folder, made.write(folder, tiles), "train")


def feed_of(
    selection: Selection, task: Task, device: torch.device, workers: int, augment: Augment, dtype: object
) -> Feed:
    order = make_order(selection, DataConfig(), "none", 0)
    share, cuda = Share(0, 1, 3 * MICRO, MICRO), device.type == "cuda"
    loader = Loader(SampleReader(selection), LAYOUT, order, share, workers, augment, pin_memory=cuda)
    assemble = Assemble(CHANNELS, True, want=task.want(dtype))  # type: ignore[arg-type]
    ranks = Ranks(0, 0, 1, 1, device)
    return Feed(loader, assemble, task, ranks, lambda: False, list, lambda step, places: places + step)


def compiled(assemble: Assemble) -> Assemble:
    """The same, compiled."""
    return Assemble(assemble.channels, assemble.valid_plane, assemble.statistics, assemble.want, compiled=True)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def parts_of(inputs: Inputs) -> dict[str, Tensor]:
    """Copies of all tensors, on the device, and what the network sees."""
    parts = {name: part.clone() for name, part in vars(inputs).items() if isinstance(part, Tensor)}
    return parts | {"seen": inputs.seen.clone()}


def check_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], dtype: object) -> None:
    assert ours.keys() == theirs.keys()
    for name, part in ours.items():
        if part.dtype.is_floating_point:
            atol = 2e-3 if part.dtype == torch.float32 else 2e-2
            torch.testing.assert_close(part.cpu().float(), theirs[name].float(), rtol=1e-2, atol=atol, msg=name)
        else:
            assert torch.equal(part.cpu(), theirs[name]), name


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("name", ["segment", "pretrain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_turns_are_those_of_a_cpu(dtype: object, name: str, augment: str, workers: int, selection: Selection) -> None:
    """Compute lags far behind the host, so inputs would be overwritten if their memory were used too early."""
    if augment == "none" and workers:
        pytest.skip("said by the others")
    task = task_of(ModelConfig()) if name == "segment" else Pretrain([0, 1, 4], 16, 0.75, 0)
    kept: dict[str, list[dict[str, Tensor]]] = {}
    counted: dict[str, list[Tensor]] = {}
    for kind in ("cpu", "cuda"):
        feed = feed_of(
            selection,
            task,
            torch.device(kind, 0) if kind == "cuda" else torch.device(kind),
            workers,
            AUGMENTS[augment],
            dtype,
        )
        kept[kind], counted[kind] = [], []
        for turn in feed.turns(0, STEPS):
            counted[kind].append(turn.counted)
            for inputs in turn:
                if kind == "cuda":
                    torch.cuda._sleep(BUSY)
                kept[kind].append(parts_of(inputs))
            feed.loader.stepped()
        torch.cuda.synchronize()
        feed.loader.close()
    assert len(kept["cpu"]) == len(kept["cuda"]) == 3 * STEPS
    for ours, theirs in zip(kept["cuda"], kept["cpu"], strict=True):
        check_same(ours, theirs, dtype)
    assert torch.equal(torch.stack(counted["cuda"]).cpu(), torch.stack(counted["cpu"]))


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("name", ["segment", "pretrain"])
def test_no_host_waits_in_a_turn(name: str, augment: str, selection: Selection) -> None:
    task = task_of(ModelConfig()) if name == "segment" else Pretrain([0, 1], 16, 0.75, 0)
    feed = feed_of(selection, task, torch.device("cuda", 0), 0, AUGMENTS[augment], torch.bfloat16)
    turns = feed.turns(0, 6)
    for number, turn in enumerate(turns):
        # The first makes what is kept: constants and memory.
        if number == 0:
            list(turn)
            continue
        with no_waiting():
            for inputs in turn:
                task.counts(inputs)
            if number < 5:
                feed.loader.stepped()
    feed.loader.close()


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("name", ["segment", "pretrain"])
def test_compiled_turns_are_those_of_a_cpu(name: str, augment: str, selection: Selection) -> None:
    """To rounding to bf16, with all that counts; on a stream beside that of compute, in memory that is used again."""
    task = task_of(ModelConfig()) if name == "segment" else Pretrain([0, 1, 4], 16, 0.75, 0)
    kept: dict[str, list[dict[str, Tensor]]] = {}
    counted: dict[str, list[Tensor]] = {}
    for kind in ("cpu", "cuda"):
        device = torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu")
        feed = feed_of(selection, task, device, 0, AUGMENTS[augment], torch.bfloat16)
        if kind == "cuda":
            feed._assemble = compiled(feed._assemble)
            feed.stage = make_stage(feed._assemble, device)
            feed.loader.copies_on(feed.stage.stream)
        kept[kind], counted[kind] = [], []
        for turn in feed.turns(0, 3):
            counted[kind].append(turn.counted)
            for inputs in turn:
                if kind == "cuda":
                    torch.cuda._sleep(BUSY)
                kept[kind].append(parts_of(inputs))
            feed.loader.stepped()
        torch.cuda.synchronize()
        feed.loader.close()
    assert torch.equal(torch.stack(counted["cuda"]).cpu(), torch.stack(counted["cpu"]))
    for ours, theirs in zip(kept["cuda"], kept["cpu"], strict=True):
        check_same(ours, theirs, torch.bfloat16)
        close(ours["x"].cpu(), theirs["x"])


@pytest.mark.parametrize("augment", ["turns", "all"])
def test_compiled_assembly_is_one_pass(augment: str, selection: Selection) -> None:
    """No second memory of the size of the input."""
    task = Pretrain([0, 1], 16, 0.75, 0)
    device = torch.device("cuda", 0)
    feed = feed_of(selection, task, device, 0, AUGMENTS[augment], torch.bfloat16)
    assemble = compiled(feed._assemble)
    batch = assemble.moved(feed.loader.step()[0], device)
    planes = assemble.empty(len(batch), batch.size, device)
    assemble.into(batch, planes)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile, no_waiting():
        assemble.into(batch, planes)
    torch.cuda.synchronize()
    kernels = sum(event.count for event in profile.key_averages())
    assert torch.cuda.max_memory_allocated() - before < planes.x.nbytes / 2
    assert kernels < 80
    feed.loader.close()


def test_validation_gives_what_a_cpu_gives(selection: Selection) -> None:
    task = task_of(ModelConfig())
    seen: dict[str, list[tuple[Tensor, int]]] = {}
    for kind in ("cpu", "cuda"):
        device = torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu")
        feed = feed_of(selection, task, device, 0, Augment(), torch.bfloat16)
        loader = ValidationLoader(SampleReader(selection), LAYOUT, Share(0, 1, 5, 5), 0, pin_memory=kind == "cuda")
        loader.stream = feed.stage.stream
        seen[kind] = []
        for inputs, n in feed.passing(iter(loader)):
            if kind == "cuda":
                torch.cuda._sleep(BUSY)
            seen[kind].append((inputs.x.clone(), n))
        feed.loader.close()
    assert [n for _, n in seen["cpu"]] == [n for _, n in seen["cuda"]] == [5, 5, 5, 5, 4]
    for (ours, _), (theirs, _) in zip(seen["cuda"], seen["cpu"], strict=True):
        torch.testing.assert_close(ours.cpu().float(), theirs.float(), rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("chart", N_CLASSES)
def test_confusion_is_that_of_a_cpu(chart: str) -> None:
    n = N_CLASSES[chart]
    torch.manual_seed(n)
    labels = torch.randint(0, n, (9, 200, 201), dtype=torch.uint8)
    labels[torch.rand(labels.shape) < 0.3] = 255
    predicted = torch.randint(0, n, labels.shape, dtype=torch.uint8)
    ours, theirs = labels.cuda(), predicted.cuda()
    with no_waiting():
        counts = confusion_counts(ours, theirs, n)
    assert counts.dtype == torch.int64
    assert torch.equal(counts.cpu(), confusion_counts(labels, predicted, n))

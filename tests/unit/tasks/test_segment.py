"""The task of drawing charts."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn
from torch.nn import functional as F

from arcticseg import config
from arcticseg.errors import ArcticSegError
from arcticseg.ice.sigrid import CHARTS, N_CLASSES
from arcticseg.models.build import build_segmenter
from arcticseg.models.config import HeadConfig, ModelConfig
from arcticseg.tasks.config import SegmentConfig
from arcticseg.tasks.losses.region import Dice
from arcticseg.tasks.segment import Segment, make_segment
from tests.networks import small
from tests.tensors import charts_like, inputs_of


def task_of(model: ModelConfig, **weights: float) -> Segment:
    """The task of a network, with the losses of its heads."""
    heads = {chart: model.head(chart).make(4, chart) for chart in model.charts}
    segment = SegmentConfig(dict.fromkeys(CHARTS, 1.0) | weights)
    return make_segment(segment, model, heads)


def test_classes_round_a_regression_and_take_the_largest_logit() -> None:
    sic = torch.tensor([-3.0, 0.4, 0.6, 9.6, 12.0]).view(1, 1, 1, 5)
    sod, floe = torch.zeros(1, 6, 1, 5), torch.zeros(1, 7, 1, 5)
    sod[:, 4], floe[:, 6] = 1, 1
    classes = task_of(ModelConfig()).classes({"SIC": sic, "SOD": sod, "FLOE": floe})
    assert classes["SIC"][0, 0].tolist() == [0, 0, 1, 10, 10]
    assert classes["SOD"][0, 0].tolist() == [4] * 5
    assert classes["FLOE"][0, 0].tolist() == [6] * 5
    assert {part.dtype for part in classes.values()} == {torch.uint8}


class Constant(nn.Module):
    """Predicts SIC 7, SOD 2, FLOE 3 everywhere."""

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> dict[str, Tensor]:
        size = (x.shape[0], 1, *x.shape[2:])
        sod, floe = torch.zeros(size).repeat(1, 6, 1, 1), torch.zeros(size).repeat(1, 7, 1, 1)
        sod[:, 2], floe[:, 3] = 9, 9
        return {"SIC": torch.full(size, 7.0), "SOD": sod, "FLOE": floe}


def test_labelled_pixels_are_counted_and_only_the_first_samples_tallied() -> None:
    labels = charts_like(3, 8)
    inputs = inputs_of(torch.zeros(3, 2, 8, 8), labels)
    task = task_of(ModelConfig(), FLOE=0.5)
    assert task.terms == CHARTS
    assert task.weights == (1.0, 1.0, 0.5)
    assert task.best_by == ("combined", "SIC", "SOD", "FLOE")
    assert not task.learns
    counts = task.counts(inputs)
    assert counts.dtype == torch.float64
    assert counts.tolist() == [int((labels[:, i] != 255).sum()) for i in range(3)]
    tally = task.tally(Constant(), inputs, 2)
    assert tally.sum() == int((labels[:2] != 255).sum())
    sod = tally[121 : 121 + 36].reshape(6, 6)
    assert sod[:, 2].tolist() == [int((labels[:2, 1] == k).sum()) for k in range(6)]
    assert {name for name in task.scores(tally.numpy()) if "/" not in name} == {"SIC", "SOD", "FLOE", "combined"}


@pytest.mark.parametrize("head", ["classification", "regression"])
def test_a_tally_is_the_confusion_of_scikit_learn(head: str) -> None:
    """Of outputs in bf16, with masked pixels, of the first samples."""
    torch.manual_seed(3)
    model = ModelConfig(heads={"SIC": HeadConfig.named(head)})
    task = task_of(model)
    labels = charts_like(4, 16)
    planes = N_CLASSES | ({"SIC": 1} if head == "regression" else {})
    outputs = {chart: 4 * torch.randn(4, planes[chart], 16, 16).bfloat16() for chart in CHARTS}
    tally = task.tally(lambda x: outputs, inputs_of(torch.zeros(4, 2, 16, 16), labels), 3)
    assert tally.dtype == torch.int64
    first = 0
    for i, chart in enumerate(CHARTS):
        n, kept = N_CLASSES[chart], labels[:3, i] != 255
        values = outputs[chart][:3].float().numpy()
        guess = values.argmax(1) if planes[chart] > 1 else np.rint(values[:, 0]).clip(0, n - 1)
        expected = confusion_matrix(labels[:3, i][kept], guess.astype(int)[kept.numpy()], labels=range(n))
        np.testing.assert_array_equal(tally[first : first + n * n].reshape(n, n), expected)
        first += n * n
    assert first == len(tally) - 1


def test_sums_are_those_of_the_losses_written_out() -> None:
    labels = charts_like(2, 4)
    sums = task_of(ModelConfig()).sums(Constant(), inputs_of(torch.zeros(2, 2, 4, 4), labels))
    sic, sod, floe = (labels[:, i][labels[:, i] != 255].double().numpy() for i in range(3))
    expected = [(((7 - sic) / 5) ** 2).sum()]
    for classes, n, predicted in ((sod, 6, 2), (floe, 7, 3)):
        normaliser = np.log(np.exp(9) + n - 1)
        expected.append((normaliser - 9 * (classes == predicted)).sum())
    np.testing.assert_allclose(sums, expected, rtol=1e-5)


def test_several_losses_of_a_chart_are_terms_each() -> None:
    segment = config.build(
        SegmentConfig,
        {
            "weights": {"SIC": 1, "SOD": 3, "FLOE": 2},
            "losses": {"SOD": ["cross_entropy", {"name": "dice", "weight": 0.5}]},
        },
    )
    model = ModelConfig()
    heads = {chart: model.head(chart).make(4, chart) for chart in CHARTS}
    weights = [1.0, 2.0, 3.0, 0.5, 0.5, 0.5]
    task = make_segment(segment, model, heads, {"SOD": weights})
    assert task.terms == ("SIC", "SOD_cross_entropy", "SOD_dice", "FLOE")
    assert task.weights == (1.0, 3.0, 1.5, 2.0)
    assert task.best_by == ("combined", "SIC", "SOD", "FLOE")
    torch.manual_seed(0)
    labels = charts_like(2, 8)
    outputs = {chart: torch.randn(2, planes, 8, 8) for chart, planes in zip(CHARTS, (1, 6, 7), strict=True)}
    inputs = inputs_of(torch.zeros(2, 2, 8, 8), labels)
    means = task.sums(lambda x, seeds: outputs, inputs) / task.counts(inputs)
    target = labels[:, 1].long()
    entropy = F.cross_entropy(outputs["SOD"], target, torch.tensor(weights), ignore_index=255)
    dice = Dice("SOD").sums(outputs["SOD"], labels[:, 1]) / 2
    torch.testing.assert_close(means[1:3].float(), torch.stack([entropy, dice]))


@pytest.mark.parametrize("head", ["classification", "regression"])
def test_compiled_losses_and_tallies_are_one_graph_each_with_the_same_numbers(head: str) -> None:
    torch.manual_seed(3)
    model = ModelConfig(heads={"SIC": HeadConfig.named(head)})
    inputs = inputs_of(torch.zeros(4, 2, 16, 16), charts_like(4, 16))
    planes = N_CLASSES | ({"SIC": 1} if head == "regression" else {})
    outputs = {chart: (4 * torch.randn(4, planes[chart], 16, 16)).requires_grad_() for chart in CHARTS}

    def found(task: Segment) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        sums = task.sums(lambda x, seeds: outputs, inputs)
        grads = torch.autograd.grad(sums.sum(), list(outputs.values()))
        return sums, task.tally(lambda x: outputs, inputs, 3), grads

    task = task_of(model)
    sums, tally, grads = found(task)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    task.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    compiled = found(task)
    torch.testing.assert_close(compiled[0], sums, rtol=1e-6, atol=0)
    torch.testing.assert_close(compiled[2], grads, rtol=1e-6, atol=1e-6)
    assert torch.equal(compiled[1], tally)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_the_scores_of_some_charts_are_the_same_as_among_all() -> None:
    inputs = inputs_of(torch.zeros(2, 2, 8, 8), charts_like(2, 8))
    whole = task_of(ModelConfig())
    of_all = whole.scores(whole.tally(Constant(), inputs, 2).numpy())
    for charts in (("SIC",), ("SOD", "FLOE")):
        task = task_of(ModelConfig(charts=charts))
        assert task.best_by == charts
        tally = task.tally(Constant(), inputs, 2)
        assert len(tally) == sum(N_CLASSES[chart] ** 2 for chart in charts) + 1
        own = {name: value for name, value in of_all.items() if name.partition("/")[0] in charts}
        assert {*charts, f"{charts[0]}/mIoU"} < own.keys()
        assert task.scores(tally.numpy()) == own
        assert task.counts(inputs).tolist() == [
            count for chart, count in zip(CHARTS, whole.counts(inputs).tolist(), strict=True) if chart in charts
        ]


@pytest.mark.parametrize("charts", [("SIC",), ("SOD", "FLOE")])
@pytest.mark.parametrize("kind", ["light", "upernet", "unet"])
def test_a_network_of_some_charts_learns_from_their_labels_alone(kind: str, charts: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = small(kind, charts=charts)
    network = build_segmenter(model, 2, 32)
    heads = {chart: network.head(chart) for chart in charts}
    task = make_segment(SegmentConfig(), model, heads)
    labels = charts_like(1, 32)
    labels[:, [i for i, chart in enumerate(CHARTS) if chart not in charts]] = 255
    inputs = inputs_of(torch.randn(1, 2, 32, 32), labels)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses_seen = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = task.loss(task.sums(network, inputs), task.counts(inputs), 1)
        loss.backward()
        optimiser.step()
        losses_seen.append(loss.item())
    assert losses_seen[-1] < losses_seen[0]
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_outputs_that_are_no_numbers_give_no_scores(bad: float) -> None:
    """They would count as class 0, open water."""
    task = task_of(ModelConfig(heads={"SIC": HeadConfig.named("classification")}))
    outputs = {chart: torch.zeros(4, N_CLASSES[chart], 16, 16) for chart in CHARTS}
    inputs = inputs_of(torch.zeros(4, 2, 16, 16), charts_like(4, 16))
    outputs["SOD"][3, 1, 2, 5] = bad
    # Samples that do not count may be anything.
    assert set(task.scores(task.tally(lambda x: outputs, inputs, 3).numpy())) >= set(CHARTS)
    with pytest.raises(ArcticSegError, match=r"NaN or infinity.*1 values.*optim\.lr"):
        task.scores(task.tally(lambda x: outputs, inputs, 4).numpy())

"""The report page and the score table, made from evaluations written here."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from arcticseg.errors import OutputError, ReportError
from arcticseg.pictures.curves import Series, line_chart, round_ticks, running_mean, thinned
from arcticseg.pictures.report import score_table, write_report
from arcticseg.pictures.results import read_evaluation, read_evaluations, read_run

KEYS = ("SIC", "SOD", "FLOE", "combined")
SIZES = {"SIC": 11, "SOD": 6, "FLOE": 7}


def scores(*values: float | None) -> dict[str, float | None]:
    return dict(zip(KEYS, values, strict=True))


def evaluation(name: str, pooled: dict[str, float | None]) -> dict[str, Any]:
    confusion = {k: [[100 * (i == j) + (i + j) % 3 for j in range(n)] for i in range(n)] for k, n in SIZES.items()}
    return {
        "format": 1,
        "name": name,
        "run": None,
        "factor": 4,
        "pixel_spacing": 80,
        "simulated": False,
        "n_scenes": 2,
        "pooled": pooled,
        "confusion": confusion,
        "baselines": [
            {"name": "majority class", "pooled": scores(-12.25, 44.2, 41.3, 21.4)},
            {"name": "logistic regression", "pooled": scores(22.6, 51.7, 48.8, 39.9)},
        ],
        "scenes": [
            {"scene": name, "simulated": False, "pooled": pooled, "map": None, "product": None}
            for name, pooled in (
                ("S1A_first", scores(61.1, 62.2, 63.3, 64.4)),
                ("S1B_second", scores(None, 71.2, None, None)),
            )
        ],
        "created": "2026-01-02T03:04:05+00:00",
        "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
        "seconds": 12.34,
    }  # fmt: skip


def save(folder: Path, record: dict[str, Any], **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "evaluation.json"
    path.write_text(json.dumps({**record, **changes}))
    return path


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return save(tmp_path / "vit", evaluation("ViT, pretrained", scores(78.123, 81.04, 70.16, 77.66)))


@pytest.fixture
def unet(tmp_path: Path) -> Path:
    return save(tmp_path / "unet", evaluation("UNet <scratch>", scores(71.49, 76.25, 72.91, 73.63)))


def make_run(folder: Path, *, labelled: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("optim:\n  lr: 0.000123  # <written>\n")
    lines = [{"step": s, "kind": "train", "loss": 3 / s, "lr": 1e-4} for s in range(1, 31)]
    for samples, damaged in ((512, 1), (1234, 2)):  # stopped, and then finished
        rest = {"dropped": 5, "padded": 0} if damaged == 2 else {}
        lines.append({"step": 30, "kind": "event", "event": "summary", "samples": samples, "damaged": damaged} | rest)
    lines.append({"step": 30, "kind": "event", "event": "damaged validation sample, left out", "number": 3})
    if not labelled:
        lines += [{"step": s, "kind": "scores", "probe_SIC": 2.0 * s, "probe_SOD": None} for s in (10, 20)]
    if labelled:
        lines.append({"step": 30, "kind": "validation", **scores(50.0, None, float("nan"), 40.0)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


class Page(HTMLParser):
    """Checks that tags are balanced; collects text and attributes."""

    VOID = frozenset({"meta", "br", "img", "input", "wbr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def test_two_evaluations_on_one_page(vit: Path, unet: Path, tmp_path: Path) -> None:
    path = write_report([vit, unet], tmp_path / "out")
    assert path == tmp_path / "out" / "report.html"
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    expected = (78.123, 81.04, 70.16, 77.66, 71.49, 76.25, 72.91, 73.63, 44.2, 41.3, 21.4, 22.6, 51.7, 48.8, 39.9)
    numbers = [f"{value:.1f}" for value in expected] + ["\N{MINUS SIGN}12.2", "61.1", "62.2", "71.2", "\N{EN DASH}"]
    for number in numbers:
        assert number in page.text, number
    assert "UNet <scratch>" in page.text
    assert "<scratch>" not in html
    # Both evaluations bring the same baselines: one row each.
    assert page.text.count("majority class") == 1
    assert "SIMULATED" not in page.text
    assert "77.7 points" in page.text
    # 77.66 - 39.9
    assert "37.8 points above the best baseline (logistic regression)" in page.text
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_the_page_needs_nothing_from_outside(vit: Path, tmp_path: Path) -> None:
    html = write_report([vit], tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link|<iframe", html)
    for tag, key, value in Page(html).attributes:
        if key in {"src", "href"}:
            assert value.startswith(("data:", "#")), (tag, value)


def test_the_best_of_each_column_is_marked(vit: Path, unet: Path, tmp_path: Path) -> None:
    html = write_report([vit, unet], tmp_path).read_text(encoding="utf-8")
    best = re.findall(r'<td class="best"[^>]*>([^<]*)</td>', html)
    assert sorted(best) == sorted(["78.1", "81.0", "72.9", "77.7"])


def test_score_table_for_the_terminal(vit: Path, unet: Path) -> None:
    lines = score_table([unet, vit]).splitlines()
    rows = [line.split("  ") for line in lines]
    names = [row[0].strip() for row in rows if not row[0].startswith("─")]
    assert names[1:5] == ["ViT, pretrained", "UNet <scratch>", "logistic regression", "majority class"]
    assert lines[2].split()[-4:] == ["78.1*", "81.0*", "70.2", "77.7*"]
    assert lines[3].split()[-4:] == ["71.5", "76.2", "72.9*", "73.6"]
    assert lines[6].split()[-4:] == ["−12.2", "44.2", "41.3", "21.4"]
    assert lines[-1] == "2 scenes at 80 m; * best of its column"


def test_simulated_scenes_are_called_so(vit: Path, tmp_path: Path) -> None:
    record = json.loads(vit.read_text())
    record["simulated"] = True
    record["scenes"][0]["simulated"] = True
    save(vit.parent, record)
    text = Page(write_report([vit], tmp_path).read_text(encoding="utf-8")).text
    assert "SIMULATED SCENES 1 of 2 scenes in this report is simulated." in text
    assert "S1A_firstsimulated" in text
    assert "S1B_secondsimulated" not in text
    assert "2 SIMULATED scenes at 80 m" in score_table([vit])


def test_maps_are_embedded_and_reduced(vit: Path, unet: Path, tmp_path: Path) -> None:
    for path, colour in ((vit, (0, 120, 0)), (unet, (255, 0, 0))):
        record = json.loads(path.read_text())
        record["scenes"][0]["map"] = "maps/map.png"
        record["scenes"][1]["map"] = "maps/gmap.png"
        save(path.parent, record)
        (path.parent / "maps").mkdir()
        Image.new("RGB", (3000, 900), colour).save(path.parent / "maps" / "map.png")
    page = Page(write_report([vit, unet], tmp_path).read_text(encoding="utf-8"))
    sources = [value for tag, key, value in page.attributes if (tag, key) == ("img", "src")]
    assert len(sources) == 2
    for source, colour in zip(sources, ((0, 120, 0), (255, 0, 0)), strict=True):
        kind, data = source.split(",")
        assert kind == "data:image/webp;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == (2000, 600)
            pixel = image.convert("RGB").getpixel((1000, 300))
        assert isinstance(pixel, tuple)
        assert max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) < 12
    assert "The map of ViT, pretrained, gmap.png" in page.text


def test_runs_bring_curves_and_configs(vit: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "vit")
    mae = make_run(tmp_path / "runs" / "mae", labelled=False)
    save(vit.parent, json.loads(vit.read_text()), run="runs/vit")
    page = Page(write_report([vit], tmp_path, runs=[mae, tmp_path / "runs" / "vit"]).read_text(encoding="utf-8"))
    charts = [value for tag, key, value in page.attributes if (tag, key) == ("svg", "aria-label")]
    assert charts == [
        "Training loss, without labels", "Linear probe, SIC R²", "Training loss", "Validation combined score",
        "Validation SIC R²",
    ]  # fmt: skip
    assert page.text.count("lr: 0.000123 # <written>") == 2
    assert "Config of ViT, pretrained" in page.text
    assert "Config of mae" in page.text
    data = "1,234 samples, 2 damaged and replaced, 5 left out at the end, too few for a step"
    assert f"ViT, pretrained: {data}" in page.text
    assert f"mae: {data}" in page.text
    assert "512 samples" not in page.text
    assert "repeated" not in page.text


def test_a_run_that_is_gone_is_said_and_one_that_is_asked_for_must_be_there(vit: Path, tmp_path: Path) -> None:
    save(vit.parent, json.loads(vit.read_text()), run="runs/elsewhere")
    text = Page(write_report([vit], tmp_path).read_text(encoding="utf-8")).text
    assert "The run of ViT, pretrained (runs/elsewhere) was not found" in text
    with pytest.raises(ReportError, match=rf"^{tmp_path}/nowhere/config\.yaml: "):
        write_report([vit], tmp_path, runs=[tmp_path / "nowhere"])


def test_evaluations_on_different_scenes_are_not_ranked_together(vit: Path, unet: Path, tmp_path: Path) -> None:
    record = json.loads(unet.read_text())
    record["scenes"] = record["scenes"][:1]
    save(unet.parent, record)
    text = Page(write_report([vit, unet], tmp_path).read_text(encoding="utf-8")).text
    assert "compare within a table, not between tables" in text
    assert text.count("majority class") == 2
    assert score_table([vit, unet]).count("* best of its column") == 2


def test_differing_baselines_of_one_name_are_both_shown(vit: Path, unet: Path, tmp_path: Path) -> None:
    record = json.loads(unet.read_text())
    record["baselines"][1]["pooled"]["SIC"] = 23.4
    save(unet.parent, record)
    text = Page(write_report([vit, unet], tmp_path).read_text(encoding="utf-8")).text
    assert text.count("logistic regression of ") == 2
    assert text.count("majority class") == 1


def test_equal_names_are_told_apart_and_a_file_given_twice_counts_once(vit: Path, unet: Path) -> None:
    save(unet.parent, json.loads(vit.read_text()))
    assert [e.name for e in read_evaluations([vit, unet.parent])] == [
        f"ViT, pretrained ({folder})" for folder in (vit.parent, unet.parent)
    ]
    assert len(read_evaluations([vit, vit.parent])) == 1


def test_undefined_everywhere(tmp_path: Path) -> None:
    record = evaluation("nothing", scores(None, None, None, None))
    record["confusion"] = {k: [[0] * n for _ in range(n)] for k, n in SIZES.items()}
    record["baselines"] = []
    path = save(tmp_path / "e", record)
    text = Page(write_report([path], tmp_path).read_text(encoding="utf-8")).text
    assert text.count("No labelled pixel.") == 3
    assert score_table([path]).splitlines()[2].split() == ["nothing", "–", "–", "–", "–"]


def change(record: dict[str, Any], where: str, value: object) -> dict[str, Any]:
    record = copy.deepcopy(record)
    *parents, last = [int(part) if part.isdigit() else part for part in where.split("/")]
    inner: Any = record
    for part in parents:
        inner = inner[part]
    if value is KeyError:
        del inner[last]
    else:
        inner[last] = value
    return record


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("format", 2, "format is 2; .*1"),
        ("name", KeyError, "name "),
        ("factor", "4", "factor is '4'"),
        ("factor", True, "factor is True"),
        ("simulated", 1, "simulated is 1"),
        ("pooled/SIC", "78", r"pooled\.SIC is '78'"),
        ("pooled/combined", KeyError, r"pooled\.combined "),
        ("confusion/SOD", [[1, 2], [3, 4]], r"confusion\.SOD is \[\[1, 2\], \[3, 4\]\]; .*6"),
        ("confusion/SIC/3", None, r"confusion\.SIC is .*; .*11"),
        ("baselines/1/name", None, r"baselines\[1\]\.name is None"),
        ("scenes/0", "S1A", r"scenes\[0\] is 'S1A'"),
        ("scenes/1/pooled/FLOE", [], r"scenes\[1\]\.pooled\.FLOE is \[\]"),
    ],
)
def test_a_bad_value_is_named(vit: Path, where: str, value: object, message: str) -> None:
    save(vit.parent, change(json.loads(vit.read_text()), where, value))
    with pytest.raises(ReportError, match=f"^{re.escape(str(vit))}: {message}") as caught:
        read_evaluation(vit)
    assert "run `arcticseg evaluate` again" in str(caught.value) or "format 1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_an_evaluation(tmp_path: Path, vit: Path) -> None:
    with pytest.raises(ReportError, match=r"evaluation\.json"):
        write_report([], tmp_path)
    with pytest.raises(ReportError, match=rf"^{tmp_path}/evaluation\.json: "):
        read_evaluation(tmp_path)
    vit.write_text('{"format": 1, ')
    with pytest.raises(ReportError, match=rf"^{vit}: .* line 1"):
        read_evaluation(vit)
    vit.write_text("[1]")
    with pytest.raises(ReportError, match=rf"^{vit}: .*\[1\]"):
        read_evaluation(vit)
    vit.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReportError, match=rf"^{vit}: .*text"):
        read_evaluation(vit)


def test_a_map_that_is_not_a_picture_and_an_output_that_cannot_be(vit: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    with pytest.raises(OutputError, match=rf"^{blocked}"):
        write_report([vit], blocked / "report.html")
    record = json.loads(vit.read_text())
    record["scenes"][0]["map"] = "map.png"
    save(vit.parent, record)
    (vit.parent / "map.png").write_text("no picture")
    with pytest.raises(ReportError, match=rf"^{vit.parent}/map\.png: "):
        write_report([vit], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_metrics_cut_off_or_damaged(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    whole = read_run(folder)
    assert len(whole.train) == 30
    assert len(whole.validation) == 1
    metrics = folder / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"step": 31, "ki')
    assert read_run(folder) == whole
    metrics.write_text('{"step": 1, "kind": "train", "loss": 1}\nnonsense\n')
    with pytest.raises(ReportError, match=rf"^{metrics}: line 2 .*'nonsense'"):
        read_run(folder)


def test_round_ticks_enclose_the_range() -> None:
    assert round_ticks(0.2, 3.1, 5) == [0, 1, 2, 3, 4]
    assert round_ticks(-12, 78, 5) == [-20, 0, 20, 40, 60, 80]
    for low, high in ((0.0, 0.0), (5.0, 5.0), (-1e-6, 1e-6), (3.2e5, 9.9e5)):
        ticks = round_ticks(low, high, 5)
        assert ticks[0] <= low <= high <= ticks[-1]
        assert 2 <= len(ticks) <= 7


def test_curves_are_smoothed_without_leaving_the_data() -> None:
    points = [(float(k), float(k % 2)) for k in range(1000)]
    thin = thinned(points, 400)
    assert len(thin) == 334
    assert thin[0] == (1.0, 1 / 3)
    smooth = running_mean(points, 50)
    assert smooth[0] == points[0]
    assert all(abs(y - 0.5) < 0.02 for _, y in smooth[60:])
    assert line_chart("empty", "step", [Series("a", 0, [])]) is None
    chart = line_chart("a point", "step", [Series("a", 0, [(5.0, 1.0)], marked=True)])
    assert chart is not None
    x, y, words = chart.lines[0].marks[0]
    assert chart.left <= x <= chart.right
    assert chart.top <= y <= chart.bottom
    assert words == "a: 1 at step 5"


def test_scenes_that_failed_and_the_weights_are_named(tmp_path: Path) -> None:
    failed = [{"scene": "S1A_third", "error": "third.nc: is damaged or cut"}]
    record = evaluation("ViT", scores(78.1, 81.0, 70.1, 77.6))
    path = save(tmp_path / "vit", record, failed=failed, weights="runs/vit/weights/last.safetensors")
    page = write_report([path], tmp_path / "page.html").read_text()
    assert "1 scene could not be scored by ViT" in page
    assert "S1A_third: third.nc: is damaged or cut" in page
    assert "runs/vit/weights/last.safetensors" in page
    assert "ViT: 1 more could not be scored" in score_table([path])
    # An evaluation of an earlier version has neither.
    page = write_report([save(tmp_path / "old", record)], tmp_path / "old.html").read_text()
    assert "could not be scored" not in page

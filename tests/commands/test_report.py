"""The report: statistics by hand, reading and its errors, the page's content and safety, contours, curves, options."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import fire
import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT, TINY
from PIL import Image
from processes import subprocess_run
from scipy.stats import t
from torch.utils.tensorboard import SummaryWriter

from simcvd_bundle.commands import experiment as experiments
from simcvd_bundle.commands.arguments import parse_list
from simcvd_bundle.commands.report import report
from simcvd_bundle.commands.report.case_section import case_section, choose_cases
from simcvd_bundle.commands.report.cases import (
    CaseFiles,
    Volumes,
    case_files,
    contour_colors,
    draw_planes,
    load_case,
    mean_dice,
    plane_index,
)
from simcvd_bundle.commands.report.curves import load_curves
from simcvd_bundle.commands.report.evaluations import load_evaluations
from simcvd_bundle.commands.report.page import Section, Table, to_html, to_markdown
from simcvd_bundle.commands.report.plot_sections import curves_section, labeled_section
from simcvd_bundle.commands.report.plots import box_plot
from simcvd_bundle.commands.report.published import PUBLISHED
from simcvd_bundle.commands.report.score_sections import (
    failure_section,
    paired_section,
    settings_section,
    summary_section,
)
from simcvd_bundle.commands.report.statistics import case_dice, failures, paired_test, paired_values, summarize
from simcvd_bundle.evaluation.metrics import METRICS

NAN = float("nan")
EVIL = '<img src="http://evil.test/x" onerror=alert(1)>|b'
INFO = {"section": "unlabeled", "num_labeled": 4, "weights": "w/model.pt", "inference_mode": "window"}
Dice = dict[tuple[str, str], float]


def evaluation(folder: Path, dice: Dice, info: dict[str, Any] | None = None) -> str:
    """Files of an evaluation: jaccard is half of dice, every distance 10 times what is missing to dice 1."""
    folder.mkdir(parents=True)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "class", *METRICS, "note"])
    for (case, name), value in dice.items():
        note = "empty prediction" if value == 0 else "both empty" if math.isnan(value) else ""
        writer.writerow([case, name, value, value / 2, *[10 * (1 - value)] * (len(METRICS) - 2), note])
    (folder / "per_case.csv").write_text(stream.getvalue())
    (folder / "summary.json").write_text(json.dumps({"info": INFO if info is None else info}))
    return str(folder)


def one_class(*values: float) -> Dice:
    return {(f"c{number}", "x"): value for number, value in enumerate(values)}


class Page(HTMLParser):
    """Tags with their attributes, and the text of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.cells:
            self.cells[-1] += data.strip()


def test_summary_by_hand() -> None:
    result = summarize([0.2, 0.4, NAN, 0.9])
    assert (result.n, result.excluded, result.median) == (3, 1, 0.4)
    assert result.mean == pytest.approx(0.5)
    assert result.std == pytest.approx(math.sqrt((0.3**2 + 0.1**2 + 0.4**2) / 3))
    empty = summarize([NAN])
    assert (empty.mean, empty.std, empty.median, empty.n, empty.excluded) == (None, None, None, 0, 1)


def test_paired_test_by_hand() -> None:
    values, baseline = [2.0, 4.0, 6.0, 8.0, 10.0, 12.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    result = paired_test(values, baseline, higher_is_better=True)
    assert (result.n, result.better, result.worse, result.mean_difference, result.note) == (6, 6, 0, 3.5, "")
    assert result.p_wilcoxon == 2 / 2**6
    assert result.p_ttest == pytest.approx(2 * t.sf(3.5 / math.sqrt(3.5 / 6), 5))  # sample variance of 1..6 is 3.5
    distance = paired_test([*values, 1.0], [*baseline, 1.0], higher_is_better=False)
    assert (distance.n, distance.better, distance.worse) == (7, 0, 6)


def test_no_p_value_from_too_few_or_equal_cases() -> None:
    few = paired_test([1.0, 2.0, 3.0, 4.0, 6.0], [0.0] * 5, True)
    assert (few.better, few.p_ttest, few.p_wilcoxon) == (5, None, None)
    assert "fewer than 6" in few.note
    equal = paired_test([1.0] * 6, [1.0] * 6, True)
    assert (equal.better, equal.worse, equal.p_ttest, equal.p_wilcoxon) == (0, 0, None, None)
    assert "equal" in equal.note
    assert paired_test([0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [0.2, 0.3, 0.4, 0.5, 0.6, 0.7], True).p_ttest is None
    assert paired_test([], [], True).mean_difference is None


def test_pairs_are_common_measured_cases_and_one_a_case(tmp_path: Path) -> None:
    a = {("1", "x"): 0.1, ("1", "y"): 0.3, ("2", "x"): 0.5, ("2", "y"): NAN, ("3", "x"): 0.6, ("3", "y"): 0.6}
    b = {("2", "x"): 0.7, ("2", "y"): 0.0, ("1", "x"): 0.2, ("1", "y"): 0.8, ("4", "x"): 0.9, ("4", "y"): 0.9}
    first, second = load_evaluations([evaluation(tmp_path / "a", a), evaluation(tmp_path / "b", b)])
    assert paired_values(first, second, "x", "dice") == ([0.1, 0.5], [0.2, 0.7])
    assert paired_values(first, second, "y", "dice") == ([0.3], [0.8])
    values, baseline = paired_values(first, second, None, "dice")
    assert values == pytest.approx([0.2, 0.5])
    assert baseline == pytest.approx([0.5, 0.7])
    section, _ = paired_section([first, second], second)
    assert any("1 only in a, 1 only in b, 2 in both" in text for text in section.paragraphs)
    assert [table.title.split(",")[0] for table in section.tables] == ["x", "y", "all classes together"]


def test_failures_and_ranking(tmp_path: Path) -> None:
    dice = {
        ("1", "x"): 0.09, ("1", "y"): 0.9, ("2", "x"): 0.0, ("2", "y"): NAN, ("3", "x"): 0.1, ("3", "y"): 0.8,
        ("4", "x"): NAN, ("4", "y"): NAN,
    }  # fmt: skip
    (loaded,) = load_evaluations([evaluation(tmp_path / "a", dice)])
    assert failures(loaded) == [("2", "x"), ("1", "x")]
    assert failures(loaded, "y") == []
    assert case_dice(loaded) == pytest.approx({"2": 0.0, "3": 0.45, "1": 0.495})
    assert list(case_dice(loaded)) == ["2", "3", "1"]
    section, records = failure_section([loaded])
    assert section.tables[0].rows[0] == ["a", "2", "x", "0.00", "10.00", "empty prediction"]
    assert [record["value"] for record in records] == [0.0, 0.09]
    assert "a 2." in section.paragraphs[0]


def test_choice_of_cases(tmp_path: Path) -> None:
    four, two = load_evaluations(
        [evaluation(tmp_path / "a", one_class(0.4, 0.3, 0.9, 0.5)), evaluation(tmp_path / "b", one_class(0.4, 0.3))]
    )
    assert choose_cases(four) == {"c1": "worst", "c0": "median", "c2": "best"}
    assert choose_cases(two) == {"c1": "worst", "c0": "best"}
    (none,) = load_evaluations([evaluation(tmp_path / "c", one_class(NAN))])
    assert choose_cases(none) == {}


def test_scores_table_in_percent_and_voxels(tmp_path: Path) -> None:
    dice = {("1", "x"): 0.2, ("1", "y"): 1.0, ("2", "x"): 0.05, ("2", "y"): NAN}
    section, records = summary_section(load_evaluations([evaluation(tmp_path / "a", dice)]))
    x, y, both = section.tables
    assert x.header[:4] == ["run", "Dice %", "median", "failures"]
    assert x.rows == [
        ["a", "12.50 ± 7.50", "12.50", "1", "6.25 ± 3.75", "6.25", *["8.75 ± 0.75", "8.75"] * 2, "2", "0"]
    ]
    assert y.rows[0][1] == "100.00 ± 0.00"
    assert [y.rows[0][column] for column in (3, -2, -1)] == ["0", "1", "1"]
    assert both.rows[0][1] == f"{100 * 1.25 / 3:.2f} ± {100 * np.std([0.2, 1.0, 0.05]):.2f}"
    found = {(r["class"], r["metric"], r["statistic"]): r["value"] for r in records}
    assert found["x", "dice", "mean"] == pytest.approx(0.125)
    assert found["x", "dice", "failures"] == 1


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("unlabeled", "transductive"),
        ("labeled", "trained with these labels"),
        ("fold", "for you to know"),
        (None, "does not say"),
    ],
)
def test_page_says_what_the_scores_are(tmp_path: Path, section: str | None, expected: str) -> None:
    info = {} if section is None else {"section": section, "weights": "w.pt"}
    loaded = load_evaluations(
        [
            evaluation(tmp_path / "a", one_class(0.5), info),
            evaluation(tmp_path / "b", one_class(0.5), {"section": "test"}),
        ]
    )
    made = settings_section(loaded)
    assert made.paragraphs[0].startswith("a: ")
    assert expected in made.paragraphs[0]
    assert made.paragraphs[-1].startswith("The runs differ in section (")
    assert section is None or "w.pt" in made.tables[0].rows[0]


def test_whole_report(tmp_path: Path) -> None:
    good = {(EVIL if number == 0 else f"c{number}", "a&b"): 0.5 + number / 20 for number in range(8)}
    bad = {key: round(value - 0.5, 2) for key, value in good.items()}
    folders = [evaluation(tmp_path / "good", good), evaluation(tmp_path / "bad", bad, {**INFO, "num_labeled": 8})]
    out = tmp_path / "out"
    report(evaluations=folders, output_dir=str(out), names=["A<b>", "B"], baseline="B")
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.md", "tables.csv"]
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "object", "b"} & set(tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3  # two box plots, one plot over labelled cases
    assert all(str(image["src"]).startswith("data:image/") and image["alt"] for image in images)
    assert all(str(a["href"]).startswith("#section-") for tag, a in page.tags if tag == "a")
    style = (out / "report.html").read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert {EVIL, "A<b>", "w/model.pt", "window", "67.50 ± 11.46", "17.50 ± 11.46", "8 / 0", "+50.00"} <= set(
        page.cells
    )
    assert "transductive" in page.text
    markdown = (out / "report.md").read_text(encoding="utf-8")
    assert "| A&lt;b&gt; | 67.50 ± 11.46 | 67.50 | 0 |" in markdown
    assert r"onerror=alert(1)&gt;\|b |" in markdown
    assert "<img" not in markdown
    with (out / "tables.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    (mean,) = [r for r in rows if (r["run"], r["metric"], r["statistic"]) == ("B", "dice", "mean")]
    assert float(mean["value"]) == pytest.approx(0.175)
    (better,) = [r for r in rows if (r["table"], r["metric"], r["statistic"]) == ("paired", "hd95_voxel", "better")]
    assert (better["run"], better["baseline"], better["value"]) == ("A<b>", "B", "8")
    assert {r["case"] for r in rows if r["table"] == "failures"} == {EVIL, "c1"}


def test_single_evaluation_leaves_sections_out(tmp_path: Path) -> None:
    report(evaluations=[evaluation(tmp_path / "a", one_class(0.5, 0.6))], output_dir=str(tmp_path / "out"))
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for reason in ("one evaluation only", "no images given", "different numbers", "no run folders given"):
        assert reason in text


def test_table_texts_are_escaped() -> None:
    section = Section("a <b>", ["p & <i>"], [Table("t|<u>", ["h*"], [["<s>[x](y)"]])])
    markdown = to_markdown("T", [section])
    assert r"| &lt;s&gt;\[x\](y) |" in markdown
    assert r"| h\* |" in markdown
    assert not {"b", "i", "u", "s"} & {tag for tag, _ in Page(to_html("T", [section])).tags}


@pytest.mark.parametrize(
    ("damage", "error", "match"),
    [
        (lambda f: (f / "per_case.csv").unlink(), FileNotFoundError, "per_case.csv is missing: give the output folder"),
        (lambda f: (f / "summary.json").unlink(), FileNotFoundError, "summary.json is missing"),
        (lambda f: (f / "summary.json").write_text("{"), ValueError, "summary.json is not JSON"),
        (lambda f: (f / "summary.json").write_text("[]"), ValueError, "summary.json is not JSON with an entry 'info'"),
        (lambda f: (f / "summary.json").write_text('{"info": 1}'), ValueError, "not a JSON object"),
        (lambda f: (f / "per_case.csv").write_text("case,class\n"), ValueError, "has no column dice, jaccard"),
        (lambda f: replace(f, "0.5", "much"), ValueError, "line 2: a metric is not a number"),
        (lambda f: replace(f, "c1", "c0"), ValueError, "line 3: case 'c0', class 'x' is there twice"),
        (lambda f: replace(f, "c", "c", lines=1), ValueError, "has no rows"),
    ],
)
def test_damaged_evaluations_are_named(tmp_path: Path, damage: Any, error: type[Exception], match: str) -> None:
    folder = Path(evaluation(tmp_path / "a", one_class(0.5, 0.75)))
    damage(folder)
    with pytest.raises(error, match=match):
        load_evaluations([str(folder)])


def replace(folder: Path, old: str, new: str, lines: int | None = None) -> None:
    table = folder / "per_case.csv"
    table.write_text("".join(table.read_text(encoding="utf-8").replace(old, new).splitlines(keepends=True)[:lines]))


def test_wrong_options(tmp_path: Path) -> None:
    a, b = evaluation(tmp_path / "a", one_class(0.5)), evaluation(tmp_path / "b", {("c0", "z"): 0.5})
    for folders, options, match in (
        ([], {}, r"give the folder of an experiment, as in `report runs`, or else --evaluations"),
        ([a], {"experiment_dir": a}, "give the folder of an experiment"),
        ([a, a], {}, "evaluations names a folder twice"),
        ([a], {"names": ["A", "B"]}, "names must give each of the 1"),
        ([a, b], {"names": ["A", "A"]}, "its own name"),
        ([a, b], {}, r"are \['x'\], those of .*b \['z'\]: .* a report each"),
        ([a], {"baseline": "b"}, r"No evaluation is named 'b': choose baseline from \['a'\]"),
        ([a], {"predictions": ["p"]}, "predictions need dataset_dir"),
        ([a], {"predictions": ["p", "q"], "dataset_dir": "d"}, "one folder per evaluation, got 2 for 1"),
    ):
        with pytest.raises(ValueError, match=match):
            report(evaluations=folders, output_dir=str(tmp_path / "out"), **options)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="absent is not a folder: give the output folder"):
        report(evaluations=[str(tmp_path / "absent")], output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_names_of_folders_are_distinct(tmp_path: Path) -> None:
    folders = [evaluation(tmp_path / name, one_class(0.5)) for name in ("a/eval", "b/eval", "c")]
    assert [loaded.name for loaded in load_evaluations(folders)] == ["a/eval", "b/eval", "c"]


def test_dice_against_labelled_cases(tmp_path: Path) -> None:
    folders = [
        evaluation(tmp_path / name, one_class(dice, dice), {"num_labeled": count})
        for name, dice, count in (("a", 0.5, 4), ("b", 0.75, 8), ("c", 0.9, None))
    ]
    section = labeled_section(load_evaluations(folders))
    assert section.tables[0].rows == [["a", "4", "50.00 ± 0.00"], ["b", "8", "75.00 ± 0.00"]]
    assert len(section.figures) == 1
    assert labeled_section(load_evaluations(folders[::2])).tables == ()


def svg(source: str) -> ElementTree.Element:
    return ElementTree.fromstring(base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")))


def test_box_plot_takes_any_name_and_no_values() -> None:
    first, second = (box_plot({r"$\frac$": [1.0, 2.0], "b": []}, "Dice %") for _ in range(2))
    assert first == second  # the same bytes
    assert svg(first).tag.endswith("svg")


def test_curves_keep_the_later_of_two_values(tmp_path: Path) -> None:
    for part in ([(10, 1.0), (20, 0.5), (30, 0.1)], [(20, 0.4), (30, 0.3)]):
        with SummaryWriter(str(tmp_path / "run" / "tensorboard")) as writer:
            for step, value in part:
                writer.add_scalar("loss_sdm", value, step)
                writer.add_scalar("weight_sdm", 1, step)
    steps, values = load_curves(str(tmp_path / "run"))["loss_sdm"]
    assert steps == [10, 20, 30]
    assert values == pytest.approx([1.0, 0.4, 0.3])
    (row,) = curves_section([str(tmp_path / "run")]).figures
    assert (row.title, [figure.alt for figure in row.figures]) == (
        "Loss terms", ["loss_sdm over the training. Last values: run 0.3."]
    )  # fmt: skip
    with pytest.raises(FileNotFoundError, match="has no TensorBoard logs"):
        load_curves(str(tmp_path))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three cases, voxels of 2 x 1 x 1 mm, the first axis to the left; predicted fully, half and not at all."""
    affine, items = np.diag([-2.0, 1, 1, 1]), []
    (tmp_path / "predictions").mkdir()
    for number in range(3):
        label = np.zeros((12, 16, 10), np.uint8)
        label[1:5, 4:12, 2:6] = 1
        pred = label.copy()
        pred[:, 4 : (4, 8, 12)[number]] = 0
        image = f"scan.{number}.nii.gz"
        items.append({"image": image, "label": f"c{number}.nii.gz"})
        nib.save(nib.Nifti1Image(np.random.RandomState(number).rand(12, 16, 10), affine), tmp_path / image)
        nib.save(nib.Nifti1Image(label, affine), tmp_path / f"c{number}.nii.gz")
        nib.save(nib.Nifti1Image(pred, affine), tmp_path / "predictions" / f"scan.{number}_seg.nii.gz")
    sdm = np.where(label, -0.5, 0.5).astype(np.float32)
    nib.save(nib.Nifti1Image(sdm, affine), tmp_path / "predictions" / "scan.2_sdm.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"test": items}))
    return tmp_path


HALF = 2 / 3


def test_case_is_oriented_and_measured(dataset: Path) -> None:
    loaded = load_evaluations([evaluation(dataset / "eval", one_class(1.0, HALF, 0.0), {"section": "test"})])
    files = case_files(loaded[0], str(dataset), "dataset.json", str(dataset / "predictions"))
    case = load_case(files["c1"])
    assert np.argwhere(case.label).min(0).tolist() == [7, 4, 2]  # 12 - 5: the first axis is turned to the right
    assert case.spacing_mm == pytest.approx((2, 1, 1))
    assert case.sdm is None
    assert mean_dice(case) == pytest.approx(HALF)
    empty = load_case(files["c2"])
    assert empty.sdm is not None
    assert mean_dice(empty) == 0


def test_planes_have_most_of_the_truth() -> None:
    def case(label: np.ndarray, pred: np.ndarray) -> Volumes:
        return Volumes(np.zeros(label.shape), label, pred, None, (1.0, 1.0, 1.0))

    label, pred, empty = (np.zeros((6, 8, 9), int) for _ in range(3))
    label[1:3, 2:7, 4] = 1
    label[2, 5, :] = 2
    pred[5, 7, 1] = 1
    assert [plane_index(case(label, pred), axis) for axis in range(3)] == [2, 5, 4]
    assert [plane_index(case(empty, pred), axis) for axis in range(3)] == [5, 7, 1]
    assert [plane_index(case(empty, empty), axis) for axis in range(3)] == [3, 4, 4]
    assert math.isnan(mean_dice(case(empty, empty)))
    assert mean_dice(case(label, label)) == 1


def has_color(source: str, color: tuple[int, int, int]) -> bool:
    image = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB")
    return bool((np.abs(np.asarray(image).astype(int) - color).max(-1) < 30).any())


ORANGE, SKY, GREEN = (230, 159, 0), (86, 180, 233), (0, 158, 115)


def test_contours_are_drawn() -> None:
    label, pred = np.zeros((20, 20, 20), int), np.zeros((20, 20, 20), int)
    label[4:12, 4:12, 4:12] = 1
    pred[3:11, 3:11, 3:11] = 1
    image = np.random.RandomState(0).rand(20, 20, 20)
    both = draw_planes(Volumes(image, label, pred, image - 0.5, (1.0, 1.0, 1.0)))
    assert list(both) == ["axial", "coronal", "sagittal", "axial, SDM", "coronal, SDM", "sagittal, SDM"]
    assert all(has_color(both[plane], ORANGE) and has_color(both[plane], SKY) for plane in list(both)[:3])
    for shift, crosses_zero in ((-0.5, True), (0.5, False)):
        volumes = Volumes(
            image, 0 * label, 0 * pred, np.linspace(0, 0.9, 20) * np.ones_like(image) + shift, (1.0, 1.0, 1.0)
        )
        assert has_color(draw_planes(volumes)["coronal, SDM"], (0, 0, 0)) == crosses_zero
    missed = draw_planes(Volumes(image, label, 0 * pred, None, (1.0, 1.0, 1.0)))
    assert not has_color(missed["axial"], ORANGE)
    assert has_color(missed["axial"], SKY)
    coronal = draw_planes(Volumes(image, label, pred, None, (2.0, 1.0, 1.0)))["coronal"]  # 40 x 20 mm
    assert Image.open(io.BytesIO(base64.b64decode(coronal.split(",")[1]))).size == (330, 165)
    assert contour_colors([1]) == {1: ("orange", "sky blue")}
    assert contour_colors([1, 2]) == {1: ("orange", "orange"), 2: ("sky blue", "sky blue")}
    label[6:9, 6:9, :] = 3
    pred[:] = 2
    three = draw_planes(Volumes(image, label, pred, None, (1.0, 1.0, 1.0)))
    assert has_color(three["axial"], GREEN)
    assert not has_color(three["axial"], SKY)  # value 2 is all of the plane: no contour


def test_case_section(dataset: Path) -> None:
    dice = one_class(1.0, HALF, 0.5)  # the third was evaluated with another prediction
    loaded = load_evaluations([evaluation(dataset / "eval", dice, {"section": "test"})])
    section = case_section(loaded, [str(dataset / "predictions")], str(dataset), "dataset.json")
    assert [row.title.split(",")[0] for row in section.figures] == [
        "worst of eval: c2", "median of eval: c1", "best of eval: c0"
    ]  # fmt: skip
    assert [len(row.figures) for row in section.figures] == [6, 3, 3]
    assert "SDM" in section.figures[0].text
    assert section.figures[1].title.endswith("Dice 66.67 %")
    (_, warning) = section.paragraphs
    assert "of c2 in" in warning
    assert "Dice 0.00 %, the evaluation of eval 50.00 %" in warning
    assert section.figures[1].figures[0].caption == "axial, slice 2"


def test_case_section_names_what_is_missing(dataset: Path) -> None:
    def make(info: dict[str, Any], name: str, case: str = "c0") -> None:
        loaded = load_evaluations([evaluation(dataset / name, {(case, "x"): 1.0}, info)])
        case_section(loaded, [str(dataset / "predictions")], str(dataset), "dataset.json")

    with pytest.raises(ValueError, match=r"summary.json names no section"):
        make({}, "e1")
    with pytest.raises(ValueError, match=r"Section 'test' of .*dataset.json has no case 'other' of .*e2"):
        make({"section": "test"}, "e2", "other")
    file = dataset / "predictions" / "scan.0_seg.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), file)
    with pytest.raises(ValueError, match=r"scan.0_seg.nii.gz has shape \(3, 3, 3\), its label \(12, 16, 10\)"):
        make({"section": "test"}, "e3")
    file.write_text("nothing")
    with pytest.raises(ValueError, match=r"scan.0_seg.nii.gz cannot be read"):
        make({"section": "test"}, "e4")
    file.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"scan.0_seg.nii.gz is missing: repeat .* segment .*scan.0.nii.gz with"
    ):
        make({"section": "test"}, "e5")


def test_kept_masks_of_equal_names_lie_in_the_folders_of_their_images(tmp_path: Path) -> None:
    """As ``SaveImage`` writes them, below the deepest folder that holds all images."""
    items = []
    for patient in "pq":
        folder = tmp_path / "data" / "scans" / patient
        folder.mkdir(parents=True)
        for name in ("image.nii.gz", "label.nii.gz"):
            nib.save(nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)), folder / name)
        items.append({key: f"scans/{patient}/{key}.nii.gz" for key in ("image", "label")})
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"test": items}))
    dice = {("p/label", "x"): 0.5, ("q/label", "x"): 0.5}
    (loaded,) = load_evaluations([evaluation(tmp_path / "eval", dice, {"section": "test"})])
    files = case_files(loaded, str(tmp_path / "data"), "dataset.json")
    assert {name: case.seg.relative_to(tmp_path) for name, case in files.items()} == {
        "p/label": Path("eval/p/image_seg.nii.gz"), "q/label": Path("eval/q/image_seg.nii.gz"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[eval/a, eval/b]", ["eval/a", "eval/b"]),
        ("['a, b','c']", ["a, b", "c"]),
        ("eval/a", ["eval/a"]),
        ("[1e-3,0.10]", ["1e-3", "0.10"]),
        ("[]", []),
    ],
)
def test_lists_on_the_command_line(text: str, parts: list[str]) -> None:
    assert parse_list(text) == parts


def test_command_line(tmp_path: Path) -> None:
    a, b = (evaluation(tmp_path / name, one_class(0.5)) for name in "ab")
    options = [f"--evaluations=[{a},{b}]", f"--output_dir={tmp_path / 'out'}", "--names=[1e-3,0.10]", "--baseline=0.10"]
    fire.Fire({"report": report}, ["report", *options])
    assert "Baseline: 0.10." in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def write_run(
    experiment_dir: Path,
    method: str,
    seed: int,
    dice: Dice | None,
    num_labeled: int = 4,
    fold: dict[str, int] | None = None,
    mode: str = "window",
    section: str = "test",
    **settings: Any,
) -> Path:
    """What `experiment` leaves of a run; without ``dice`` an unfinished one."""
    settings = {"iterations": 10, **settings}
    name = f"{method}_{num_labeled}_seed{seed}" + ("" if fold is None else f"_fold{fold['number']}")
    folder = experiment_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    overlays = ["data_x.json"] + ([] if method == "simcvd" else [f"method_{method}.json"])
    run = {"files": ["train.json", *overlays], "content of overlays": ["0"] * len(overlays), "seed": seed, **settings}
    if fold is not None:
        run["fold"] = {**fold, "num_labeled": num_labeled}
    (folder / "record.json").write_text(json.dumps({"run": run, "starts": [{"commit": "abc"}]}))
    config = {"iterations": settings["iterations"], "dataset_dir": "absent", "datalist": "dataset.json"}
    (folder / "config.json").write_text(json.dumps(config))
    if dice is not None:
        info = {"section": section, "num_labeled": num_labeled, "inference_mode": mode, "window_stride": [8, 8, 8]}
        evaluation(folder / f"eval_{section}_{mode}", dice, info)
    return folder


def report_of(experiment_dir: Path, **options: Any) -> tuple[str, list[dict[str, str]]]:
    """Text and values of a report."""
    report(str(experiment_dir), **options)
    with (experiment_dir / "report" / "tables.csv").open(newline="", encoding="utf-8") as stream:
        return (experiment_dir / "report" / "report.md").read_text(encoding="utf-8"), list(csv.DictReader(stream))


def value(rows: list[dict[str, str]], table: str, run: str, statistic: str, metric: str = "dice") -> float:
    (row,) = [r for r in rows if (r["table"], r["run"], r["statistic"], r["metric"]) == (table, run, statistic, metric)]
    return float(row["value"])


def test_seeds_are_averaged_by_case_and_compared_by_mean(tmp_path: Path) -> None:
    seeds = [one_class(0.2, 0.4), one_class(0.4, 0.8)]
    for seed, dice in enumerate(seeds):
        write_run(tmp_path, "simcvd", seed, dice)
        write_run(tmp_path, "supervised", seed, one_class(0.1, 0.1))
    write_run(tmp_path, "simcvd", 2, None)
    text, rows = report_of(tmp_path)
    name = "simcvd (4 labelled)"
    assert value(rows, "summary", name, "mean") == pytest.approx(0.45)
    assert value(rows, "summary", name, "std") == pytest.approx(0.15)  # of the means by case, 0.3 and 0.6
    assert value(rows, "seeds", name, "mean") == pytest.approx(0.45)
    assert value(rows, "seeds", name, "std") == pytest.approx(math.sqrt(2) * 0.15)  # of 0.3 and 0.6, n - 1
    assert value(rows, "seeds", name, "seed 1") == pytest.approx(0.6)
    assert value(rows, "paired", name, "n") == 2  # pairs are cases, not cases and seeds
    assert value(rows, "paired", name, "mean_difference") == pytest.approx(0.35)
    assert "Left out, as unfinished: simcvd_4_seed2 (not trained to its end)." in text
    assert "Baseline: supervised (4 labelled)." in text
    assert "its mean over the seeds" in text
    assert "Left out: supervised (4 labelled), simcvd (4 labelled). No datalist absent/dataset.json" in text
    assert "Baseline: simcvd (4 labelled)." in report_of(tmp_path, baseline="simcvd")[0]


def cost(**values: float) -> str:
    return json.dumps({"device": "cpu", "peak_memory_mib": 2048.4, "trained_parameters": 2.5e6,
                       "network_parameters": 1e6, **values})  # fmt: skip


def test_costs_are_medians_over_runs_and_missing_ones_are_named(tmp_path: Path) -> None:
    for seed, seconds in enumerate((0.5, 9.0, 0.7)):
        folder = write_run(tmp_path, "simcvd", seed, one_class(0.5, 0.5))
        (folder / "cost.json").write_text(cost(seconds_per_iteration=seconds))
    folder = write_run(tmp_path, "supervised", 0, one_class(0.5, 0.5))
    (folder / "cost.json").write_text("{")
    text, rows = report_of(tmp_path)
    assert value(rows, "cost", "simcvd (4 labelled)", "median", "seconds_per_iteration") == 0.7
    assert "| simcvd (4 labelled) | 0.700 | 2048 | cpu | 2.50 | 1.00 |" in text
    assert "Not measured: supervised (4 labelled)." in text
    folder = write_run(tmp_path, "ua_mt", 0, one_class(0.5, 0.5))
    no_memory = json.loads(cost(seconds_per_iteration=2.0)) | {"peak_memory_mib": None}
    (folder / "cost.json").write_text(json.dumps(no_memory))
    assert "| ua_mt (4 labelled) | 2.000 | - | cpu | 2.50 | 1.00 |" in report_of(tmp_path)[0]
    assert "Published figures" not in text


def test_published_figures_stand_beside_those_of_the_left_atrium(tmp_path: Path) -> None:
    for method, number in (("ua_mt", 8), ("ua_mt", 4), ("supervised", 8)):
        folder = write_run(tmp_path, method, 0, one_class(0.5, 0.6), num_labeled=number)
        record = json.loads((folder / "record.json").read_text())
        record["run"]["files"][1] = "data_la.json"
        (folder / "record.json").write_text(json.dumps(record))
    section = report_of(tmp_path)[0].split("\n## Published figures")[1].split("\n## ")[0]
    assert "| ua_mt (8 labelled) | 55.00 | 84.25 | quoted by SimCVD; last |" in section
    assert "section 'test', 10 iterations and the last checkpoint" in section
    assert section.count("labelled)") == 1


def test_published_figures_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "compared_methods.md").read_text().split("## What the papers report")[1].split("## ")[0]
    cells = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    titles = {"mean teacher": "mean_teacher", "UA-MT": "ua_mt", "MC-Net": "mc_net", "AD-MT": "ad_mt"}
    found = {titles.get(title, title.lower()): (dice, chosen) for title, dice, chosen in cells}
    del found["mc-net+"]  # MC-Net with another id
    assert found == {
        method: (" / ".join(f"{known.dice[n]:.2f}" if n in known.dice else "-" for n in (8, 16)), known.chosen)
        for method, known in PUBLISHED.items()
    }


def test_one_seed_has_no_spread_and_other_seeds_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, "simcvd", 0, one_class(0.2, 0.4))
    for seed in (0, 1):
        write_run(tmp_path, "mean_teacher", seed, one_class(0.1, 0.1))
    write_run(tmp_path, "simcvd", 0, one_class(0.5, 0.5), num_labeled=8)
    text, rows = report_of(tmp_path)
    assert "| simcvd (4 labelled) | 1 | 30.00 ± - |" in text
    assert "Baseline: mean_teacher (4 labelled)." in text  # the first by name, without supervised
    assert "The seeds differ: simcvd (4 labelled) has 0; mean_teacher (4 labelled) has 0, 1." in text
    assert "Not tested, as there is no mean_teacher to test against: simcvd (8 labelled)." in text
    assert {row["run"] for row in rows if row["table"] == "paired"} == {"simcvd (4 labelled)"}


def test_folds_are_pooled(tmp_path: Path) -> None:
    for number, dice in enumerate((one_class(0.2, 0.3), one_class(0.7))):
        fold = {"number": number, "of": 2}
        write_run(tmp_path, "simcvd", 0, dice, fold=fold, section="validation", datalist=f"fold_{number}.json")
    write_run(tmp_path, "simcvd", 1, one_class(0.5), fold={"number": 1, "of": 2}, section="validation")
    text, rows = report_of(tmp_path)
    name = "simcvd (4 labelled)"
    assert value(rows, "seeds", name, "seed 0") == pytest.approx(0.4)
    assert value(rows, "summary", name, "n") == 3
    assert value(rows, "summary", name, "mean") == pytest.approx((0.2 + 0.3 + 0.6) / 3)
    assert "The folds are put together, so each case counts once." in text
    assert "seed 1 has 1 of 2 folds, so its mean is over 1 cases only." in text


@pytest.mark.parametrize(
    "other",
    [{"iterations": 20}, {"mode": "fast"}, {"section": "validation"}, {"fold": {"number": 0, "of": 2}}],
    ids=lambda other: next(iter(other)),
)
def test_what_differs_is_never_mixed(tmp_path: Path, other: dict[str, Any]) -> None:
    write_run(tmp_path, "simcvd", 0, one_class(0.2, 0.2))
    write_run(tmp_path, "simcvd", 1, one_class(0.8, 0.8), **other)
    write_run(tmp_path, "supervised", 1, one_class(0.7, 0.7), **other)
    text, rows = report_of(tmp_path)
    assert "The evaluations differ in " in text
    means = sorted(
        float(r["value"]) for r in rows if (r["table"], r["metric"], r["statistic"]) == ("seeds", "dice", "mean")
    )
    assert means == pytest.approx([0.2, 0.7, 0.8])
    assert len({row["run"] for row in rows if row["table"] == "seeds"}) == 3
    assert len({row["run"] for row in rows if row["table"] == "paired"}) == 1


def test_other_differences_are_said(tmp_path: Path) -> None:
    write_run(tmp_path, "simcvd", 0, one_class(0.2))
    write_run(tmp_path, "supervised", 0, one_class(0.2), learning_rate=0.1)
    assert (
        "The runs differ in learning_rate (0.1: supervised_4_seed0; not set: simcvd_4_seed0)" in report_of(tmp_path)[0]
    )


def test_folders_that_are_no_experiment(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no run .*: give the output_dir of `experiment`"):
        report(str(tmp_path))
    unfinished = write_run(tmp_path, "simcvd", 0, None)
    with pytest.raises(ValueError, match=r"No run in .* is finished: simcvd_4_seed0 \(not trained to its end\)"):
        report(str(tmp_path))
    (unfinished / "model.pt").touch()
    with pytest.raises(ValueError, match=r"simcvd_4_seed0 \(not evaluated\)"):
        report(str(tmp_path))
    folder = write_run(tmp_path, "simcvd", 1, one_class(0.5))
    with pytest.raises(ValueError, match=r"No finished run is of the method 'x': choose baseline from \['simcvd'\]"):
        report(str(tmp_path), baseline="x")
    with pytest.raises(ValueError, match="names, predictions can be given with evaluations only"):
        report(str(tmp_path), names=["a"], predictions=["b"])
    (folder / "record.json").write_text("{}")
    with pytest.raises(ValueError, match=r"record.json and config.json beside it are not what `experiment` writes"):
        report(str(tmp_path))
    assert not (tmp_path / "report").exists()


def test_report_of_a_real_experiment(dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases are drawn from the masks that it kept, without further options."""
    monkeypatch.setattr(experiments, "subprocess", SimpleNamespace(run=subprocess_run, STDOUT=subprocess.STDOUT))
    overlay = tmp_path / "data_mine.json"
    overlay.write_text(json.dumps({"cache_dir": str(tmp_path / "cache")}))
    settings = {
        name: value for name, value in TINY.items() if name not in ("bundle_root", "num_labeled", "log_interval")
    }
    experiments.experiment(
        str(dataset_dir), str(overlay), ["method_supervised", "method_mean_teacher"], num_labeled=[2],
        output_dir=str(tmp_path / "runs"), inference_mode="fast", **settings,
    )  # fmt: skip
    text, rows = report_of(tmp_path / "runs")
    for method in ("supervised", "mean_teacher"):
        summary = json.loads((tmp_path / f"runs/{method}_2_seed0/eval_test_fast/summary.json").read_text())
        for table in ("summary", "seeds"):
            mean = value(rows, table, f"{method} (2 labelled)", "mean")
            assert mean == pytest.approx(summary["overall"]["dice"]["mean"])
    assert "it was made with other weights" not in text
    assert "Left out" not in text.split("## Worst")[1].split("## Dice against")[0]
    page = Page((tmp_path / "runs/report/report.html").read_text(encoding="utf-8"))
    images = [str(attributes["src"]) for tag, attributes in page.tags if tag == "img"]
    contours = [image for image in images if image.startswith("data:image/png")]
    assert len(contours) == 2 * 2 * 3  # worst and best, two methods, three planes
    assert all(has_color(image, SKY) for image in contours)
    assert len(images) > len(contours) + 4  # box plots and curves


def test_label_values_that_float32_merges_stay_apart(tmp_path: Path) -> None:
    label = np.zeros((4, 4, 4), np.int32)
    label[1], label[2] = 182305689, 182305693
    for name, array in (("image", label.astype(np.float32)), ("label", label), ("seg", label[:, ::-1].copy())):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii")
    image, truth, seg = (tmp_path / f"{name}.nii" for name in ("image", "label", "seg"))
    case = load_case(CaseFiles(str(image), str(truth), seg, tmp_path / "none.nii"))
    assert case.values == [182305689, 182305693]
    np.testing.assert_array_equal(case.label, label)

"""Names of label values in files against those of the configuration."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from simcvd_bundle.data import class_names as names
from simcvd_bundle.data.class_names import compare_names, names_of_datalist, same_word
from simcvd_bundle.data.datalists import load_datalist
from simcvd_bundle.data.folds import write_folds

LIVER = {"1": "liver", "2": "tumour"}


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "SAID", set())


@pytest.mark.parametrize(
    ("found", "class_names", "values", "message"),
    [
        ({1: "tumour", 2: "liver"}, LIVER, {}, "1 'tumour', but .* 1 is 'liver' and 'tumour' is 2"),
        ({1: "TUMOUR"}, LIVER, {}, "'tumour' is 2"),
        ({3: "liver"}, {"1": "liver"}, {}, "3 'liver', but by class_names .* 'liver' is 1"),
        ({0: "liver", 1: "background"}, {"1": "liver"}, {}, "0 'liver'"),
        ({500: "tumour"}, LIVER, {"500": 1, "600": 2}, "500 is 'liver' and 'tumour' is 600"),
        ({4: "liver"}, LIVER, {"4": 0, "5": 1, "6": 1, "7": 2}, "'liver' is 5 or 6"),
        ({1: "left_atrium"}, {"1": "x", "2": "Left Atrium"}, {}, "'Left Atrium' is 2"),
    ],
)
def test_a_name_at_another_value_is_an_error(found: Any, class_names: Any, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^The file calls the value .*{message}"):
        compare_names(found, class_names, values, "The file")


@pytest.mark.parametrize(
    ("found", "class_names", "values"),
    [
        ({0: "background", 1: "liver", 2: "tumour"}, LIVER, {}),
        ({1: "Liver ", 2: "TUMOUR"}, LIVER, None),
        ({1: "Segment_1", 2: "Segment_2"}, LIVER, {}),
        ({1: "Segment_2", 2: "Segment_1"}, {"1": "Segment_1", "2": "Segment_2"}, {}),
        ({1: "liver", 2: "tumour"}, {"1": "class 1", "2": "class 2"}, {}),
        ({5: "class 5"}, {"1": "class 5"}, {"5": 1}),
        ({1: "liver"}, {"1": "ball"}, {}),
        ({1: "left atrium"}, {"1": "Left_Atrium"}, {}),
        ({1: "liver", 2: "tumour"}, {"1": "lesion"}, {"1": 1, "2": 1}),
        ({1: "liver", 2: "tumour"}, {"1": "tumour"}, {"1": 0, "2": 1}),
        ({7: "spleen"}, LIVER, {}),
        ({}, LIVER, {}),
        ({1: "tumour"}, {}, {}),
    ],
)
def test_agreement_and_placeholders_are_silent(
    found: Any, class_names: Any, values: Any, caplog: pytest.LogCaptureFixture
) -> None:
    compare_names(found, class_names, values, "The file")
    assert not caplog.text


def test_another_word_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            compare_names({1: "liver", 2: "cancer"}, {1: "liver", "2": "tumour"}, {}, f"The file {number}")  # type: ignore[dict-item]
    assert [record.getMessage() for record in caplog.records] == [
        "The file 0 calls the value 2 'cancer', class_names call it 'tumour': make sure that both mean the same."
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"labels": {"0": "background", "1": "liver"}}, {0: "background", 1: "liver"}),
        ({"labels": {"background": 0, "liver": 1, "both": [1, 2]}}, {0: "background", 1: "liver"}),
        ({"labels": {"-3": "air", "182305693": "x"}}, {-3: "air", 182305693: "x"}),
        ({"labels": ["liver"]}, {}),
        ({"labels": None}, {}),
        ({"labels": {"1": None, "a": "b"}}, {}),
        ({}, {}),
    ],
)
def test_labels_of_a_datalist(content: Any, expected: Any) -> None:
    assert names_of_datalist(content) == expected


@pytest.mark.parametrize("name", ["class 1", "Class_12", "Segment_1", "label", "3", "", "ball", " Ball ", "mask"])
def test_placeholders(name: str) -> None:
    assert same_word(name) == ""
    assert same_word(name + " x") != ""


def test_a_datalist_is_compared_and_its_folds_keep_the_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = []
    for name in "abcd":
        (tmp_path / f"{name}.nii").touch()
        (tmp_path / f"{name}_label.nii").touch()
        items.append({"image": f"{name}.nii", "label": f"{name}_label.nii"})
    labels = {"0": "background", "1": "tumour", "2": "liver"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "training": items}))
    assert len(load_datalist(str(tmp_path), "training")) == 4  # nothing to compare with
    right = {"1": "tumour", "2": "liver"}
    folds = write_folds(str(tmp_path), 2, tmp_path / "folds")
    for file in (tmp_path / "dataset.json", *folds):
        for section in ("training", "labeled"):
            assert load_datalist(str(tmp_path), section, str(file), class_names=right)
            with pytest.raises(ValueError, match=r"The datalist .*json calls the value 1 'tumour'"):
                load_datalist(str(tmp_path), section, str(file), class_names=LIVER)
    assert load_datalist(str(tmp_path), "training", class_names=LIVER, label_values={"2": 1, "1": 2})
    assert not caplog.text

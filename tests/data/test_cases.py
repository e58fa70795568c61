"""Usable cases: what is refused, and what is not although it looks odd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from simcvd_bundle.data.cases import case_name, check_case


def volume(array: Any = None, affine: Any = None, **meta: Any) -> MetaTensor:
    values = (
        torch.rand(1, 4, 5, 6, generator=torch.Generator().manual_seed(0)) if array is None else torch.tensor(array)
    )
    return MetaTensor(values, affine=torch.eye(4, dtype=torch.float64) if affine is None else affine, meta=meta)


def label() -> MetaTensor:
    return MetaTensor(torch.zeros(1, 4, 5, 6).index_fill_(1, torch.tensor([2]), 1), affine=torch.eye(4))


def test_good_cases_pass() -> None:
    check_case({"image": volume()}, 1, 1)
    check_case({"image": volume(), "label": label()}, 1, 1)
    check_case({"image": volume().as_tensor(), "label": label().as_tensor()}, 1, 1)


def broken(change: Callable[[MetaTensor], Any]) -> MetaTensor:
    image = volume()
    change(image)
    return image


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"image": volume(np.zeros((4, 5, 6)))}, r"shape \(4, 5, 6\).*one non-empty 3D volume"),
        ({"image": volume(np.zeros((1, 4, 0, 6)))}, "one non-empty 3D volume"),
        ({"image": volume(np.arange(240.0).reshape(2, 4, 5, 6))}, "2 channels, but in_channels is 1"),
        ({"image": broken(lambda image: image.__setitem__((0, 0, 0, 0), torch.nan))}, "NaN or infinite"),
        ({"image": broken(lambda image: image.__setitem__((0, 0, 0, 0), -torch.inf))}, "NaN or infinite"),
        ({"image": volume(np.full((1, 4, 5, 6), 3.0))}, r"constant \(3 everywhere"),
        ({"image": volume(), "label": volume(np.zeros((2, 4, 5, 6)))}, "label has 2 channels"),
        ({"image": volume(), "label": volume(np.full((1, 4, 5, 6), 2.0))}, "the values 2, but class_names names 1"),
    ],
)
def test_bad_cases_are_refused(item: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_case(item, 1, 1)


def test_cases_are_named_by_their_files() -> None:
    assert case_name({"image": "a.nii"}) == "a.nii"
    assert case_name({"image": ["a.nii", "b.nii"]}) == "a.nii, b.nii"
    assert case_name({"image": volume(filename_or_obj="c.nii")}) == "c.nii"
    assert case_name({"image": torch.zeros(1, 2)}) == "of shape (1, 2)"
    assert case_name(volume()) == "of shape (1, 4, 5, 6)"  # an array that was never a file

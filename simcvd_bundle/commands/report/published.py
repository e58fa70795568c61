"""What the papers report, to stand beside what was measured."""

from __future__ import annotations

from typing import NamedTuple

LEFT_ATRIUM = "data_la"
"""The data overlay that the figures belong to."""


class Published(NamedTuple):
    """Mean Dice in % on the 20 test cases of the left atrium.

    Attributes:
        dice: by number of labelled cases.
        chosen: which checkpoint it is of, and who says so.
    """

    dice: dict[int, float]
    chosen: str


PUBLISHED = {
    "mean_teacher": Published({8: 84.24, 16: 88.42}, "quoted by SimCVD"),
    "ua_mt": Published({8: 84.25, 16: 88.88}, "quoted by SimCVD; last"),
    "sassnet": Published({8: 87.32, 16: 89.54}, "quoted"),
    "dtc": Published({8: 87.51, 16: 89.42}, "quoted; last"),
    "urpc": Published({8: 83.37, 16: 87.68}, "quoted"),
    "mc_net": Published({8: 87.71, 16: 90.34}, "best on test"),
    "bcp": Published({8: 89.62, 16: 90.18}, "best on test, largest component; 16: quoted"),
    "ad_mt": Published({8: 90.58}, "best on test, largest component; the log's last: 90.11"),
    "simcvd": Published({8: 89.03, 16: 90.85}, "not said"),
}
"""By method; sources: docs/compared_methods.md."""

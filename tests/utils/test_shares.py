"""Shares of the work by number and by the rank of a launcher."""

from __future__ import annotations

import re

import pytest

from simcvd_bundle.utils.shares import own_device, own_share

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("total", [1, 3, 7, 12])
def test_shares_are_a_partition(total: int) -> None:
    shares = [own_share(range(10), f"{number}/{total}") for number in range(1, total + 1)]
    assert sorted(item for share in shares for item in share) == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("names", [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")])
def test_the_rank_of_a_launcher_counts_unless_a_share_is_given(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]
) -> None:
    for name, value in zip(names, ("1", "4"), strict=True):
        monkeypatch.setenv(name, value)
    assert own_share(range(10)) == [1, 5, 9]
    assert own_share(range(10), "1/2") == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RANK": "1"},
        {"WORLD_SIZE": "4"},
        {"RANK": "one", "WORLD_SIZE": "4"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"},  # a batch script that starts one process
    ],
)
def test_what_is_left_of_a_launcher_means_nothing(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert own_share(range(3)) == [0, 1, 2]


@pytest.mark.parametrize("share", ["0/4", "5/4", "1/0", "3", "a/b", "-1/4", "1/4/2", ""])
def test_shares_out_of_range_are_refused(share: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"share is {share!r}, but must be 1/N to N/N")):
        own_share(range(10), share)


def test_a_rank_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "4")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="RANK is 4, but WORLD_SIZE is 4"):
        own_share(range(10))


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert own_device().type == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert own_device().index == 0
    monkeypatch.setenv("SLURM_LOCALID", "5")
    assert own_device().index == 1
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device().index == 3

"""What an uncaught error says: the cause that names file or id, not MONAI's errors around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from simcvd_bundle.data.datalists import load_datalist
from simcvd_bundle.utils.errors import first_cause, root_cause, show_root_cause


def caught(function: Callable[[], object]) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def wrapped(cause: BaseException) -> Exception:
    """As MONAI wraps what a part of a config raises: twice."""

    def raise_twice() -> None:
        try:
            raise RuntimeError("Failed to evaluate") from cause
        except RuntimeError as error:
            raise RuntimeError("Failed to instantiate") from error

    return caught(raise_twice)


def test_the_first_cause_of_foreign_errors() -> None:
    cause = KeyError("image")
    for error in (wrapped(cause), wrapped(wrapped(cause)), cause):
        assert root_cause(error) is first_cause(error) is cause


def test_the_outermost_error_of_ours_names_more_than_its_cause(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{")
    ours = caught(lambda: load_datalist(str(tmp_path), "training"))
    assert "dataset.json is not valid JSON" in str(ours)
    assert root_cause(wrapped(ours)) is root_cause(ours) is ours
    assert first_cause(wrapped(ours)) is ours.__cause__


def test_the_report_ends_with_the_cause(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_ERROR_FILE"):
        monkeypatch.delenv(name, raising=False)
    error = wrapped(ValueError("num_labeled is 99"))
    show_root_cause(type(error), error, error.__traceback__)
    lines = capsys.readouterr().err.strip().splitlines()
    assert "RuntimeError: Failed to instantiate" in lines
    assert lines[-1] == "error: num_labeled is 99"


@pytest.mark.parametrize(
    ("variables", "beginning"),
    [
        ({"RANK": "1"}, "error: "),
        ({"WORLD_SIZE": "4"}, "error: "),
        ({"LOCAL_RANK": "1"}, "error: "),
        ({"RANK": "one", "WORLD_SIZE": "4"}, "error: "),
        ({"RANK": "1", "WORLD_SIZE": ""}, "error: "),
        ({"RANK": "0", "WORLD_SIZE": "1"}, "error: "),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}, "error: "),
        ({"TORCHELASTIC_ERROR_FILE": "/no/such/folder/error.json"}, "error: "),
        ({"RANK": "1", "WORLD_SIZE": "4"}, "error in rank 1 of 4: "),
    ],
)
def test_variables_of_launchers_do_not_hide_the_cause(
    variables: dict[str, str], beginning: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_ERROR_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    error = wrapped(ValueError("num_labeled is 99"))
    show_root_cause(type(error), error, error.__traceback__)
    assert capsys.readouterr().err.strip().splitlines()[-1] == f"{beginning}num_labeled is 99"


def test_an_error_without_wrapping_is_reported_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    error = caught(lambda: 1 // 0)
    show_root_cause(type(error), error, error.__traceback__)
    assert capsys.readouterr().err.count("division") == 1

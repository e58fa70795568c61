"""Precision auto: what it becomes where, and that the log says why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from simcvd_bundle.utils.precision import autocast, chosen_precision, known_precision


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What the machine can do is looked up once a process."""
    chosen_precision.cache_clear()
    yield
    chosen_precision.cache_clear()


@pytest.mark.parametrize(
    ("abilities", "precision", "reason"),
    [
        ({"avx512_bf16": True, "amx_bf16": True}, "bfloat16", "the processor has avx512_bf16 and amx_bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16", "the processor has amx_bf16"),
        ({"avx512_bf16": True}, "bfloat16", "the processor has avx512_bf16"),
        ({"avx512_f": True, "avx512_bf16": False}, "float32", "has none of avx512_bf16, amx_bf16"),
        ({}, "float32", "has none of avx512_bf16, amx_bf16"),
    ],
)
def test_a_processor(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, abilities: dict[str, bool], precision: str,
    reason: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    with caplog.at_level("INFO", logger="simcvd_bundle.utils.precision"):
        contexts = [autocast(torch.zeros(1), "auto") for _ in range(2)]
    assert {context._enabled for context in contexts} == {precision == "bfloat16"}
    (message,) = caplog.messages  # said once
    assert message == f"Precision auto is {precision}: {message.partition(': ')[2]}"
    assert reason in message


@pytest.mark.parametrize(("native", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_that_emulates_bfloat16_gets_float32(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, native: bool, precision: str
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T4")
    with caplog.at_level("INFO", logger="simcvd_bundle.utils.precision"):
        assert chosen_precision("cuda", "auto") == precision
    assert "T4" in caplog.text


def test_emulated_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """autocast's own check counts emulation; cuDNN has no such convolutions."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T4")
    with pytest.raises(ValueError, match=r"T4 has no convolutions in bfloat16 .* use --precision float16"):
        chosen_precision("cuda", "bfloat16")
    assert chosen_precision("cuda", "float16") == "float16"
    assert chosen_precision("cpu", "bfloat16") == "bfloat16"


@pytest.mark.parametrize("native", [True, False])
def test_a_processor_that_emulates_bfloat16_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, native: bool
) -> None:
    """It works there, but so slowly that a training seems to hang."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": native})
    for _ in range(2):
        assert chosen_precision("cpu", "bfloat16") == "bfloat16"
    assert len(caplog.messages) == (not native)
    assert native or ("emulated here" in caplog.text and "--precision float32, or auto" in caplog.text)


def test_elsewhere_it_is_float32(caplog: pytest.LogCaptureFixture) -> None:
    assert chosen_precision("mps", "auto") == "float32"
    assert chosen_precision("mps", "bfloat16") == "bfloat16"
    assert "emulated" not in caplog.text  # nobody has looked


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "float16"])
def test_known_precisions_pass(precision: str) -> None:
    assert known_precision(precision) == precision


@pytest.mark.parametrize("precision", ["fp16", "Auto", "", None])
def test_others_are_named_with_the_known_ones(precision: Any) -> None:
    with pytest.raises(ValueError, match="precision must be one of auto, float32, bfloat16, float16, got "):
        known_precision(precision)

"""What the log says about the device."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from simcvd_bundle.utils.devices import log_device, processor


def said(caplog: pytest.LogCaptureFixture, device: str, **inferer: str) -> str:
    engine = SimpleNamespace(state=SimpleNamespace(device=torch.device(device)), inferer=SimpleNamespace(**inferer))
    caplog.clear()
    with caplog.at_level("INFO", logger="simcvd_bundle.utils.devices"):
        log_device("Training", engine)
    return caplog.messages[-1]


def test_a_cpu_that_stands_in_for_a_gpu_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    blind = f"Training on cpu ({processor()}) in bfloat16; torch {torch.__version__} sees no GPU."
    assert said(caplog, "cpu", precision="bfloat16") == blind
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # and the user chose the CPU
    assert said(caplog, "cpu") == f"Training on cpu ({processor()}) in float32."


def test_a_gpu_is_named(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert said(caplog, "cuda:1", precision="float16") == "Training on cuda:1 (GPU 1) in float16."

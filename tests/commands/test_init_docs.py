"""The example of docs/own_data.md, command by command as it is printed there."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import fire
import pytest
from conftest import ROOT
from monai.bundle.scripts import run

from simcvd_bundle.__main__ import main
from simcvd_bundle.data.datalists import load_datalist

TINY = {"iterations": "2", "network_def::base_channels": "2", "head_pool_size": "8", "num_workers": "0"}


def test_example_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    example = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    example = example.split("## An example")[1].split("## What init accepts")[0]
    Path("phantoms.py").write_text(re.findall(r"```python\n(.*?)```", example, re.S)[0])
    runpy.run_path("phantoms.py")
    commands = [
        line
        for block in re.findall(r"```bash\n(.*?)```", example, re.S)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    assert [shlex.split(line)[:3] for line in commands if line] == [
        ["python", "-m", "simcvd_bundle"], *[["python", "-m", "monai.bundle"]] * 3, ["python", "-m", "simcvd_bundle"],
    ]  # fmt: skip
    for line in commands:
        words = shlex.split(line)[3:]
        if words[0] in ("init", "report"):
            monkeypatch.setattr(sys, "argv", ["simcvd_bundle", *words])
            main()
            continue
        base = "train.json" if "train.json" in line else "inference.json"
        known = json.loads((ROOT / "configs" / base).read_text())
        tiny = [part for name, value in TINY.items() if name.split("::")[0] in known for part in (f"--{name}", value)]
        fire.Fire({"run": run}, command=[*words, *tiny])
    training = load_datalist("phantoms", "training")
    assert (sum("label" in item for item in training), len(training)) == (4, 16)
    assert list(json.loads(Path("eval/balls/summary.json").read_text())["classes"]) == ["dark", "grey", "bright"]
    assert len(list(Path("predictions").glob("case_*_seg.nii.gz"))) == 20
    assert Path("report/report.html").is_file()

"""The release: its zip, the Model Zoo's large files, the Hugging Face Hub, and the check of all by MONAI's tools."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from monai.bundle import push_to_hf_hub

sys.path.insert(0, str(ROOT / "tools"))
from release import CONTENT, LARGE, NAME, release

VERSION = json.loads((ROOT / "configs" / "metadata.json").read_text())["version"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bundle with large weights, a cache folder and files that are no part of a release."""
    root = tmp_path / "root"
    for name in CONTENT[:-1]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        root.mkdir(exist_ok=True)
        copy(ROOT / name, root / name)
    (root / "models" / "replaced").mkdir(parents=True)
    (root / "models" / "model.pt").write_bytes(bytes(LARGE + 1))
    (root / "models" / "replaced" / "model_1.pt").write_bytes(b"former")
    (root / "simcvd_bundle" / "__pycache__").mkdir(exist_ok=True)
    (root / "simcvd_bundle" / "__pycache__" / "x.pyc").write_bytes(b"x")
    return root


def test_the_zip_has_one_base_folder_and_the_weights(root: Path, tmp_path: Path) -> None:
    archive = release(tmp_path / "dist", root)
    assert archive.name == f"{NAME}_v{VERSION}.zip"
    with zipfile.ZipFile(archive) as content:
        names = {name for name in content.namelist() if not name.endswith("/")}
    assert all(name.startswith(f"{NAME}/") for name in names)
    expected = {
        "LICENSE",
        "configs/metadata.json",
        "docs/README.md",
        "models/model.pt",
        "simcvd_bundle/networks/vnet.py",
    }
    assert {f"{NAME}/{name}" for name in expected} <= names
    assert not any("__pycache__" in name or "replaced" in name for name in names)
    assert (tmp_path / "dist" / NAME / "models" / "model.pt").is_file()


def test_large_files_are_listed_for_the_zoo(root: Path, tmp_path: Path) -> None:
    archive = release(tmp_path / "dist", root, weights_url="https://example.org/simcvd/")
    (entry,) = json.loads((tmp_path / "dist" / NAME / "large_files.json").read_text())["large_files"]
    assert entry == {
        "path": "models/model.pt", "url": "https://example.org/simcvd/model.pt", "hash_type": "sha256",
        "hash_val": hashlib.sha256((root / "models" / "model.pt").read_bytes()).hexdigest(),
    }  # fmt: skip
    assert not (tmp_path / "dist" / NAME / "models" / "model.pt").exists()
    assert f"{NAME}/models/model.pt" in zipfile.ZipFile(archive).namelist()


@pytest.mark.parametrize("part", ["LICENSE", "models/model.pt"])
def test_a_missing_part_is_an_error(root: Path, tmp_path: Path, part: str) -> None:
    (root / part).unlink()
    with pytest.raises(FileNotFoundError, match=f"{part} is missing"):
        release(tmp_path / "dist", root)


class Hub(http.server.BaseHTTPRequestHandler):
    """What ``push_to_hf_hub`` asks of the Hugging Face Hub, on the loopback interface."""

    requests: list[tuple[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        content = [json.loads(line) for line in body.splitlines()]
        self.requests.append((self.path, content))
        answer: dict[str, Any] = {"url": "http://127.0.0.1/someone/simcvd", "errors": [], "warnings": []}
        if "/preupload/" in self.path:
            files = content[0]["files"]
            answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        elif "/commit/" in self.path:
            answer = {"success": True, "commitOid": "0" * 40, "commitUrl": "http://127.0.0.1/someone/simcvd/commit/0"}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any]]]:
    """Requests that the client sent."""
    pytest.importorskip("huggingface_hub")
    Hub.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield Hub.requests
        server.shutdown()


def test_push_to_the_hub_sends_the_release_and_a_card(hub: list[tuple[str, Any]], root: Path, tmp_path: Path) -> None:
    (root / "models" / "model.pt").write_bytes(b"weights")
    release(tmp_path, root)
    push_to_hf_hub(
        repo=f"someone/{NAME}", name=NAME, bundle_dir=str(tmp_path), token="none", private=False, version=VERSION,
        tag_as_latest_version=True,
    )  # fmt: skip
    paths = [path for path, _ in hub]
    assert paths[0] == "/api/repos/create"
    assert [content[0]["tag"] for path, content in hub if "/tag/" in path] == [VERSION, "latest_version"]
    commits = [content for path, content in hub if "/commit/" in path]  # the hub's client sends many files in parts
    sent = {entry["value"]["path"] for commit in commits for entry in commit if entry["key"] == "file"}
    assert sent == {p.relative_to(tmp_path / NAME).as_posix() for p in (tmp_path / NAME).rglob("*") if p.is_file()}
    card = (tmp_path / NAME / "README.md").read_text(encoding="utf-8")
    assert card.startswith(
        "---\ntags:\n- monai\n- medical\nlibrary_name: monai\nlicense: apache-2.0\n---\n# Model Overview"
    )


@pytest.mark.slow
def test_bundle_check() -> None:
    """All steps of ``make bundle-check``."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "bundle_check.py")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("PASS") == 13

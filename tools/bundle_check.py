"""Check the release of the bundle with MONAI's own tools, offline: a line PASS or FAIL a step, exit code 1 for a FAIL.

The release is written, served on the loopback interface, fetched by ``monai.bundle.download`` into an empty folder and
used from another one.

    python tools/bundle_check.py
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import onnxruntime
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from release import NAME, ROOT, release, replace_large_files

SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")
PATCH = (1, 1, 48, 48, 32)


class Check:
    """The steps, in order; each raises an error when it fails.

    Args:
        work: empty folder; the bundle is fetched into ``bundles`` and used from ``elsewhere``.
        root: root of the bundle to check.
    """

    def __init__(self, work: Path, root: Path = ROOT) -> None:
        self.work = work
        self.root = root
        self.bundle = work / "bundles" / NAME
        self.configs = self.bundle / "configs"
        self.weights = self.bundle / "models" / "model.pt"
        self.elsewhere = work / "elsewhere"
        self.elsewhere.mkdir()
        torch.manual_seed(0)
        self.patch = torch.rand(PATCH)

    def download_the_release(self) -> None:
        """The zip, served over HTTP, becomes a bundle by ``monai.bundle.download``."""
        archive = release(self.work / "served", self.root)
        with served(archive.parent) as url:
            monai.bundle.download(
                name=NAME, url=f"{url}/{archive.name}", bundle_dir=str(self.bundle.parent), progress=False
            )
        assert (self.bundle / "configs" / "metadata.json").is_file()

    def metadata_fits_the_schema(self) -> None:
        """``verify_metadata`` with the schema's copy beside this file."""
        schema = shutil.copy(SCHEMA, self.work)
        monai.bundle.verify_metadata(meta_file=str(self.configs / "metadata.json"), filepath=schema)

    def train_from_another_folder(self) -> None:
        """Two iterations on phantoms, in a new process."""
        self.run("train.json", "--iterations", "2", "--ckpt_dir", str(self.elsewhere / "models"), run_id="training")

    def evaluate_from_another_folder(self) -> None:
        """The test cases of the phantoms."""
        self.run("train.json", "evaluate.json", "--inference_mode", "fast", run_id="evaluating")
        assert json.loads((self.elsewhere / "evaluate" / "summary.json").read_text())["num_cases"] == 4

    def infer_from_another_folder(self) -> None:
        """The mask of a phantom, in its geometry."""
        self.image = self.bundle / "data" / "phantoms" / "images" / "test_00.nii.gz"
        self.run("inference.json", "--dataset_dir", str(self.image), "--precision", "float32")  # as exported
        self.mask = nib.load(self.elsewhere / "inference" / "test_00_seg.nii.gz")
        np.testing.assert_allclose(self.mask.affine, nib.load(self.image).affine)

    def load_by_name(self) -> None:
        """``monai.bundle.load`` gives the network with the release's weights."""
        sys.path.insert(0, str(self.bundle))  # load does not look for code in the bundle's folder
        network = monai.bundle.load(NAME, bundle_dir=str(self.bundle.parent), device="cpu")
        assert Path(sys.modules[type(network).__module__].__file__).is_relative_to(self.bundle)
        weights = torch.load(self.weights, weights_only=True)
        assert all(torch.equal(tensor, weights[name].to(tensor.dtype)) for name, tensor in network.state_dict().items())
        self.network = network.eval()
        with torch.no_grad():
            self.logits = self.network(self.patch)

    def required_properties(self) -> None:
        """``create_workflow`` and ``check_properties`` of train, evaluate and infer."""
        for kind, *files in (
            ("train", "train.json"),
            ("train", "train.json", "evaluate.json"),
            ("infer", "inference.json"),
        ):
            workflow = monai.bundle.create_workflow(
                config_file=[str(self.configs / file) for file in files],
                workflow_type=kind,
                bundle_root=str(self.bundle),
            )
            assert isinstance(workflow, ConfigWorkflow)
            assert workflow.check_properties() == [], files

    def network_fits_the_metadata(self) -> None:
        """``verify_net_in_out``."""
        monai.bundle.verify_net_in_out(
            net_id="network_def", meta_file=str(self.configs / "metadata.json"),
            config_file=str(self.configs / "inference.json"), device="cpu",
        )  # fmt: skip

    def export_torchscript(self) -> None:
        """``ckpt_export``: the same logits."""
        torch.testing.assert_close(self.exported("network_def")(self.patch), self.logits)

    def export_torchscript_float16(self) -> None:
        """The same in half precision: logits that differ by 1 % of their range at most."""
        half = self.exported("network_half", network_half="$@network_def.half()")(self.patch.half())
        assert half.dtype == torch.float16
        torch.testing.assert_close(half.float(), self.logits, rtol=0, atol=0.01 * float(self.logits.abs().max()))

    def torchscript_needs_monai_only(self) -> None:
        """What MONAI Deploy reads of the exported file gives the mask of inference.json, without our package."""
        script = f"import sys; sys.path[0] = {str(Path(__file__).parent)!r}; import bundle_check; "
        script += "bundle_check.segment(*sys.argv[1:])"
        mask = self.work / "mask.npy"
        call([sys.executable, "-c", script, str(self.model_ts), str(self.image), str(mask)], self.elsewhere)
        np.testing.assert_array_equal(np.load(mask), np.asarray(self.mask.dataobj))

    def export_onnx(self) -> None:
        """``onnx_export``: the same logits in onnxruntime."""
        path = self.work / "model.onnx"
        monai.bundle.onnx_export(
            net_id="network_def", filepath=str(path), ckpt_file=str(self.weights), input_shape=PATCH, use_trace=True,
            meta_file=str(self.configs / "metadata.json"), config_file=str(self.configs / "inference.json"),
            converter_kwargs={"dynamo": False},
        )  # fmt: skip
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {session.get_inputs()[0].name: self.patch.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), self.logits, rtol=1e-4, atol=1e-4)

    def large_files(self) -> None:
        """Weights that were too large for a pull request's folder come back by ``download_large_files``."""
        folder = self.work / "pull_request"
        shutil.copytree(self.bundle, folder)
        with served(self.weights.parent) as url:
            replace_large_files(folder, url, limit=self.weights.stat().st_size - 1)
            assert not (folder / "models" / "model.pt").exists()
            monai.bundle.download_large_files(str(folder))
        assert (folder / "models" / "model.pt").read_bytes() == self.weights.read_bytes()

    def run(self, *arguments: str, run_id: str = "run") -> None:
        """``python -m monai.bundle run`` from another folder; results go into a folder named after the last config."""
        files = [str(self.configs / file) for file in arguments if file.endswith(".json")]
        output = self.elsewhere / Path(files[-1]).stem
        call(
            [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(files),
             "--bundle_root", str(self.bundle), "--output_dir", str(output), "--num_workers", "0",
             *(argument for argument in arguments if not argument.endswith(".json"))],
            self.elsewhere,
        )  # fmt: skip

    def exported(self, net_id: str, **override: Any) -> torch.jit.ScriptModule:
        """TorchScript module of a network id."""
        self.model_ts = self.work / net_id / "model.ts"
        self.model_ts.parent.mkdir()
        monai.bundle.ckpt_export(
            net_id=net_id, filepath=str(self.model_ts), ckpt_file=str(self.weights),
            meta_file=str(self.configs / "metadata.json"),
            config_file=[str(self.configs / file) for file in ("inference.json", "deploy.json")], **override,
        )  # fmt: skip
        return torch.jit.load(self.model_ts)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on the loopback interface."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def call(command: list[str], folder: Path) -> None:
    """Run a command in a folder; if it fails, its output is the error."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(result.stdout)
    assert result.returncode == 0, f"{' '.join(command)}\nended with exit code {result.returncode}"


def segment(model_ts: str, image: str, mask: str) -> None:
    """Segment an image as MONAI Deploy does, by the configs in an exported file; our package cannot be imported."""
    sys.modules["simcvd_bundle"] = None  # type: ignore[assignment]
    parser = ConfigParser()
    with zipfile.ZipFile(model_ts) as archive:
        parser.read_meta(json.loads(archive.read("model/extra/metadata.json")))
        for name in ("inference", "deploy"):
            parser.update(json.loads(archive.read(f"model/extra/{name}.json")))
    parser.parse()
    data = parser.get_parsed_content("preprocessing")({"image": image})
    network = torch.jit.load(model_ts).eval()
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer")(inputs=data["image"][None], network=network)[0]
    np.save(mask, parser.get_parsed_content("postprocessing")(data)["pred"][0].numpy().astype(np.uint8))


def steps(check: Check) -> list[Callable[[], None]]:
    """All steps, in the order in which they can be made."""
    return [
        check.download_the_release, check.metadata_fits_the_schema, check.train_from_another_folder,
        check.evaluate_from_another_folder, check.infer_from_another_folder, check.load_by_name,
        check.required_properties, check.network_fits_the_metadata, check.export_torchscript,
        check.torchscript_needs_monai_only, check.export_torchscript_float16, check.export_onnx, check.large_files,
    ]  # fmt: skip


def main() -> None:
    """Make all steps."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        check = Check(Path(folder))
        os.chdir(check.elsewhere)
        for step in steps(check):
            output = io.StringIO()
            try:
                with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                    step()
                print("PASS", step.__name__.replace("_", " "), flush=True)
            except Exception:  # the other steps may still tell something
                failed += 1
                print(output.getvalue(), traceback.format_exc(), "FAIL", step.__name__.replace("_", " "), flush=True)
        os.chdir(ROOT)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

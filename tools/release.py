"""Write the release of the bundle below dist/: NAME_vVERSION.zip, and the folder NAME that is in it.

The Model Zoo takes no file over 25 MB in a pull request. With --weights_url, the address of the folder where such files
will be served, dist/NAME gets large_files.json in their place; the zip is complete in either case.

    python tools/release.py [--weights_url https://...]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "simcvd"
CONTENT = (
    "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml", "requirements.txt",
    "configs", "docs", "simcvd_bundle", "models/record", "models/model.pt",
)  # fmt: skip
LARGE = 25 * 10**6


def release(folder: Path, root: Path = ROOT, weights_url: str | None = None) -> Path:
    """Write the release.

    Args:
        folder: where the zip and the folder go; those of an earlier release of this version are replaced.
        root: root of the bundle.
        weights_url: address under which the large files will be found by their names, or ``None``.

    Returns:
        Path of the zip.
    """
    version = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]
    bundle = folder / NAME
    shutil.rmtree(bundle, ignore_errors=True)
    for name in CONTENT:
        source, target = root / name, bundle / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.is_file():
            shutil.copyfile(source, target)
        else:
            raise FileNotFoundError(f"{source} is missing, but belongs to a release.")
    archive = shutil.make_archive(str(folder / f"{NAME}_v{version}"), "zip", folder, NAME)
    if weights_url:
        replace_large_files(bundle, weights_url)
    return Path(archive)


def replace_large_files(bundle: Path, url: str, limit: int = LARGE) -> None:
    """Write the zoo's ``large_files.json`` for the files of a bundle over ``limit`` bytes and remove them."""
    large = [path for path in sorted(bundle.rglob("*")) if path.is_file() and path.stat().st_size > limit]
    entries = [
        {
            "path": path.relative_to(bundle).as_posix(),
            "url": f"{url.rstrip('/')}/{path.name}",
            "hash_val": hashlib.sha256(path.read_bytes()).hexdigest(),
            "hash_type": "sha256",
        }
        for path in large
    ]
    if entries:
        (bundle / "large_files.json").write_text(json.dumps({"large_files": entries}, indent=4) + "\n")
    for path in large:
        path.unlink()


def main() -> None:
    """Write the release and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights_url", help="address of the folder where files over 25 MB will be served")
    archive = release(ROOT / "dist", weights_url=parser.parse_args().weights_url)
    print(f"Wrote {archive} and {archive.parent / NAME}")


if __name__ == "__main__":
    main()

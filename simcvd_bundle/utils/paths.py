"""Where the package and the bundle lie."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
BUNDLE_ROOT = PACKAGE.parent
"""The bundle that the package was imported from; an installed wheel has no configs there."""

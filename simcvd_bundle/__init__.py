"""SimCVD: semi-supervised 3D segmentation as a MONAI bundle (You et al., IEEE TMI 2022, arXiv:2108.06227)."""

__version__ = "0.1.0"

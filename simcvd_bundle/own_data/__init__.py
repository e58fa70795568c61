"""Own data: from a folder of images and labels to a datalist and an overlay that trains."""

from simcvd_bundle.own_data.command import init

__all__ = ["init"]

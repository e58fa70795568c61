"""Own data: from a folder of images and labels to a datalist and an overlay that trains."""

from simcvd_bundle.commands.init.command import init

__all__ = ["init"]

"""The command line: ``python -m simcvd_bundle COMMAND``."""

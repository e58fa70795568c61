"""Scripted faults: `make faults` runs all of them, `tests/test_faults.py` a part; counts in docs/reliability.md."""

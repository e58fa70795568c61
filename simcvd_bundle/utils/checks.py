"""Checks of arguments that many constructors share."""

from __future__ import annotations


def positive(owner: str, name: str, value: float) -> float:
    """Return ``value`` if it is above 0.

    Args:
        owner: whose argument it is, for the message.
        name: what the argument is called.
        value: the number.

    Raises:
        ValueError: when it is not, NaN included.
    """
    if not value > 0:
        raise ValueError(f"{owner}: {name} must be positive, got {value}.")
    return value

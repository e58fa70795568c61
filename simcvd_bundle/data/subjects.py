"""Subjects: whose scan an item of a datalist is, and that no split parts the scans of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def file_of(item: Mapping[str, Any]) -> str:
    """The (first) image of an item, to name it."""
    image = item["image"]
    return str(image[0] if isinstance(image, list) else image)


def subject_of(item: Mapping[str, Any]) -> str:
    """Subject of an item; a scan without the key ``subject`` is a subject of its own, named after its image.

    Raises:
        ValueError: when ``subject`` is neither a text nor an integer.
    """
    subject = item.get("subject")
    if subject is None:
        return file_of(item)
    if isinstance(subject, bool) or not isinstance(subject, str | int) or subject == "":
        raise ValueError(f"the subject of {file_of(item)} is {subject!r}: give a text or an integer.")
    return str(subject)


def scans_by_subject(items: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Numbers of the items of each subject, subjects in the order in which they first occur."""
    groups: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(subject_of(item), []).append(number)
    return groups


def check_subjects(sections: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Refuse datalists whose sections share a subject, or that name the subjects of some scans only.

    Where no item has a ``subject`` nothing is refused.

    Args:
        sections: items by section.

    Raises:
        ValueError: with the subject or the scan.
    """
    items = [item for section in sections.values() for item in section]
    without = [item for item in items if item.get("subject") is None]
    if len(without) == len(items):
        return
    if without:
        raise ValueError(
            f"{len(items) - len(without)} of {len(items)} cases name their subject, but {file_of(without[0])} does "
            "not: give all cases a `subject`, or none."
        )
    seen: dict[str, tuple[str, str]] = {}
    for section, members in sections.items():
        for item in members:
            first, file = seen.setdefault(subject_of(item), (section, file_of(item)))
            if first != section:
                raise ValueError(
                    f"subject {subject_of(item)!r} is in {first!r} ({file}) and in {section!r} ({file_of(item)}): "
                    "keep all scans of a subject in one section."
                )


def require_whole_subjects(kept: Sequence[Mapping[str, Any]], left: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a number of labelled cases that parts the labelled scans of a subject.

    Args:
        kept: the items that train with their labels.
        left: the labelled items whose labels are hidden, in their order.

    Raises:
        ValueError: with the subject and the numbers that would do.
    """
    labeled = {subject_of(item) for item in kept}
    split = sorted(labeled & {subject_of(item) for item in left})
    if not split:
        return
    order = [subject_of(item) for item in (*kept, *left)]
    fitting = [n for n in range(1, len(order) + 1) if not set(order[:n]) & set(order[n:])]
    near = sorted(sorted(fitting, key=lambda n: abs(n - len(kept)))[:2])
    raise ValueError(
        f"num_labeled {len(kept)} keeps the labels of some scans of subject {split[0]!r} and hides those of others: "
        f"choose {' or '.join(map(str, near))}."
    )

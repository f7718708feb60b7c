"""Numbered JSON records of a warehouse: imports, nights and models, each in a folder of its own."""

from __future__ import annotations

from pipelines.store.storage import join, list_names


def record_paths(root: str, folder: str) -> list[str]:
    """Paths of all records of `folder`, by number; what is still being written is left out."""
    names = list_names(join(root, folder))
    return [join(root, folder, n) for n in names if n.endswith(".json") and n[0] != "."]


def next_record(root: str, folder: str, records: list[str]) -> tuple[int, str]:
    """Number and path of the record that follows `records`."""
    number = 1 + (int(records[-1].rsplit("/", 1)[1].split(".")[0]) if records else 0)
    return number, record_path(root, folder, number)


def record_path(root: str, folder: str, number: int) -> str:
    """Path of one record."""
    return join(root, folder, f"{number:06d}.json")

"""Checkpoints of a training: one `.npz` with JSON inside, never pickle, replaced atomically.

A process that dies or a disk that fills up in the middle leaves the checkpoint before.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.model.towers import ModelConfig

SCHEMA = 1  # of models and checkpoints
_FORMAT = "queryloop training checkpoint"
_HEAD = "head.json"
Arrays = Mapping[str, npt.NDArray[Any]]


def write_checkpoint(path: Path, arrays: Arrays, head: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path` atomically.

    Raises:
        OSError: It cannot be written, a full disk for one; the one before is untouched.
    """
    full = dict(head) | {"format": _FORMAT, "schema": SCHEMA}
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    text = np.frombuffer(json.dumps(full, sort_keys=True).encode(), np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **{_HEAD: text}, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        kept = "the one before is kept" if path.exists() else "there is none before it"
        raise OSError(
            error.errno, f"checkpoint {path} cannot be written: {error.strerror}; {kept}"
        ) from error


def read_checkpoint(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """The arrays and the head of a checkpoint.

    Raises:
        ValueError: Truncated, foreign, or of another schema.
    """
    try:
        # Opened here: NumPy leaves a file that is no archive open.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        head = json.loads(arrays.pop(_HEAD).tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{path} is truncated or no checkpoint of Queryloop ({error}); delete it to begin anew"
        ) from error
    checked_head(head, _FORMAT, str(path))
    return arrays, head


def checked_head(head: Any, wanted: str, where: str) -> ModelConfig:
    """The config of a file's head; raises ValueError where it is not one of ours."""
    found = head.get("format") if isinstance(head, dict) else None
    if found != wanted:
        raise ValueError(f"{where} says format {found!r}, must be {wanted!r}: another program's?")
    if head.get("schema") != SCHEMA:
        raise ValueError(
            f"{where} has schema {head.get('schema')!r}, this version reads {SCHEMA}: train again"
        )
    try:
        raw: Any = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in head["config"].items()
        }
        return ModelConfig(**raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{where}: config cannot be read ({error}): train again") from error

"""Beam's file systems, imported when a path of theirs is first asked for.

Beam takes a second to import; a command that reads a local warehouse or S3 does without.
"""

from __future__ import annotations

from typing import Any


class _FileSystems:
    """Stands for `apache_beam.io.filesystems.FileSystems`."""

    def __getattr__(self, name: str) -> Any:
        from apache_beam.io.filesystems import FileSystems

        return getattr(FileSystems, name)


FileSystems = _FileSystems()

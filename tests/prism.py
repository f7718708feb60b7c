"""Prism, the runner that Beam makes its default, built from the Go proxy once.

GOBIN=$PWD/build/prism go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import apache_beam as beam

ROOT = Path(__file__).parents[1]
MODULE = "github.com/apache/beam/sdks/v2/go/cmd/prism"


def build_prism() -> Path:
    """The binary of the installed Beam's version; the first time it takes a minute.

    Raises:
        RuntimeError: It cannot be built here; the message says why.
    """
    folder = ROOT / "build" / "prism"
    found = folder / f"prism-{beam.__version__}"
    if found.exists():
        return found
    if shutil.which("go") is None:
        raise RuntimeError("no Go here, so no Prism: install Go to run this")
    environment = os.environ | {"GOBIN": str(folder)}
    command = ["go", "install", f"{MODULE}@v{beam.__version__}"]
    try:
        built = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=270, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{' '.join(command)}: not done in 270 s; run it by hand") from error
    if built.returncode:
        raise RuntimeError(f"{' '.join(command)}: {built.stderr.strip().splitlines()[-1]}")
    return (folder / "prism").rename(found)


def prism_options() -> tuple[str, ...]:
    """What `queryloop night` is to be told.

    Beam keeps one Prism a process, the one of whoever asked first: DirectRunner asks for another.
    """
    own = "--experiments=disable_prism_server_singleton"
    return ("--runner=PrismRunner", f"--prism_location={build_prism()}", own)

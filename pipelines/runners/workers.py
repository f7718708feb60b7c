"""Before a night goes far on other machines: does a job server answer, are the workers like us?"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import apache_beam as beam
import grpc
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from pipelines.plan import package_version
from pipelines.store.storage import join, read_bytes

PROBE_SECONDS = 10
PACKAGES = ("pipelines", "profiling", "retrieval", "selection")
Element = TypeVar("Element")


def check_endpoint(endpoint: str) -> None:
    """Raise ValueError where no job server of Beam answers at `endpoint`, instead of waiting."""
    with grpc.insecure_channel(endpoint) as channel:
        jobs = beam_job_api_pb2_grpc.JobServiceStub(channel)
        request = beam_job_api_pb2.DescribePipelineOptionsRequest()
        try:
            jobs.DescribePipelineOptions(request, timeout=PROBE_SECONDS)
        except grpc.RpcError as error:
            said = f"{error.code().name.lower()}: {error.details()}"
            raise ValueError(
                f"--job_endpoint={endpoint}: no job server of Beam answers there ({said}); start "
                "one, or give the host and the port that it printed"
            ) from None


@lru_cache(maxsize=1)
def code_version() -> str:
    """The package's version and a digest of its code: the same on the driver and every worker."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for path in sorted(p for name in PACKAGES for p in (root / name).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{package_version()} with code {digest.hexdigest()[:12]}"


@dataclass
class CheckWorkers(beam.PTransform):
    """Elements pass; a worker that has other code, or does not see the warehouse, fails at once.

    Attributes:
        root: The warehouse.
        version: The driver's.
    """

    root: str
    version: str = field(default_factory=code_version)

    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        """One check whenever a worker sets a stage up."""
        check = _CheckWorker(self.root, self.version, _digest(self.root))
        return elements | "check worker" >> beam.ParDo(check)


class _CheckWorker(beam.DoFn):
    """Compares this worker with the driver."""

    def __init__(self, root: str, version: str, digest: str) -> None:
        self._root, self._version, self._digest = root, version, digest

    def setup(self) -> None:
        check_worker(self._root, self._version, self._digest)

    def process(self, element: Element) -> Iterator[Element]:
        yield element


def check_worker(root: str, version: str, digest: str) -> None:
    """Raise ValueError where this worker cannot do the driver's work.

    Args:
        root: The warehouse, as the driver calls it.
        version: The driver's `code_version`.
        digest: Of the warehouse's settings as the driver reads them; its hash key is its own.
    """
    here = f"worker on {socket.gethostname()}"
    if code_version() != version:
        raise ValueError(
            f"{here} has Queryloop {code_version()}, the driver {version}; install the driver's "
            "wheel in the workers' environment and start the worker pools again"
        )
    if _digest(root) != digest:
        raise ValueError(
            f"{here}, in {os.getcwd()}, does not see the warehouse {root}; give a path or a URL "
            "that means the same on every machine: a shared mount, or an object store"
        )


def _digest(root: str) -> str:
    """Of the warehouse's settings; empty where there is none."""
    try:
        return hashlib.sha256(read_bytes(join(root, "warehouse.json"))).hexdigest()
    except OSError:
        return ""

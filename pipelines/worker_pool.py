"""Python workers for Beam runners on other machines: one pool beside every TaskManager.

    python -m pipelines.worker_pool --port 50000      then --environment_type=EXTERNAL
                                                           --environment_config=localhost:50000

What Beam's own pool (`apache_beam.runners.worker.worker_pool_main`) does, but for three things. It
runs the interpreter that it runs in itself, not the first `python` of the PATH. A worker that
cannot start is an error of the job with the reason, and one that was lost before the runner knew
it is started again: the runner would wait for either for ever. And two TaskManagers of one machine
may share it, though both number their workers from 1.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners.worker.sdk_worker import SdkHarness
from apache_beam.utils import thread_pool_executor

STARTS = 5  # of one worker; a kill -9 costs one
READY = "ready"
_LOG = logging.getLogger(__name__)


class Worker:
    """One worker process of one runner, started again where it is lost and still wanted."""

    def __init__(self, url: str, worker_id: str) -> None:
        self._url, self._id = url, worker_id
        self._lock, self._wanted, self._left = threading.Lock(), True, STARTS
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Start it; what it says where it cannot, else nothing."""
        said = ""
        while not said and self._left and self._wanted:
            said = self._start_once()
            if said == READY:
                threading.Thread(target=self._watch, daemon=True).start()
                return ""
        return said or f"worker {self._id} was lost {STARTS} times"

    def _start_once(self) -> str:
        """Its first words: that it is ready, or why not; nothing where it was killed before."""
        with self._lock:
            if not self._wanted:
                return ""
            self._left -= 1
            command = [sys.executable, "-m", "pipelines.worker_pool", self._url, self._id]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        with self._process.stdout as words:
            first = words.readline().strip()
            if first == READY:
                return READY
            rest = words.read()
        self._process.wait()
        return f"{first}\n{rest}" if first else ""

    def _watch(self) -> None:
        """Start it again when it ends unasked while its runner is still there."""
        assert self._process is not None
        code = self._process.wait()
        if self._wanted and _listens(self._url):
            _LOG.warning("worker %s ended with %s, starting it again", self._id, code)
            self.start()

    def stop(self) -> None:
        """End it, for good."""
        with self._lock:
            self._wanted = False
            process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Beam's service: starts and stops workers for whoever asks."""

    def __init__(self) -> None:
        self._workers: dict[tuple[str, str], Worker] = {}

    def StartWorker(self, request: Any, context: Any) -> Any:
        """Start a worker; its control endpoint and id are the caller's."""
        _LOG.warning("starting worker %s for %s", request.worker_id, context.peer())
        worker = Worker(request.control_endpoint.url, request.worker_id)
        self._workers[context.peer(), request.worker_id] = worker
        return beam_fn_api_pb2.StartWorkerResponse(error=worker.start())

    def StopWorker(self, request: Any, context: Any) -> Any:
        """Stop the caller's worker of that id."""
        worker = self._workers.pop((context.peer(), request.worker_id), None)
        if worker is None:
            _LOG.warning("no worker %s of %s to stop", request.worker_id, context.peer())
        else:
            worker.stop()
        return beam_fn_api_pb2.StopWorkerResponse()

    def stop(self) -> None:
        """Stop all."""
        for worker in list(self._workers.values()):
            worker.stop()


def _listens(url: str) -> bool:
    host, _, port = url.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def run_worker(url: str, worker_id: str) -> None:
    """What a worker process does: import all that a night needs, say so, serve the runner."""
    try:
        import pipelines.night  # noqa: F401 (so that it fails here, where someone listens)
    except BaseException:
        print(traceback.format_exc(), flush=True)
        raise SystemExit(1) from None
    print(READY, flush=True)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads on
    harness = SdkHarness(url, worker_id=worker_id, state_cache_size=0, data_buffer_time_limit_ms=-1)
    harness.run()


def serve(host: str, port: int) -> None:
    """Serve runners until the process is told to end."""
    lenient = [("grpc.http2.max_pings_without_data", 0), ("grpc.http2.max_ping_strikes", 0)]
    server = grpc.server(thread_pool_executor.shared_unbounded_instance(), options=lenient)
    pool = WorkerPool()
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    if not server.add_insecure_port(f"{host}:{port}"):
        raise ValueError(f"{host}:{port} is taken or no address of this machine; give another")
    atexit.register(pool.stop)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.start()
    _LOG.warning("workers at %s:%s", host, port)
    server.wait_for_termination()


def main() -> None:
    """Be the pool; with an address and an id, be one of its workers."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    parser = argparse.ArgumentParser(description="Python workers for Beam runners.")
    parser.add_argument("--host", default="localhost", help="address to listen on")
    parser.add_argument("--port", type=int, default=50000, help="port to listen on")
    parser.add_argument("worker", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        run_worker(*args.worker)
    else:
        serve(args.host, args.port)


if __name__ == "__main__":
    main()

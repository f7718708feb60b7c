"""An S3 server of this machine, in this process, that can be told to misbehave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Start = Callable[..., Any]


class Server:
    """Moto's S3, one request at a time as its put is not atomic, with faults and a counter."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.sent = 0  # bytes of objects
        self.ignore_conditions = False
        self.lose_answers = 0

    def _serve(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        if self.ignore_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        with self._lock:
            parts = list(self._app(environ, start))
            if environ["REQUEST_METHOD"] == "GET":
                self.sent += sum(map(len, parts))
            if environ["REQUEST_METHOD"] == "PUT" and self.lose_answers:
                self.lose_answers -= 1
                start("503 Slow Down", [("Content-Length", "0")])
                return []
        return parts

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

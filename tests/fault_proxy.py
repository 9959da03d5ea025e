"""A proxy in front of an HTTP server, which answers some requests in its own way: errors, hang-ups, half of a body.

A fault is an HTTP status; `reset`, to hang up; `lost`, to pass the request on and hang up instead of answering;
`short`, for half of the answer's body; or `stall 5`, to answer after five seconds.
"""

import http.server
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# What to do with a request, by its method and path; None to pass it on.
Faults = Callable[[str, str], int | str | None]


@contextmanager
def faulty(target: str, faults: Faults) -> Iterator[str]:
    """Runs a proxy in front of `target`, and yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            sent = self.rfile.read(length) if length else None
            fault = faults(self.command, self.path)
            if isinstance(fault, str) and fault.startswith("stall "):
                time.sleep(float(fault.removeprefix("stall ")))
            if fault == "lost":
                self.forward(sent)
            if fault in ("reset", "lost"):
                self.close_connection = True
                self.connection.shutdown(2)
                return
            if isinstance(fault, int):
                status, headers, body = fault, {"Content-Type": "text/plain"}, b"try later"
            else:
                status, headers, body = self.forward(sent)
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding", "server", "date"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if fault == "short":
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
                return
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer  # noqa: N815 - names that the library gives

        def forward(self, sent: bytes | None) -> tuple[int, dict[str, str], bytes]:
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
            }
            request = urllib.request.Request(target + self.path, sent, headers, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    return response.status, dict(response.headers), response.read()
            except urllib.error.HTTPError as error:
                return error.code, dict(error.headers), error.read()

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            # Clients hang up, too.
            pass

    server = Server(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

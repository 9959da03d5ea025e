"""A server of Google Cloud Storage on this machine."""

import contextlib
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def running(server: Path, folder: Path) -> Iterator[str]:
    """Runs fake-gcs-server, and yields its address.

    Args:
      server: its binary.
      folder: where its buckets are folders, and its objects files.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = {"scheme": "http", "host": "127.0.0.1", "port": port, "external-url": address, "log-level": "error"}
    options |= {"backend": "filesystem", "filesystem-root": folder}
    command = [str(server), *(str(part) for name, value in options.items() for part in (f"-{name}", value))]
    with subprocess.Popen(command) as process:
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/storage/v1/b?project=p"):
                    break
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()

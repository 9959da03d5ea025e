"""What tests of engines share: a server that stores objects."""

import contextlib
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

FAKE_GCS = Path(__file__).parents[2] / ".engines" / "bin" / "fake-gcs-server"


@pytest.fixture(scope="session")
def object_store(tmp_path_factory):
    """Address of a server that speaks the API of Google Cloud Storage."""
    assert FAKE_GCS.exists(), "there is no server of Google Cloud Storage: run `make test-engines`"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    root = tmp_path_factory.mktemp("objects")
    options = {"scheme": "http", "host": "127.0.0.1", "port": port, "external-url": address, "log-level": "error"}
    options |= {"backend": "filesystem", "filesystem-root": root}
    command = [str(FAKE_GCS), *(str(part) for name, value in options.items() for part in (f"-{name}", value))]
    with subprocess.Popen(command) as server:
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/storage/v1/b?project=p"):
                    break
                time.sleep(0.1)
            yield address
        finally:
            server.terminate()

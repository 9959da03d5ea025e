"""A server of Google Cloud Storage for tests: `make .engines/bin/fake-gcs-server` installs it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import fake_gcs

FAKE_GCS = Path(__file__).parents[1] / ".engines" / "bin" / "fake-gcs-server"


@pytest.fixture(scope="session")
def object_store(tmp_path_factory) -> Iterator[str]:
    """Address of a server that speaks the API of Google Cloud Storage."""
    assert FAKE_GCS.exists(), "there is no server of Google Cloud Storage: run `make test-stores`"
    with fake_gcs.running(FAKE_GCS, tmp_path_factory.mktemp("objects")) as address:
        yield address

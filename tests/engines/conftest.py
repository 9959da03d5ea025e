"""What tests of engines share: a server that stores objects."""

from pathlib import Path

import pytest

from benchmarks import fake_gcs

FAKE_GCS = Path(__file__).parents[2] / ".engines" / "bin" / "fake-gcs-server"


@pytest.fixture(scope="session")
def object_store(tmp_path_factory):
    """Address of a server that speaks the API of Google Cloud Storage."""
    assert FAKE_GCS.exists(), "there is no server of Google Cloud Storage: run `make test-engines`"
    with fake_gcs.running(FAKE_GCS, tmp_path_factory.mktemp("objects")) as address:
        yield address

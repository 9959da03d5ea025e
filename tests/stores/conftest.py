"""What tests of real stores share: a bucket behind a proxy, which spoils what its server answers when asked to."""

import uuid

import pytest

from beamscribe.pipelines.stores import gcs
from tests.fault_proxy import faulty
from tests.object_store import object_store  # noqa: F401 - a fixture


@pytest.fixture
def requests():
    """Methods and paths of all requests."""
    return []


@pytest.fixture
def fault():
    """What decides on faults: the function in it, once there is one."""
    return []


@pytest.fixture
def bucket(object_store, monkeypatch, tmp_path, requests, fault):  # noqa: F811
    """URI of an empty bucket, behind a proxy."""

    def decide(method, path):
        requests.append((method, path))
        return fault[0](method, path) if fault else None

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with faulty(object_store, decide) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        gcs._client.cache_clear()
        name = f"archive-{uuid.uuid4().hex[:8]}"
        gcs._client().create_bucket(name)
        yield f"gs://{name}"
        gcs._client.cache_clear()

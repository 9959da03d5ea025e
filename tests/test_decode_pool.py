import os
import subprocess
import sys
import time

import pytest

from pipelines import decode_pool, decoding
from pipelines.decode_pool import DecodePool
from pipelines.failures import ErrorCode, Stage
from pipelines.photos import PhotoRef

# Runs in the decoding process instead of the real decoder: does as a photo's bytes say.
MISBEHAVING = """
import os, time
import pipelines.decoding as decoding

real = decoding.decode

def decode(data, size):
    if data == b"abort":
        os.abort()
    if data == b"hang":
        time.sleep(3600)
    return real(data, size)
"""


@pytest.fixture
def pool():
    pool = DecodePool(workers=2, timeout=3.0)
    yield pool
    pool.close()


@pytest.fixture
def misbehaving(monkeypatch, tmp_path):
    """A decoder that aborts or never ends where the bytes ask for it, in the real processes."""
    (tmp_path / "misbehaving_decoder.py").write_text(
        MISBEHAVING + "def decode_all(photos, size):\n    return [decode(data, size) for data in photos]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.getcwd()}")
    import misbehaving_decoder

    monkeypatch.setattr(decoding, "decode_all", misbehaving_decoder.decode_all)


def refs_of(folder, contents):
    refs = []
    for index, data in enumerate(contents):
        path = folder / f"{index:03d}.jpg"
        path.write_bytes(data)
        refs.append(PhotoRef(str(path), "", len(data)))
    return refs


def test_every_photo_comes_in_order(pool, tmp_path, make_photo):
    refs = [PhotoRef(str(make_photo(tmp_path / f"{i:03d}.jpg")), "") for i in range(50)]
    photos = list(pool.stream(refs, 16))
    assert [photo.ref for photo in photos] == refs
    assert all(photo.decoded.pixels.shape == (16, 16, 3) for photo in photos)


def test_a_crash_and_a_hang_cost_one_photo_each(pool, tmp_path, make_photo, misbehaving):
    good = make_photo(tmp_path / "good.jpg").read_bytes()
    contents = [good] * 20
    contents[5], contents[12] = b"abort", b"hang"
    photos = list(pool.stream(refs_of(tmp_path, contents), 16))
    failures = {i: photo.decoded.failure for i, photo in enumerate(photos) if photo.decoded.failure}
    assert {i: failure.error for i, failure in failures.items()} == {5: ErrorCode.DECODER_CRASH, 12: ErrorCode.TIMEOUT}
    # The pool goes on with new processes.
    assert next(pool.stream(refs_of(tmp_path, [good]), 16)).decoded.failure is None


def test_reading_failures_have_their_codes(pool, tmp_path):
    (tmp_path / "nothing.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    paths = {
        tmp_path / "nothing.jpg": ErrorCode.NOT_FOUND,
        tmp_path / "pipe.jpg": ErrorCode.UNREADABLE,
        # Reading a process's memory from its start is an input/output error.
        "/proc/self/mem": ErrorCode.UNREADABLE,
    }
    if sys.platform != "linux":
        del paths["/proc/self/mem"]
    photos = list(pool.stream([PhotoRef(str(path), "") for path in paths], 16))
    assert [photo.decoded.failure.error for photo in photos] == list(paths.values())
    assert {photo.decoded.failure.stage for photo in photos} == {Stage.READ}


def test_permission_is_told_from_other_errors(pool, monkeypatch):
    def refuse(uri):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(decode_pool.storage, "read", refuse)
    assert next(pool.stream([PhotoRef("/x.jpg", "")], 16)).decoded.failure.error == ErrorCode.PERMISSION


def test_the_processes_import_only_the_decoders(pool, tmp_path, make_photo):
    next(pool.stream([PhotoRef(str(make_photo(tmp_path / "a.jpg")), "")], 16))
    heavy = pool._processes.schedule(
        eval,
        ("[m for m in ('apache_beam', 'tensorflow', 'keras', 'pyarrow', 'jobs') if m in __import__('sys').modules]",),
    )
    assert heavy.result() == []


def test_chunks_are_bounded_in_photos_and_in_bytes():
    small = [PhotoRef(str(i), "", 10) for i in range(20)]
    large = [PhotoRef(str(i), "", decode_pool.CHUNK_BYTES) for i in range(3)]
    assert [len(chunk) for chunk in decode_pool._chunks(small)] == [8, 8, 4]
    assert [len(chunk) for chunk in decode_pool._chunks(large)] == [1, 1, 1]


def test_no_process_is_left_behind(tmp_path, make_photo):
    photo = make_photo(tmp_path / "a.jpg")
    script = (
        "import sys; from pipelines import decode_pool; from pipelines.photos import PhotoRef\n"
        f"next(decode_pool.shared().stream([PhotoRef({str(photo)!r}, '')], 16))\n"
        "print(*[p.pid for p in decode_pool.shared()._processes._pool_manager.worker_manager.workers.values()])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    pids = [int(pid) for pid in done.stdout.split()]
    assert pids
    time.sleep(0.5)
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]

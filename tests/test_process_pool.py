import concurrent.futures
import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest

from beamscribe.pipelines import failures
from beamscribe.pipelines.failures import ErrorCode, Stage
from beamscribe.pipelines.images import image_process, process_pool, to_pixels
from beamscribe.pipelines.images.process_pool import ImagePool
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import photo_reader, reading
from beamscribe.pipelines.sources.photo_reader import PhotoReader

# Runs in the decoding process instead of the real decoder: does as a photo's bytes say.
MISBEHAVING = """
import os, time
from beamscribe.pipelines.images import to_pixels

real = to_pixels.convert
PNG = %r

def decode(data, size, max_pixels):
    if data == b"abort":
        os.abort()
    if data == b"hang":
        time.sleep(3600)
    if data == b"fault":
        # A mistake in the code that resizes.
        to_pixels._REDUCING_GAP = None
        try:
            return real(PNG, size, max_pixels)
        finally:
            to_pixels._REDUCING_GAP = 3
    if data == b"raise":
        raise KeyError("what no conversion raises")
    return real(data, size, max_pixels)
"""


@pytest.fixture
def pool():
    pool = ImagePool(workers=2, timeout=6.0)
    yield pool
    pool.close()


@pytest.fixture
def reader(pool):
    return PhotoReader(pool)


@pytest.fixture
def misbehaving(monkeypatch, tmp_path):
    """A decoder that aborts or never ends where the bytes ask for it, in the real processes."""
    (tmp_path / "misbehaving_decoder.py").write_text(
        MISBEHAVING % plain_png(20, 20)
        + "def decode_all(photos, *options):\n    return [decode(data, *options) for data in photos]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}")
    import misbehaving_decoder

    monkeypatch.setattr(to_pixels, "convert_all", misbehaving_decoder.decode_all)


def refs_of(folder, contents):
    refs = []
    for index, data in enumerate(contents):
        path = folder / f"{index:03d}.jpg"
        path.write_bytes(data)
        refs.append(PhotoRef(str(path), "", len(data)))
    return refs


def test_every_photo_comes_in_order(reader, tmp_path, make_photo):
    refs = [PhotoRef(str(make_photo(tmp_path / f"{i:03d}.jpg")), "") for i in range(50)]
    photos = list(reader.stream(refs, 16))
    assert [photo.ref for photo in photos] == refs
    assert all(photo.picture.pixels.shape == (16, 16, 3) for photo in photos)


def test_a_crash_and_a_hang_cost_one_photo_each(misbehaving, reader, tmp_path, make_photo):
    good = make_photo(tmp_path / "good.jpg").read_bytes()
    contents = [good] * 20
    contents[5], contents[12] = b"abort", b"hang"
    photos = list(reader.stream(refs_of(tmp_path, contents), 16))
    failed = {i: photo.picture.failure for i, photo in enumerate(photos) if photo.picture.failure}
    assert {i: failure.error for i, failure in failed.items()} == {5: ErrorCode.DECODER_CRASH, 12: ErrorCode.TIMEOUT}
    # The pool goes on with new processes.
    assert next(reader.stream(refs_of(tmp_path, [good]), 16)).picture.failure is None


def test_a_fault_of_the_code_costs_one_photo_and_is_logged(
    misbehaving, reader, tmp_path, make_photo, monkeypatch, caplog
):
    monkeypatch.setattr(failures, "_logged", set())
    good = make_photo(tmp_path / "good.jpg").read_bytes()
    contents = [good] * 8
    contents[2] = contents[3] = b"fault"
    photos = list(reader.stream(refs_of(tmp_path, contents), 16))
    failed = {i: photo.picture.failure for i, photo in enumerate(photos) if photo.picture.failure}
    assert {i: (f.stage, f.error) for i, f in failed.items()} == dict.fromkeys(
        (2, 3), (Stage.DECODE, ErrorCode.INTERNAL_ERROR)
    )
    assert failed[2].message.startswith("TypeError: ") and "(pipelines/images/to_pixels.py, line " in failed[2].message
    # Once, with the traceback of the image process.
    (record,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert "in _resize" in record.getMessage() and "Traceback" in record.getMessage()


def test_what_no_conversion_raises_costs_one_photo_and_is_logged(
    misbehaving, reader, tmp_path, make_photo, monkeypatch, caplog
):
    monkeypatch.setattr(failures, "_logged", set())
    good = make_photo(tmp_path / "good.jpg").read_bytes()
    photos = list(reader.stream(refs_of(tmp_path, [good, b"raise", good]), 16))
    assert [photo.picture.failure and photo.picture.failure.error for photo in photos] == [
        None,
        ErrorCode.INTERNAL_ERROR,
        None,
    ]
    assert "in decode_all" in caplog.text


def test_a_pool_that_has_ended_gives_no_failures(make_photo, tmp_path):
    data = make_photo(tmp_path / "a.jpg").read_bytes()
    pool = ImagePool(workers=1)
    ended = []

    def convert():
        try:
            ended.append(pool.convert([data], 16, 10**6))
        except (concurrent.futures.CancelledError, concurrent.futures.BrokenExecutor) as error:
            ended.append(error)

    task = pool._processes.schedule(eval, ("__import__('time').sleep(3600)",))
    while not task.running():
        time.sleep(0.05)
    waiting = threading.Thread(target=convert)
    waiting.start()
    time.sleep(0.5)
    pool.close()
    waiting.join(30)
    assert len(ended) == 1 and isinstance(ended[0], Exception)


def test_photos_say_how_long_they_took(reader, tmp_path, make_photo, monkeypatch):
    read = reading.stores.read

    def slowly(uri):
        time.sleep(0.02)
        return read(uri)

    monkeypatch.setattr(reading.stores, "read", slowly)
    good = make_photo(tmp_path / "good.jpg").read_bytes()
    photos = list(reader.stream([*refs_of(tmp_path, [good, good]), PhotoRef("/no/photo.jpg", "")], 16))
    assert all(photo.picture.read_ms >= 20 and 0 < photo.picture.decode_ms < 6000 for photo in photos[:2])
    assert photos[2].picture.read_ms is None and photos[2].picture.decode_ms is None


def test_reading_failures_have_their_codes(reader, tmp_path):
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
    photos = list(reader.stream([PhotoRef(str(path), "") for path in paths], 16))
    assert [photo.picture.failure.error for photo in photos] == list(paths.values())
    assert {photo.picture.failure.stage for photo in photos} == {Stage.READ}


def test_permission_is_told_from_other_errors(reader, monkeypatch):
    def refuse(uri):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reading.stores, "read", refuse)
    assert next(reader.stream([PhotoRef("/x.jpg", "")], 16)).picture.failure.error == ErrorCode.PERMISSION


def test_the_processes_import_only_the_codecs(pool, reader, tmp_path, make_photo):
    next(reader.stream([PhotoRef(str(make_photo(tmp_path / "a.jpg")), "")], 16))
    heavy = pool._processes.schedule(
        eval,
        ("[m for m in ('apache_beam', 'tensorflow', 'keras', 'pyarrow', 'jobs') if m in __import__('sys').modules]",),
    )
    assert heavy.result() == []


def test_chunks_are_bounded_in_photos_and_in_bytes():
    small = [PhotoRef(str(i), "", 10) for i in range(20)]
    large = [PhotoRef(str(i), "", photo_reader.CHUNK_BYTES) for i in range(3)]
    assert [len(chunk) for chunk in photo_reader.chunks(small)] == [8, 8, 4]
    assert [len(chunk) for chunk in photo_reader.chunks(large)] == [1, 1, 1]


def test_no_process_is_left_behind(tmp_path, make_photo):
    photo = make_photo(tmp_path / "a.jpg")
    script = (
        "from beamscribe.pipelines.images import process_pool\nfrom beamscribe.pipelines.photos import PhotoRef\n"
        "from beamscribe.pipelines.sources import photo_reader\n"
        f"next(photo_reader.shared().stream([PhotoRef({str(photo)!r}, '')], 16))\n"
        "print(*[p.pid for p in process_pool.shared()._processes._pool_manager.worker_manager.workers.values()])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    pids = [int(pid) for pid in done.stdout.split()]
    assert pids
    assert all(gone(pid) for pid in pids)


def gone(pid, seconds=20.0):
    """Whether a process ends within some time; one that nobody has waited for yet has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def start(script, lines):
    """Starts a process, and reads so many lines of what it prints."""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    return process, [process.stdout.readline().split() for _ in range(lines)]


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

# In C, with the interpreter's lock held: no thread of Python runs any more.
HANG = "__import__('ctypes').PyDLL(None).sleep(3600)"


@needs_proc
def test_decoders_die_with_their_parent_even_while_they_hang():
    script = (
        "import time; from beamscribe.pipelines.images.process_pool import ImagePool\n"
        "pool = ImagePool(workers=2)\n"
        f"tasks = [pool._processes.schedule(eval, ({HANG!r},)) for _ in range(2)]\n"
        "while not all(task.running() for task in tasks): time.sleep(0.1)\n"
        "print(*pool._processes._pool_manager.worker_manager.workers, flush=True); time.sleep(3600)\n"
    )
    parent, [pids] = start(script, 1)
    assert len(pids) == 2 and not any(gone(pid, 0.3) for pid in pids)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert all(gone(pid) for pid in pids)


@needs_proc
def test_without_the_kernel_a_thread_watches_the_parent():
    child = (
        "import os, time; from beamscribe.pipelines.images import image_process\n"
        "image_process._ask_the_kernel = lambda: False\n"
        "image_process.die_with(os.getppid()); print('watched', flush=True); time.sleep(3600)\n"
    )
    script = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}]); print(child.pid, flush=True); child.wait()\n"
    )
    parent, [[pid], _] = start(script, 2)
    assert not gone(pid, 0.3)
    parent.kill()
    parent.wait()
    assert gone(pid)


def test_a_process_whose_parent_is_gone_already_ends():
    script = "from beamscribe.pipelines.images import image_process; image_process.die_with(1 << 30); print('alive')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and done.stdout == ""


def test_what_runs_before_the_decoders_imports_none():
    script = "import sys; import beamscribe.pipelines.images.image_process; print({'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"


def plain_png(width, height):
    """A PNG of RGBA, all zero, which is made without its pixels ever being in memory."""
    rows, band = height // 10, bytes((4 * width + 1) * 10)
    packer = zlib.compressobj(1, wbits=-15)
    packed = packer.compress(band) + packer.flush(zlib.Z_FULL_FLUSH)
    length = len(band) * rows
    # Adler-32 of zeros: the first sum stays 1, the second counts.
    data = b"\x78\x01" + packed * rows + b"\3\0" + struct.pack(">HH", length % 65521, 1)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@needs_proc
def test_memory_is_limited_and_what_needs_more_is_one_failure(tmp_path, make_photo):
    good = make_photo(tmp_path / "good.jpg").read_bytes()
    pool = ImagePool(workers=1, memory=512 * 2**20)
    try:
        contents = [good, plain_png(14_000, 10_000), good]
        before, failed, after = PhotoReader(pool).stream(refs_of(tmp_path, contents), 16)
        (pid,) = pool._processes._pool_manager.worker_manager.workers
        with open(f"/proc/{pid}/limits") as file:
            limits = next(line.split() for line in file if line.startswith("Max address space"))
    finally:
        pool.close()
    assert before.picture.failure is None and after.picture.failure is None
    assert failed.picture.failure.error == ErrorCode.TOO_LARGE and "memory" in failed.picture.failure.message
    assert (failed.picture.width, failed.picture.height) == (14_000, 10_000)
    assert limits[3] == str(512 * 2**20)


def test_an_honest_photo_of_the_largest_size_is_decoded(tmp_path):
    width, height = 20_000, to_pixels.MAX_PIXELS // 20_000
    pool = ImagePool(workers=1, timeout=300)
    try:
        [photo] = PhotoReader(pool).stream(refs_of(tmp_path, [plain_png(width, height)]), 64)
    finally:
        pool.close()
    assert photo.picture.failure is None
    assert (photo.picture.width, photo.picture.height) == (width, height)
    # Transparent all over: the white behind it.
    assert photo.picture.pixels.min() == 255


def test_the_limit_is_far_above_what_an_honest_photo_needs():
    # WebP needs most: its decoder has the photo three times, Pillow once, at four bytes a pixel.
    assert image_process.MEMORY_LIMIT > 4 * 4 * to_pixels.MAX_PIXELS + 2**30


def test_as_many_decoders_as_processors(monkeypatch):
    monkeypatch.setattr(process_pool, "_pool", None)
    monkeypatch.setattr(process_pool.loky, "cpu_count", lambda: 3)
    with contextlib.closing(process_pool.shared()) as pool:
        assert pool is process_pool.shared()
        assert len(pool._processes._pool_manager.worker_manager.workers) == 3

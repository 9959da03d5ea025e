import contextlib
import json
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

from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines import failures
from beamscribe.pipelines.failures import ErrorCode, Stage
from beamscribe.pipelines.images import image_process, process_pool, starting, to_pixels
from beamscribe.pipelines.images.process_pool import ImagePool, PoolClosedError
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import photo_reader, reading
from beamscribe.pipelines.sources.photo_reader import PhotoReader, ReadOptions

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

# Found by every Python process: the conversion in an image process does as a photo's bytes say.
MISBEHAVING = """
import ctypes, json, os, resource, signal, sys, time

def misbehave(data):
    if data == b"abort":
        os.abort()
    if data == b"hang":
        time.sleep(3600)
    if data == b"hang in C":
        # With the interpreter's lock held: no thread of Python runs any more.
        ctypes.PyDLL(None).sleep(3600)
    if data == b"compute":
        while True:
            pass
    if data == b"exit":
        os._exit(3)
    if data == b"raise":
        raise KeyError("what no conversion raises")
    if data == b"killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if data == b"killed once" and not os.lseek(ONCE, 0, os.SEEK_END):
        os.write(ONCE, b"killed")
        os.kill(os.getpid(), signal.SIGKILL)
    if data == b"nonsense":
        for descriptor in range(3, 20):
            try:
                os.write(descriptor, b"\\0\\0\\0\\5[1,2]")
            except OSError:
                pass

if any("image_process" in word for word in sys.orig_argv):
    import numpy
    from beamscribe.pipelines.images import to_pixels
    from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
    from beamscribe.pipelines.images.pictures import Picture

    real = to_pixels.convert
    # Files can't be opened once photos come.
    ONCE = os.open(os.path.join(os.path.dirname(__file__), "once"), os.O_RDWR | os.O_CREAT)

    def convert(data, size, max_pixels, *expected):
        misbehave(data)
        if data == b"fault":
            # A mistake in the code that resizes.
            to_pixels._REDUCING_GAP = None
            try:
                return real(PNG, size, max_pixels, *expected)
            finally:
                to_pixels._REDUCING_GAP = 3
        if data.startswith(b"say "):
            return Picture(None, failure=Failure(Stage.DECODE, ErrorCode.CORRUPT, json.dumps(eval(data[4:]))))
        return real(data, size, max_pixels, *expected)

    to_pixels.convert = convert

PNG = %r
"""


def misbehave(monkeypatch, folder: Path) -> None:
    """Has the image processes that are started from now on do as the bytes of photos say."""
    (folder / "sitecustomize.py").write_text(MISBEHAVING % plain_png(20, 20))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{Path(__file__).parents[1]}")


@pytest.fixture
def pool():
    pool = ImagePool(workers=2, patience=6.0)
    yield pool
    pool.close()


@pytest.fixture
def reader(pool):
    return PhotoReader(pool)


@pytest.fixture
def misbehaving(monkeypatch, tmp_path):
    misbehave(monkeypatch, tmp_path)


def said(pool: ImagePool, expression: str):
    """What an expression is in a misbehaving image process."""
    [picture] = pool.convert([f"say {expression}".encode()], 16, 10**6)
    return json.loads(picture.failure.message)


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
    misbehaving, pool, make_photo, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(failures, "_logged", set())
    good = make_photo(tmp_path / "good.jpg").read_bytes()
    pictures = pool.convert([good, b"raise", good], 16, 10**6)
    assert [picture.failure and picture.failure.error for picture in pictures] == [
        None,
        ErrorCode.INTERNAL_ERROR,
        None,
    ]
    assert "what no conversion raises" in caplog.text and "in misbehave" in caplog.text


def test_an_answer_that_is_none_costs_one_photo(misbehaving, pool, make_photo, tmp_path):
    good = make_photo(tmp_path / "good.jpg").read_bytes()
    pictures = pool.convert([good, b"nonsense", b"exit", good], 16, 10**6)
    assert [picture.failure and picture.failure.error for picture in pictures] == [
        None,
        ErrorCode.DECODER_CRASH,
        ErrorCode.DECODER_CRASH,
        None,
    ]


def test_a_process_killed_from_outside_costs_nothing(misbehaving, pool, make_photo, tmp_path):
    good = make_photo(tmp_path / "good.jpg").read_bytes()
    for _ in range(10):
        assert pool.convert([good], 16, 10**6)[0].failure is None
        # At rest.
        os.kill(pool.processes[0], signal.SIGKILL)
    # At work: once, then always.
    [png] = pool.convert([b"killed once"], 16, 10**6)
    assert png.failure.error == ErrorCode.NOT_AN_IMAGE
    first, killed, last = pool.convert([good, b"killed", good], 16, 10**6)
    assert first.failure is None and last.failure is None
    assert killed.failure.error == ErrorCode.DECODER_KILLED and killed.failure.error.transient


def test_a_process_that_is_stopped_for_a_while_costs_nothing(pool, make_photo, tmp_path):
    good = make_photo(tmp_path / "good.jpg").read_bytes()
    pool.convert([good], 16, 10**6)
    os.kill(pool.processes[0], signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (pool.processes[0], signal.SIGCONT)).start()
    assert pool.convert([good], 16, 10**6)[0].failure is None


def test_one_that_is_stopped_for_good_is_replaced_whatever_it_is_sent(pool, make_photo, tmp_path):
    good = make_photo(tmp_path / "good.jpg").read_bytes()
    pool.convert([good], 16, 10**6)
    os.kill(pool.processes[0], signal.SIGSTOP)
    # More than a socket holds.
    pictures = pool.convert([good, good + bytes(10**7)], 16, 10**6)
    assert [picture.failure for picture in pictures] == [None, None]


@needs_proc
def test_processor_time_is_limited_for_each_photo(misbehaving, make_photo, tmp_path):
    pool = ImagePool(workers=1, seconds=1)
    try:
        [picture] = pool.convert([b"compute"], 16, 10**6)
        assert picture.failure.error == ErrorCode.TIMEOUT and "processor time" in picture.failure.message
        # What a process has used for other photos does not count.
        for _ in range(30):
            assert said(pool, "sum(range(5 * 10**6)) and None") is None
        assert said(pool, "sum(resource.getrusage(resource.RUSAGE_SELF)[:2])") > 1
        (pid,) = pool.processes
    finally:
        pool.close()
    assert gone(pid)


@needs_proc
def test_where_memory_runs_out_image_processes_go_first(pool, make_photo, tmp_path):
    pool.convert([make_photo(tmp_path / "a.jpg").read_bytes()], 16, 10**6)
    assert Path(f"/proc/{pool.processes[0]}/oom_score_adj").read_text() == "1000\n"


def test_a_process_that_can_not_be_started_is_an_error_of_one_line(monkeypatch, pool):
    monkeypatch.setattr(starting, "_python", lambda: "/no/python")
    with pytest.raises(BeamscribeError, match=r"^can't start an image process: No such file"):
        pool.convert([b"a"], 16, 10**6)


@pytest.mark.parametrize(("program", "code"), [("raise SystemExit(7)", "7"), ("import os; os.abort()", "-6")])
def test_one_that_ends_as_it_starts_is_an_error_of_one_line_and_no_photos_fault(monkeypatch, pool, program, code):
    monkeypatch.setattr(starting, "_PROGRAM", program)
    with pytest.raises(BeamscribeError, match=f"^an image process has ended as it started, with code {code}$"):
        pool.convert([b"a"], 16, 10**6)


def test_one_that_does_not_start_is_an_error_of_one_line(monkeypatch, pool):
    monkeypatch.setattr(starting, "_PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr(process_pool, "_START_SECONDS", 0.5)
    with pytest.raises(BeamscribeError, match=r"^an image process has not started within 0\.5 s$"):
        pool.convert([b"a"], 16, 10**6)
    assert not pool.processes


def test_a_pool_that_has_ended_gives_no_failures(misbehaving, make_photo, tmp_path):
    pool = ImagePool(workers=1)
    ended = []

    def convert(data):
        try:
            ended.append(pool.convert([data], 16, 10**6))
        except PoolClosedError as error:
            ended.append(error)

    # One is at work, the other waits.
    threads = [threading.Thread(target=convert, args=(data,)) for data in (b"hang", b"any")]
    for thread in threads:
        thread.start()
    while not pool.processes:
        time.sleep(0.05)
    time.sleep(0.5)
    pool.close()
    for thread in threads:
        thread.join(30)
    assert [type(error) for error in ended] == [PoolClosedError] * 2


# What a child process does: it captions a photo, and ends.
CHILD = """
import multiprocessing, os, sys
from beamscribe.pipelines.images import process_pool

def convert(path):
    [picture] = process_pool.shared().convert([open(path, "rb").read()], 16, 10**6)
    return process_pool.shared().processes

if __name__ == "__main__":
    method, kind, photo = sys.argv[1:]
    before = convert(photo)
    context = multiprocessing.get_context(method)
    if kind == "process":
        child = context.Process(target=convert, args=(photo,))
        child.start()
        child.join()
        assert child.exitcode == 0
    else:
        with context.Pool(1) as pool:
            assert pool.apply(convert, (photo,)) != before
            pool.close()
            pool.join()
    # Those of the parent still run.
    assert convert(photo) == before
    print("done")
"""


@pytest.mark.parametrize("kind", ["process", "pool"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_process_has_a_pool_of_its_own_and_ends(tmp_path, make_photo, method, kind):
    (tmp_path / "program.py").write_text(CHILD)
    command = [sys.executable, str(tmp_path / "program.py"), method, kind, str(make_photo(tmp_path / "a.jpg"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_forked_process_that_exits_leaves_the_parents_processes_alone(pool, make_photo, tmp_path):
    good = make_photo(tmp_path / "good.jpg").read_bytes()
    pool.convert([good], 16, 10**6)
    before = pool.processes
    child = os.fork()
    if not child:
        pool.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert pool.convert([good], 16, 10**6)[0].failure is None and pool.processes == before


def test_large_photos_are_read_one_at_a_time(reader, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_reader, "AHEAD_BYTES", 1000)
    monkeypatch.setattr(photo_reader, "CHUNK_BYTES", 1000)
    at_once, most, lock, read = 0, 0, threading.Lock(), reading.read_photo

    def watched(ref):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= 1
        return read(ref)

    monkeypatch.setattr(reading, "read_photo", watched)
    assert len(list(reader.stream(refs_of(tmp_path, [bytes(2000)] * 8), 16))) == 8
    assert most == 1


def test_photos_whose_sizes_no_listing_has_said_share_a_budget_of_bytes(reader, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_reader, "AHEAD_BYTES", 1000)
    monkeypatch.setattr(photo_reader, "CHUNK_PHOTOS", 1)
    at_once, seen, lock, read = [], [], threading.Lock(), reading.read_photo

    def watched(ref):
        with lock:
            at_once.append(ref.size)
            seen.append(list(at_once))
        time.sleep(0.02)
        with lock:
            at_once.remove(ref.size)
        return read(ref)

    monkeypatch.setattr(reading, "read_photo", watched)
    sizes = [400, 2000, 100, 400] * 4
    refs = [ref._replace(etag="", size=0) for ref in refs_of(tmp_path, [bytes(size) for size in sizes])]
    options = ReadOptions(look_up=True)
    # Two streams share the budget, and one that nobody goes on with holds none of it.
    left = reader.stream(refs, 16, options)
    next(left)
    assert [photo.ref.size for photo in reader.stream(refs, 16, options)] == sizes
    assert all(len(sizes) == 1 or sum(sizes) <= 1000 for sizes in seen)
    assert [2000] in seen and max(map(len, seen)) > 1


def test_photos_say_how_long_they_took(reader, tmp_path, make_photo, monkeypatch):
    read = reading.stores.read

    def slowly(uri, most):
        time.sleep(0.02)
        return read(uri, most)

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
    def refuse(uri, most):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reading.stores, "read", refuse)
    assert next(reader.stream([PhotoRef("/x.jpg", "")], 16)).picture.failure.error == ErrorCode.PERMISSION


def test_the_processes_import_only_the_codecs(misbehaving, pool):
    heavy = ("apache_beam", "tensorflow", "keras", "pyarrow", "jobs", "psutil", "loky")
    assert said(pool, f"[name for name in {heavy} if name in sys.modules]") == []


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
        "print(*process_pool.shared().processes)\n"
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


@needs_proc
def test_decoders_die_with_their_parent_even_while_they_hang(misbehaving):
    script = (
        "import threading, time; from beamscribe.pipelines.images.process_pool import ImagePool\n"
        "pool = ImagePool(workers=2)\n"
        "for _ in range(2): threading.Thread(target=pool.convert, args=([b'hang in C'], 16, 100)).start()\n"
        "while len(pool.processes) < 2: time.sleep(0.1)\n"
        "time.sleep(1.0); print(*pool.processes, flush=True); time.sleep(3600)\n"
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
        (pid,) = pool.processes
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
    pool = ImagePool(workers=1)
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
        assert pool.workers == 3

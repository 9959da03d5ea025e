"""The most memory that all processes of a job take together, whatever its photos are."""

import os
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pyarrow.dataset as ds
import pytest

from tests.containers import jpeg

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much memory processes share")

MB = 2**20
# As many photos as the smallest shard has: all are in one.
PHOTOS, LARGE_BYTES = 32, 40 * MB
# Of what is larger than it says.
BOMB_BYTES = 768 * MB


def caption(inputs: Sequence[Path], output: Path, bundle: Path, meanwhile: Callable[[], object] = lambda: None) -> int:
    """Runs a job.

    Args:
      inputs, output, bundle: its inputs, its output, its model.
      meanwhile: called again and again while it runs.

    Returns:
      The most memory of all its processes, bytes; what several of them share counts once.
    """
    given = [part for path in inputs for part in ("--input", str(path))]
    given += ["--output", str(output), "--bundle", str(bundle), "--quiet"]
    # As many image processes on any machine.
    environment = {**os.environ, "LOKY_MAX_CPU_COUNT": "2"}
    with subprocess.Popen([sys.executable, "-m", "beamscribe", "caption", *given], env=environment) as process:
        watched = psutil.Process(process.pid)
        most, ended = 0, threading.Event()

        def watch() -> None:
            nonlocal most
            while not ended.wait(0.05):
                most = max(most, memory(watched))
                meanwhile()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert process.wait(300) == 0
        finally:
            ended.set()
            watcher.join()
            process.kill()
    return most


def memory(process: psutil.Process) -> int:
    """The memory of a process and of all that it has started, bytes."""
    total = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            total += one.memory_full_info().pss
    except psutil.NoSuchProcess:
        # The next look comes soon.
        return 0
    return total


def rows_of(output: Path) -> dict[str, dict]:
    files = [str(path) for path in output.glob("captions/run=*/shard-*.parquet")]
    return {os.path.basename(row["photo"]): row for row in ds.dataset(files).to_table().to_pylist()}


@pytest.fixture(scope="module")
def usual(tmp_path_factory, tiny_bundle) -> int:
    """The most memory of a job with small photos, bytes."""
    folder = tmp_path_factory.mktemp("usual")
    write_photos(folder / "photos")
    return caption([folder / "photos"], folder / "out", tiny_bundle)


def write_photos(folder: Path, size: int = 0) -> None:
    """Writes photos that differ, of a size in bytes; 0 for as few as they need."""
    folder.mkdir()
    for index in range(PHOTOS):
        path = folder / f"{index:02d}.jpg"
        path.write_bytes(jpeg(index))
        if size:
            # What comes after a photo's end is read, and not decoded. A file with a hole takes no disk.
            os.truncate(path, size)


def test_photos_of_many_bytes(tmp_path, tiny_bundle, usual):
    write_photos(tmp_path / "photos", LARGE_BYTES)
    most = caption([tmp_path / "photos"], tmp_path / "out", tiny_bundle)
    rows = rows_of(tmp_path / "out")
    assert len(rows) == PHOTOS and {row["status"] for row in rows.values()} == {"captioned"}
    # A few are in memory at a time, each with copies on the way to its image process.
    assert most < usual + PHOTOS * LARGE_BYTES / 2


def test_what_is_larger_than_it_says(tmp_path, tiny_bundle, usual):
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    (photos / "huge.png").write_bytes(png(60_000, 60_000))
    (photos / "growing.jpg").write_bytes(jpeg(2))
    write_bombs(tmp_path)

    def grow() -> None:
        # When it is listed, and before the model is loaded.
        if any(output.glob("runs/*/plan.json")):
            os.truncate(photos / "growing.jpg", BOMB_BYTES)

    most = caption([photos, *sorted(tmp_path.glob("*.zip"))], output, tiny_bundle, grow)
    assert {name: row["error"] for name, row in rows_of(output).items()} == {
        "huge.png": "too_large",
        "growing.jpg": "changed_while_reading",
        "honest.zip#bomb.jpg": "too_large",
        "lying.zip#bomb.jpg": "corrupt",
    }
    assert most < usual + BOMB_BYTES / 2


def png(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and ends soon."""
    parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(99)))
    chunks = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def write_bombs(folder: Path) -> None:
    """Writes archives of a photo that is small as long as it is compressed: one says how large it is, one does not."""
    with (
        zipfile.ZipFile(folder / "honest.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("bomb.jpg", "w") as file,
    ):
        file.write(jpeg(3))
        for _ in range(BOMB_BYTES // MB):
            file.write(bytes(MB))
    data, size = (folder / "honest.zip").read_bytes(), struct.pack("<I", BOMB_BYTES + len(jpeg(3)))
    assert size in data
    (folder / "lying.zip").write_bytes(data.replace(size, struct.pack("<I", 1000)))

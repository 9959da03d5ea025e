"""Jobs that meet what is hostile: decoders that abort or hang, bombs, full disks, stores that go away."""

import io
import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from beamscribe.jobs import cli
from beamscribe.jobs.terminal import PrintableFormatter
from beamscribe.pipelines import caption_shard
from tests.containers import jpeg

# Found by every Python process: the decoder does as a photo's bytes say.
MISBEHAVING = """
import os, time
from beamscribe.pipelines.images import process_pool, to_pixels

real = to_pixels.convert
make = process_pool.ImagePool.__init__
make.__defaults__ = (60.0, 3.0, *make.__defaults__[2:])

def decode(data, size, *others):
    if data.endswith(b"abort"):
        os.abort()
    if data.endswith(b"hang"):
        time.sleep(3600)
    return real(data, size, *others)

to_pixels.convert = decode
"""


def captioned(archive: Path, output: Path, bundle: Path, *options: str) -> int:
    return cli.main(["caption", "--input", str(archive), "--output", str(output), "--bundle", str(bundle), *options])


def rows_of(output: Path) -> dict[str, dict]:
    files = list(map(str, output.glob("captions/run=*/shard-*.parquet")))
    rows = ds.dataset(files).to_table().to_pylist() if files else []
    assert len({row["photo"] for row in rows}) == len(rows)
    return {os.path.basename(row["photo"]): row for row in rows}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_decoder_that_aborts_or_hangs_costs_its_photo_alone(tmp_path, tiny_bundle, make_photo, workers):
    several = ["--direct_running_mode", "multi_processing"] if workers > 1 else []
    check_misbehaving_decoders(tmp_path, tiny_bundle, make_photo, "--direct_num_workers", str(workers), *several)


def check_misbehaving_decoders(folder: Path, bundle: Path, make_photo, *options: str) -> None:
    """Runs a job, with the options of a runner, whose decoders abort and hang."""
    for index in range(30):
        make_photo(folder / "photos" / f"{index}.jpg")
    for number in range(2):
        (folder / "photos" / f"abort-{number}.jpg").write_bytes(jpeg(number) + b"abort")
    (folder / "photos" / "hang.jpg").write_bytes(jpeg(9) + b"hang")
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(MISBEHAVING)
    given = ["--input", str(folder / "photos"), "--output", str(folder / "out"), "--bundle", str(bundle)]
    subprocess.run(
        [sys.executable, "-m", "beamscribe", "caption", *given, "--shard-size", "8", *options],
        env={**os.environ, "PYTHONPATH": f"{folder / 'hook'}{os.pathsep}{Path(__file__).parents[1]}"},
        check=True,
        timeout=300,
    )
    rows = rows_of(folder / "out")
    errors = {name: row["error"] for name, row in rows.items() if row["error"]}
    assert errors == {"abort-0.jpg": "decoder_crash", "abort-1.jpg": "decoder_crash", "hang.jpg": "timeout"}
    assert len(rows) == 33


def bomb_png(width: int, height: int) -> bytes:
    """A PNG of one colour, as small as it can be; only its header is honest."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def test_bombs_are_a_row_each(tmp_path, tiny_bundle, make_photo):
    photos = tmp_path / "photos"
    make_photo(photos / "good.jpg")
    (photos / "bomb.png").write_bytes(bomb_png(60_000, 60_000))
    (photos / "tiny.png").write_bytes(bomb_png(1, 1))
    with (
        zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zip.jpg", "w") as file,
    ):
        for _ in range(600):
            file.write(bytes(10**6))
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        for name in ("/tmp/absolute.jpg", "../../out.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(jpeg(1))
            archive.addfile(member, io.BytesIO(jpeg(1)))
    more = [part for name in ("bomb.zip", "bad.tar") for part in ("--input", str(tmp_path / name))]
    assert captioned(photos, tmp_path / "out", tiny_bundle, *more) == 0
    rows = rows_of(tmp_path / "out")
    errors = {name: row["error"] for name, row in rows.items() if row["error"]}
    assert errors == {"bomb.png": "too_large", "tiny.png": "too_small", "bomb.zip#zip.jpg": "too_large"}
    assert len(rows) == 6
    # Names that lead out lead nowhere: nothing is unpacked.
    assert not (tmp_path / "out.jpg").exists() and not Path("/tmp/absolute.jpg").exists()


def test_fewer_pixels_can_be_asked_for(tmp_path, tiny_bundle, make_photo):
    make_photo(tmp_path / "photos" / "large.jpg", 50, 50)
    make_photo(tmp_path / "photos" / "small.jpg", 20, 20)
    captioned(tmp_path / "photos", tmp_path / "out", tiny_bundle, "--max-pixels", "1000")
    assert {name: row["error"] for name, row in rows_of(tmp_path / "out").items()} == {
        "large.jpg": "too_large",
        "small.jpg": None,
    }


def test_a_store_that_goes_away_stops_the_job(tmp_path, tiny_bundle, make_photo, capsys, monkeypatch):
    for index in range(64):
        make_photo(tmp_path / "photos" / f"{index:02d}.jpg")
    real = caption_shard.commit

    def commit(result, options):
        path = real(result, options)
        # After the first shard.
        if (tmp_path / "photos").exists():
            (tmp_path / "photos").rename(tmp_path / "away")
        return path

    monkeypatch.setattr(caption_shard, "commit", commit)
    assert captioned(tmp_path / "photos", tmp_path / "out", tiny_bundle, "--shard-size", "32") == 1
    error = capsys.readouterr().err
    assert f"the input {tmp_path / 'photos'} no longer exists; make sure that the store is available" in error
    assert error.count("\n") == 1 or "Traceback" not in error
    (tmp_path / "away").rename(tmp_path / "photos")
    monkeypatch.undo()
    assert captioned(tmp_path / "photos", tmp_path / "out", tiny_bundle, "--shard-size", "32") == 0
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 64 and not any(row["error"] for row in rows.values())


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder]).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_one_line_and_what_is_committed_stays(tmp_path, small_disk, tiny_bundle, make_photo, capsys):
    for index in range(64):
        make_photo(tmp_path / "photos" / f"{index:02d}.jpg")
    output = small_disk / "out"
    (small_disk / "ballast").write_bytes(bytes(180_000))
    assert captioned(tmp_path / "photos", output, tiny_bundle, "--shard-size", "8") == 1
    error = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert error.startswith("beamscribe caption: ") and "No space left on device" in error, error
    before = rows_of(output)
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert captioned(tmp_path / "photos", output, tiny_bundle, "--shard-size", "8") == 0
    after = rows_of(output)
    assert len(after) == 64 and all(after[name] == row for name, row in before.items())


def test_an_output_that_can_not_be_written_to(tmp_path, tiny_bundle, make_photo, capsys):
    make_photo(tmp_path / "photos" / "a.jpg")
    (tmp_path / "file").write_text("")
    assert captioned(tmp_path / "photos", tmp_path / "file" / "out", tiny_bundle) == 1
    assert (
        capsys.readouterr().err
        == f"beamscribe caption: --output: can't write to {tmp_path}/file/out: Not a directory\n"
    )


def test_a_bundle_with_a_byte_changed(tmp_path, tiny_bundle, make_photo, capsys):
    make_photo(tmp_path / "photos" / "a.jpg")
    changed = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (weights,) = (changed / "saved_model" / "variables").glob("*.data*")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert captioned(tmp_path / "photos", tmp_path / "out", changed) == 1
    error = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert (
        error.startswith("beamscribe caption: ") and "is damaged: its files have changed since it was written" in error
    )
    assert not rows_of(tmp_path / "out")
    assert json.loads((changed / "bundle.json").read_text())


def test_logs_show_control_characters_and_forge_no_record():
    formatter = PrintableFormatter("%(levelname)s %(message)s")
    record = logging.LogRecord("x", logging.WARNING, "", 1, "a lease of %s", ("\x1b[31mred\nERROR forged",), None)
    assert formatter.format(record) == "WARNING a lease of \\x1b[31mred\n    ERROR forged"

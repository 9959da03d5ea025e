"""Whether broken files in an archive cost only themselves.

Copies a folder of photos, mixes 200 broken files in (empty, truncated, text named .jpg, links to nothing, files that
can't be read, 40 each) and a folder named .jpg, captions it, and compares every row with what it must be.

    python -m benchmarks.broken_files --images flickr8k/images --photos 1000
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

EACH = 40


def main() -> None:
    """Captions the archive and prints what came of it; exits with 1 where a row is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG photos")
    parser.add_argument("--photos", type=int, default=1000, help="how many of them to take")
    options = parser.parse_args()
    from beamscribe.pipelines.output import layout, rows

    with tempfile.TemporaryDirectory() as scratch:
        archive, output = Path(scratch, "archive"), Path(scratch, "captions")
        good = sorted(options.images.glob("*.jpg"))[: options.photos]
        archive.mkdir()
        for photo in good:
            shutil.copy(photo, archive)
        expected = mix_broken_files_into(archive, good)
        command = ["caption", "--input", str(archive), "--output", str(output)]
        subprocess.run([sys.executable, "-m", "beamscribe", *command], check=True, stdout=subprocess.DEVNULL)
        expected |= dict.fromkeys([photo.name for photo in good])
        found = [
            (os.path.basename(row["photo"]), row["error"])
            for table in rows.read_tables(layout.committed_files(str(output)), ["photo", "error"])
            for row in table.to_pylist()
        ]
    wrong = sorted(set(found) ^ set(expected.items()), key=str)
    print(f"{len(good)} photos and {len(expected) - len(good)} broken files: {len(found)} rows, {len(wrong)} wrong")
    for name, error in wrong[:20]:
        print(f"  {name}: found {dict(found).get(name)}, expected {expected.get(name)} ({error})")
    sys.exit(bool(wrong) or len(found) != len(expected))


def mix_broken_files_into(archive: Path, photos: list[Path]) -> dict[str, str | None]:
    """Writes the broken files; returns the error code that each must get."""
    expected: dict[str, str | None] = {}
    seeded = random.Random(1)
    for index, photo in enumerate(photos[:EACH]):
        data = photo.read_bytes()
        contents = {
            "empty": b"",
            "truncated": data[: seeded.randrange(4, len(data) - 2)],
            "not_an_image": b"no photo " * (index + 1),
        }
        for code, content in contents.items():
            (archive / f"{code}-{index}.jpg").write_bytes(content)
        # Reading a process's memory from its start is an input/output error, also for the superuser.
        targets = {"not_found": archive / "gone", "unreadable": Path("/proc/self/mem")}
        for code, target in targets.items():
            (archive / f"{code}-{index}.jpg").symlink_to(target)
        expected |= {f"{code}-{index}.jpg": code for code in [*contents, *targets]}
    (archive / "folder.jpg").mkdir()
    return expected


if __name__ == "__main__":
    main()

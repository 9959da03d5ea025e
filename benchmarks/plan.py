"""Times the plan of a nightly run: a folder of a million photos, a ledger of as many rows, and a few new photos.

The baseline does the same in plain Python: it lists the folder, reads all rows into a set, and keeps what is not in it.
Then the folder is renamed, so that each photo may be one that was moved, and the plan is timed once more. Each runs in
a process of its own, whose largest memory is printed. The files are holes of different sizes: no plan reads them.

    python -m benchmarks.plan --photos 1000000
"""

import argparse
import datetime
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks import memory

MEASURES = ("baseline", "plan", "moved")
FOLDERS = 1000
SHARD = 512
NEW = 1000
DIGESTS = ("sha256", "image_sha256")


def main() -> None:
    """Makes the archive and its ledger, and times both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1_000_000)
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help="folder for the archive, which is kept; a temporary one by default")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.work)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        if not (work / "out").exists():
            make(work, options.photos)
        results = {}
        for name in MEASURES:
            if name == "moved":
                (work / "archive" / "photos").rename(work / "archive" / "holidays")
            command = [sys.executable, "-m", "benchmarks.plan", "--measure", name, "--work", str(work)]
            results[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for name, result in results.items():
            ratio = result["seconds"] / results["baseline"]["seconds"]
            print(
                f"{name:10} {result['seconds']:6.1f} s  {result['gigabytes']:.2f} GB  "
                f"{result['new']} new photos  {ratio:.2f} × the baseline's time"
            )


def make(work: Path, photos: int) -> None:
    """An archive of holes, and a ledger that has all of them but for some."""
    from beamscribe.pipelines import listing
    from beamscribe.pipelines.photos import versioned_schema

    archive = work / "archive" / "photos"
    for folder in range(FOLDERS):
        (archive / f"{folder:04d}").mkdir(parents=True, exist_ok=True)
    for number in range(photos):
        with open(archive / f"{number % FOLDERS:04d}" / f"{number:07d}.jpg", "wb") as file:
            file.truncate(100_000 + number)
    run = work / "out" / "captions" / "run=r00000001-20260101T000000-000000"
    run.mkdir(parents=True)
    refs = itertools.islice(listing.list_photos([str(work / "archive")]), photos - NEW)
    now = datetime.datetime.now(datetime.UTC)
    fixed = {
        **{"width": 640, "height": 480, "orientation": 1, "status": "captioned", "caption": "a dog runs in the grass"},
        **{"score": -0.5, "perceptual_hash": 12345, "model": "0123456789abcdef", "engine": "tensorflow"},
        **{"settings": "beam_width=3,max_length=20,length_penalty=1.5,alternatives=0", "source": "model"},
        **{"written_at": now, "attempts": 0, "run_number": 1},
    }
    for index, some in enumerate(_batches(refs, SHARD)):
        rows = [
            {
                **{"photo": ref.photo, "etag": ref.etag, "bytes": ref.size},
                **{name: hashlib.sha256(f"{name} {ref.photo}".encode()).hexdigest() for name in DIGESTS},
                **fixed,
            }
            for ref in some
        ]
        table = pa.Table.from_pylist(rows, schema=versioned_schema(1))
        pq.write_table(table, run / f"shard-{index:05d}.parquet", compression="zstd", write_page_checksum=True)


def measure(name: str, work: Path) -> dict[str, float]:
    """Seconds, the largest memory and how many photos are new, of this process."""
    memory.forget_peak()
    started = time.perf_counter()
    new = {"baseline": baseline, "plan": plan, "moved": plan}[name](work)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "gigabytes": memory.peak() / 1e9, "new": new}


def baseline(work: Path) -> int:
    """Plain Python."""
    rows = ds.dataset(work / "out" / "captions").to_table(columns=["photo", "etag"]).to_pylist()
    done = {(row["photo"], row["etag"]) for row in rows}
    new = 0
    for folder, _, files in os.walk(work / "archive"):
        for file in files:
            path = os.path.join(folder, file)
            status = os.stat(path)
            new += (path, f"{status.st_size}-{status.st_mtime_ns}") not in done
    return new


def plan(work: Path) -> int:
    """The pipeline's."""
    import apache_beam as beam

    from beamscribe.pipelines.ledger import DoneRule, ListLedger, ReadLedger
    from beamscribe.pipelines.listing import ListPhotos
    from beamscribe.pipelines.output import frozen_plan
    from beamscribe.pipelines.planning import PlanShards

    inputs = (str(work / "archive"),)
    rule = DoneRule("0123456789abcdef", "beam_width=3,max_length=20,length_penalty=1.5,alternatives=0")
    with tempfile.TemporaryDirectory() as folder:
        settings = PlanShards(folder, "run", rule, SHARD, workers=1)
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            listed = pipeline | "Inputs" >> beam.Create([inputs]) | ListPhotos()
            ledger = pipeline | "Output" >> beam.Create([str(work / "out")]) | ListLedger("run")
            _ = (listed, ledger | ReadLedger(rule, inputs), ledger) | settings
        made = frozen_plan.read(folder)
    assert made is not None
    print(made.model_copy(update={"shards": ()}), file=sys.stderr)
    return made.planned


def _batches(items: Iterable, size: int) -> Iterable[list]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


if __name__ == "__main__":
    main()

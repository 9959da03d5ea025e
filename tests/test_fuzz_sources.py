"""Damages archives, record files and lists at random: what comes of them is photos or failures, never an error."""

import random
import resource
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines import listing
from beamscribe.pipelines.failures import ErrorCode, Failure
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import reading
from beamscribe.pipelines.sources.base import ListOptions, Source
from tests.containers import example, jpeg, make_records, make_tar, make_zip

CASES = 1500
# Parsing a `tf.Example` is slow.
CASES_OF_EXAMPLES = 250
# More memory than at the start: the files have some 10 kB.
MOST_MEMORY = 300 * 2**20

PHOTOS = {f"{n}.jpg": jpeg(n) for n in range(12)}


def make(kind, path):
    if kind == "zip":
        return make_zip(path, PHOTOS, compression=zipfile.ZIP_DEFLATED)
    if kind.startswith("tar"):
        return make_tar(path, PHOTOS, mode=f"w:{kind[4:]}")
    if kind.startswith("tfrecord"):
        examples = [example(image_encoded=photo, image_filename=name.encode()) for name, photo in PHOTOS.items()]
        return make_records(path, examples, "GZIP" if kind.endswith("gz") else "")
    if kind == "parquet":
        column = [{"bytes": photo, "path": name} for name, photo in PHOTOS.items()]
        pq.write_table(pa.table({"image": column}), path, row_group_size=5)
    elif kind == "jsonl":
        path.write_text("".join(f'{{"uri": "{name}"}}\n' for name in PHOTOS))
    elif kind == "csv":
        path.write_text("uri,n\n" + "".join(f'"{name}",1\n' for name in PHOTOS))
    return path


def damaged(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    what = draw.randrange(4)
    if what == 0:
        return bytes(changed[: draw.randrange(len(changed))])
    for _ in range(draw.choice((1, 1, 3, 20))):
        place = draw.randrange(max(len(changed), 1))
        changed = changed or bytearray(1)
        if what == 1:
            changed[place] ^= 1 << draw.randrange(8)
        elif what == 2:
            changed[place : place + 4] = draw.choice(
                (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f")
            )
        else:
            del changed[place : place + draw.randrange(1, 40)]
    return bytes(changed)


@pytest.mark.parametrize(
    "kind", ["zip", "tar", "tar.gz", "tar.xz", "tfrecord", "tfrecord.gz", "parquet", "jsonl", "csv"]
)
def test_no_damage_stops_the_reading(tmp_path, kind):
    data = make(kind, tmp_path / f"whole.{kind}").read_bytes()
    path = tmp_path / f"damaged.{kind}"
    # The extension tells lists apart, and nothing else.
    source = Source(str(path), "list" if kind in ("jsonl", "csv") else kind.partition(".")[0])
    cases = CASES_OF_EXAMPLES if kind.startswith("tfrecord") else CASES
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    photos = failures = refused = 0
    for case in range(cases):
        path.write_bytes(damaged(data, random.Random(f"{kind}{case}")))
        try:
            refs = [found for found in listing.list_source(source, ListOptions()) if isinstance(found, PhotoRef)]
        except BeamscribeError:
            # What no list can be read from is the user's to mend.
            assert source.kind == "list"
            refused += 1
            continue
        for container, run in reading.by_container(refs):
            contents = reading.read_members(run, ListOptions()) if container else map(reading.read_photo, run)
            found = list(contents)
            assert len(found) == len(run)
            for content in found:
                if isinstance(content, Failure):
                    assert content.message and "\n" not in content.message, content
                    # What damage brings about is no fault of Beamscribe.
                    assert content.error != ErrorCode.INTERNAL_ERROR, content
                    failures += 1
                else:
                    photos += 1
        # An archive that ends too early says so itself.
        assert refs or source.kind == "list" or len(path.read_bytes()) < 600
    assert failures and (photos or source.kind == "list")
    assert refused < cases / 2
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_MEMORY

"""The frozen plan of a run: files that list its photos, and `plan.json`, which states the files that count.

Engines retry steps. A retry may list other photos, but the run keeps the plan that was written first.
"""

import hashlib
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from beamscribe.model.errors import one_line
from beamscribe.pipelines import stores
from beamscribe.pipelines.output import layout
from beamscribe.pipelines.output.rows import UnreadableFileError
from beamscribe.pipelines.output.run_documents import Plan, PlannedShard
from beamscribe.pipelines.photos import CAPTION_SCHEMA, PhotoRef, Shard, photo_table, photos_of

_T = TypeVar("_T")


class Unit(NamedTuple):
    """Photos that stay in one shard, and the file that lists them.

    Attributes:
      container: URI of the container that holds the photos; empty for standalone files.
      first: place of the first photo in the container; number of the unit for standalone files.
      photos: number of photos.
      duplicates: number of photos with the same bytes as another one, which are not read.
      path: path of the file.
      known: path of the file with earlier rows that the photos are compared with; empty for none.
    """

    container: str
    first: int
    photos: int
    duplicates: int
    path: str
    known: str = ""


class GoneUnit(NamedTuple):
    """Photos that are no longer there, and the file with their rows.

    Attributes:
      first: number of the unit.
      photos: number of photos.
      moved: number of these photos that seem to be in another place now.
      path: path of the file.
    """

    first: int
    photos: int
    moved: int
    path: str


def path_of(folder: str) -> str:
    """The path of a run's plan.

    Args:
      folder: folder of the run.
    """
    return stores.join(folder, layout.PLAN)


def read(folder: str) -> Plan | None:
    """Reads the plan of a run; None if it does not exist yet.

    Args:
      folder: folder of the run.

    Raises:
      OSError: the store reported an error.
      DocumentError: the plan is damaged, or a newer version wrote it.
    """
    path = path_of(folder)
    return Plan.from_json(stores.read(path), path) if stores.exists(path) else None


def write(folder: str, plan: Plan) -> Plan:
    """Writes the plan of a run, unless another attempt has already written one.

    Args:
      folder: folder of the run.
      plan: the plan to write.

    Returns:
      The plan that the run has.

    Raises:
      OSError: the store reported an error.
      DocumentError: the plan that the run has is damaged, or a newer version wrote it.
    """
    stores.create(path_of(folder), plan.to_json())
    return Plan.from_json(stores.read(path_of(folder)), path_of(folder))


def unless_planned(element: _T, folder: str) -> Iterator[_T]:
    """Passes an element on if the run has no plan yet.

    Args:
      element: input of the planning.
      folder: folder of the run.
    """
    if not stores.exists(path_of(folder)):
        yield element


def write_unit(
    folder: str, container: str, first: int, photos: Sequence[PhotoRef], known: pa.Table | None = None
) -> Unit:
    """Writes the photos of a unit to a file, and the earlier rows that they are compared with to another one.

    Args:
      folder: folder of the run.
      container, first: see `Unit`.
      photos: photos of the unit, in the order in which they are read.
      known: rows of `CAPTION_SCHEMA`.
    """
    path = write_table(folder, "photos", photo_table(photos))
    path_known = write_table(folder, "known", known) if known is not None and len(known) else ""
    return Unit(container, first, len(photos), sum(bool(ref.same_as) for ref in photos), path, path_known)


def write_table(folder: str, kind: str, table: pa.Table) -> str:
    """Writes a file of the plan, which is named after the digest of its content, and returns its path.

    An attempt that lists other photos thus writes another file, and `plan.json` states the one that counts.

    Args:
      folder: folder of the run.
      kind: see `layout.plan_file`.
      table: content of the file.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    data = buffer.getvalue()
    path = layout.plan_file(folder, kind, _digest(data))
    stores.create(path, data)
    return path


def read_shard(planned: PlannedShard) -> Shard:
    """Reads the photos of a planned shard.

    Raises:
      OSError: the store reported an error.
      UnreadableFileError: a file of the plan is damaged.
    """
    if planned.is_gone:
        return Shard(planned.index, (), gone=planned.paths)
    photos = itertools.chain.from_iterable(map(_read_photos, planned.paths))
    return Shard(planned.index, tuple(photos), planned.known)


def read_rows(paths: Sequence[str]) -> pa.Table:
    """Reads the rows in files of a plan, which have `CAPTION_SCHEMA`.

    Raises:
      OSError: the store reported an error.
      UnreadableFileError: a file of the plan is damaged.
    """
    return pa.concat_tables([CAPTION_SCHEMA.empty_table(), *map(_read_rows, paths)])


def _read_rows(path: str) -> pa.Table:
    table = _read(path)
    try:
        return table.cast(CAPTION_SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise _damaged(path, one_line(error)) from error


def _read_photos(path: str) -> tuple[PhotoRef, ...]:
    table = _read(path)
    try:
        return photos_of(table)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, one_line(error)) from error


def _read(path: str) -> pa.Table:
    data = stores.read(path)
    # Only files of this name are written, so the name tells whether any byte has changed.
    folder = stores.folder_of(stores.folder_of(path))
    if path != layout.plan_file(folder, layout.kind_of_plan_file(path), _digest(data)):
        raise _damaged(path, "it holds other bytes than those that were written")
    try:
        return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    except (OSError, pa.ArrowException, ValueError) as error:
        raise _damaged(path, one_line(error)) from error


def _damaged(path: str, reason: str) -> UnreadableFileError:
    problem = f"{path} is damaged ({reason})"
    return UnreadableFileError(f"{problem}; run `beamscribe caption` again, which makes another plan", problem)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()

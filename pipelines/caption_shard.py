"""Captions a shard on a worker: reads the photos, captions them, and commits their rows as one file."""

import dataclasses
import datetime
import functools
import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

import pyarrow.parquet as pq

from beamscribe.pipelines import captioning, counters, stores
from beamscribe.pipelines.caption_options import CaptionOptions
from beamscribe.pipelines.captioning import LazyModel
from beamscribe.pipelines.control import stopping, unattended
from beamscribe.pipelines.failures import ErrorCode, Stage
from beamscribe.pipelines.inference import PhotoStream, ShardHandler
from beamscribe.pipelines.known import Known
from beamscribe.pipelines.output import frozen_plan, layout, rows
from beamscribe.pipelines.output.run_documents import PlannedShard
from beamscribe.pipelines.photos import (
    FAILED,
    GONE,
    TAKEN_OVER,
    CaptionRow,
    Shard,
    ShardResult,
    caption_rows,
    caption_table,
)
from beamscribe.pipelines.sources.photo_reader import Photo, ReadOptions
from beamscribe.pipelines.stores import retries, uris

_LOGGER = logging.getLogger(__name__)


class CaptionHandler(ShardHandler[str, LazyModel]):
    """Captions a shard and commits it: every photo becomes a row of the shard's file.

    One step does both, since an engine may run a step with a resource hint apart from the other steps. A separate step
    that commits would then start only after all shards are captioned, and a separate step that looks for commits would
    end before the first one.

    Args:
      options: options of the job.
    """

    def __init__(self, options: CaptionOptions):
        self._options = options

    def load_model(self) -> LazyModel:
        """The model, which is loaded when the first photo needs it; Beam calls this once per process."""
        return LazyModel(self._options)

    def run_shard(self, stream: PhotoStream, model: LazyModel) -> Iterator[str]:
        """Reads, captions and commits one shard.

        Yields:
          The path of the committed file; nothing if the shard is committed already, the run was asked to stop, or
          another job has closed it.

        Raises:
          StoreGoneError: the store of the photos does not respond.
          BeamscribeError: the model can't be loaded.
          OSError: the commit failed.
        """
        shard = stream.shard
        if is_to_do(shard.index, self._options):
            with self._renewed():
                result = gone_photos(shard, self._options) if shard.gone else self._captioned(shard, model)
                path = commit(result, self._options)
            if path is not None:
                yield path

    def _renewed(self) -> AbstractContextManager[None]:
        """Renews the lease of a run that has no launcher for it."""
        number = 0 if self._options.run_number else number_of(self._options)
        return unattended.renewed(self._options.output, number)

    def _captioned(self, shard: Shard, model: LazyModel) -> ShardResult:
        _LOGGER.info("process %d captions shard %d", os.getpid(), shard.index)
        known = Known(frozen_plan.read_rows(shard.known))

        def rows_of(part: Shard) -> list[CaptionRow]:
            return list(captioned(part, known, model, self._options))

        number = number_of(self._options)
        rows = tuple(numbered(shard, with_duplicates(shard, rows_of, known), number))
        for row in rows:
            counters.count_row(TAKEN_OVER if row.is_taken_over else row.status, row.error)
        return ShardResult(shard.index, rows, retries.take())


def captioned(shard: Shard, known: Known, model: LazyModel, options: CaptionOptions) -> Iterator[CaptionRow]:
    """Makes the rows of the photos of a shard that are no duplicates: captions them, or takes captions over.

    Args:
      shard: the photos.
      known: earlier rows that they are compared with.
      model: the model.
      options: options of the job.

    Raises:
      StoreGoneError: the store of the photos does not respond.
      BeamscribeError: the model can't be loaded.
    """
    refs = [ref for ref in shard.photos if not ref.same_as]
    found = known.candidates([ref for ref in refs if ref.failure is None and not ref.again])
    of_photo = {candidates.ref.photo: candidates for candidates in found if candidates.rows}
    unread = [row for candidates in of_photo.values() if (row := candidates.unread())]
    yield from unread
    is_done = {row.photo for row in unread}
    left = Shard(shard.index, tuple(ref for ref in refs if ref.photo not in is_done))
    if not left.photos:
        return
    read = ReadOptions(options.sources, options.max_pixels)
    expected = {photo: candidates.expected for photo, candidates in of_photo.items()}
    photos = check_store(PhotoStream(left).pictures(model.image_size, read, expected), options)
    unmatched = []
    for photo, result in captioning.captions(photos, model, options):
        if result is not None:
            yield captioning.row(photo, result, options, model.engine)
        elif row := of_photo[photo.ref.photo].matching(photo.picture, photo.bytes):
            yield row
        else:
            # For example, a person has taken back the one caption of the same picture.
            unmatched.append(photo.ref)
    if unmatched:
        yield from captioned(Shard(shard.index, tuple(unmatched)), Known.none(), model, options)


def gone_photos(shard: Shard, options: CaptionOptions) -> ShardResult:
    """The rows of a shard of photos that are no longer there, which the plan holds.

    Raises:
      OSError: the store reported an error.
      UnreadableFileError: a file of the plan is damaged.
    """
    number, now = number_of(options), datetime.datetime.now(datetime.UTC)
    rows = caption_rows(frozen_plan.read_rows(shard.gone))
    for _ in rows:
        counters.count_row(GONE, None)
    marked = tuple(dataclasses.replace(row, run_number=number, written_at=now) for row in rows)
    return ShardResult(shard.index, marked, retries.take())


# If the first photos of a shard, this many, all can't be read, the store may be gone.
FAILURES_IN_A_ROW = 16


def check_store(photos: Iterable[Photo], options: CaptionOptions) -> Iterator[Photo]:
    """Passes photos on, unless their store is gone: then the shard is not committed, and a later run captions it.

    Args:
      photos: photos of a shard.
      options: options of the job.

    Raises:
      StoreGoneError: the first `FAILURES_IN_A_ROW` photos could not be read because their store is gone.
    """
    failed: list[Photo] = []
    photos = iter(photos)
    for photo in photos:
        failure = photo.picture.failure
        if failure is None or failure.stage != Stage.READ:
            break
        failed.append(photo)
        if len(failed) == FAILURES_IN_A_ROW and (reason := store_problem(failed, options)):
            raise StoreGoneError(f"{reason}; make sure that the store is available, and run the job again")
    else:
        yield from failed
        return
    yield from (*failed, photo)
    yield from photos


def store_problem(failed: Sequence[Photo], options: CaptionOptions) -> str | None:
    """Finds out whether a store is to blame for photos that can't be read.

    Args:
      failed: photos that can't be read.
      options: options of the job.

    Returns:
      What is wrong with the store; None if each photo may have its own reason.
    """
    for uri in options.inputs:
        if stores.is_local(uri) and not uris.has_wildcards(uri) and not stores.exists(uri):
            return f"the input {uri} no longer exists"
    failures = [
        photo.picture.failure for photo in failed if not stores.is_local(photo.ref.container or photo.ref.photo)
    ]
    if len(failures) == len(failed) and all(failure.error == ErrorCode.UNREADABLE for failure in failures if failure):
        return f"can't read any of {len(failed)} photos; the first is {failed[0].ref.photo}: {failures[0].message}"  # type: ignore
    return None


class StoreGoneError(Exception):
    """The store of the photos no longer responds."""


def with_duplicates(
    shard: Shard, rows_of: Callable[[Shard], list[CaptionRow]], known: Known | None = None
) -> Iterator[CaptionRow]:
    """Makes the rows of a shard; the row of a duplicate is a copy of its original's row, or of an earlier row.

    If the original was deleted or changed after the plan was made, its duplicates are read and captioned themselves.

    Args:
      shard: photos; those that are duplicates have `same_as` set.
      rows_of: reads and captions the photos of a shard that are not duplicates.
      known: earlier rows that the photos are compared with; None for none.
    """
    rows = rows_of(shard)
    yield from rows
    found = {of.photo: of for of in rows}
    alone = []
    for ref in shard.photos:
        if not ref.same_as:
            continue
        original = found.get(ref.same_as)
        # Without a SHA-256, the MD5s are equal, and reading the original has checked its MD5.
        if original and original.sha256 and original.sha256 == (ref.sha256 or original.sha256):
            taken = None if known is None or ref.again else known.candidates([ref])[0].of_same_bytes(original)
            yield taken or dataclasses.replace(original, photo=ref.photo, etag=ref.etag)
        else:
            alone.append(ref._replace(same_as=""))
    if alone:
        yield from rows_of(Shard(shard.index, tuple(alone)))


def numbered(shard: Shard, rows: Iterable[CaptionRow], number: int) -> Iterator[CaptionRow]:
    """Adds the number of the run to the rows of a shard, and in how many runs in a row their photos have failed."""
    earlier = {ref.photo: ref.attempts for ref in shard.photos}
    for row in rows:
        attempts = earlier[row.photo] + 1 if row.status == FAILED else 0
        yield dataclasses.replace(row, attempts=attempts, run_number=number)


def open_shard(planned: PlannedShard) -> PhotoStream:
    """Reads a planned shard: the references to its photos."""
    return PhotoStream(frozen_plan.read_shard(planned))


def is_to_do(index: int, options: CaptionOptions) -> bool:
    """Whether a shard still has to be captioned: it is not committed, and the run was not asked to stop."""
    committed = stores.exists(layout.shard_file(options.output, options.run, index))
    return not committed and not stopping.is_asked(options.folder)


def number_of(options: CaptionOptions) -> int:
    """The number of a run, which the plan of a template's run has."""
    return options.run_number or _planned_number(options.folder)


@functools.lru_cache
def _planned_number(folder: str) -> int:
    plan = frozen_plan.read(folder)
    return plan.run_number if plan else 0


def commit(result: ShardResult, options: CaptionOptions) -> str | None:
    """Writes the rows of a shard as one file, unless that file exists already.

    The write is atomic. If several attempts commit the same shard, the first commit stands.

    Args:
      result: rows of the shard.
      options: options of the job.

    Returns:
      The path of the file that holds the shard's rows; None if another job has closed the run.

    Raises:
      OSError: the store reported an error.
    """
    path = layout.shard_file(options.output, options.run, result.index)
    buffer = io.BytesIO()
    table = caption_table(result.rows, result.retries, number_of(options))
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    if not stores.create(path, buffer.getvalue()) and rows.is_closing(path):
        _LOGGER.warning("shard %d is not committed: another job has taken the output over", result.index)
        return None
    return path

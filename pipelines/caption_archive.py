"""The main pipeline: from an archive to one row a photo, a shard at a time."""

import dataclasses
import datetime
import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.pvalue import AsIter

from beamscribe.model.bundle import CaptionModel, CaptionSettings, draws
from beamscribe.pipelines import bundle_cache, plan, stores
from beamscribe.pipelines.control import stopping
from beamscribe.pipelines.export import ExportMissing
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.images.process_pool import Photo, ReadOptions
from beamscribe.pipelines.images.to_pixels import MAX_PIXELS
from beamscribe.pipelines.inference import PhotoStream, infer
from beamscribe.pipelines.ledger import DoneRule, ReadLedger
from beamscribe.pipelines.listing import ListPhotos
from beamscribe.pipelines.photos import CAPTIONED, FAILED, Alternative, CaptionRow, Shard, ShardResult, caption_table
from beamscribe.pipelines.plan import PlannedShard, PlanShards
from beamscribe.pipelines.sources.base import ListOptions
from beamscribe.pipelines.stores import retries

_LOGGER = logging.getLogger(__name__)

# So many photos that can't be read, before any other of a shard, raise the question whether their store is there.
FAILURES_IN_A_ROW = 16


@dataclasses.dataclass(frozen=True)
class CaptionOptions:
    """What to caption, with what, and where to.

    Attributes:
      inputs: folders, globs, photos, lists and archives.
      output: the folder that holds the captions of all runs.
      run: id of this run.
      bundle: folder of the model bundle, local or remote; empty for the one in the package.
      model: its fingerprint.
      settings: how captions are searched for or drawn.
      alternatives: how many to write beside the best caption.
      batch_size: photos in one call of the model.
      shard_size: photos a shard, about.
      workers: how many there are to keep busy.
      limit: take only so many photos; None for all.
      sources: what to list of the inputs, and how to read them.
      max_pixels: width × height above which a photo is refused.
      deduplicate: whether photos with the same bytes are captioned once.
      recaption: what is done again though it is in the ledger: see `ledger.DoneRule`.
      since: rows from then on count as done whatever `recaption` says; None where there is no such time.
      export: another format to write beside Parquet: `tfrecord`, `jsonl` or None.
      accelerator: resource hint of the step that runs the model; None for none.
    """

    inputs: tuple[str, ...]
    output: str
    run: str
    bundle: str
    model: str
    settings: CaptionSettings
    alternatives: int = 0
    batch_size: int = 32
    shard_size: int = 512
    workers: int = 1
    limit: int | None = None
    sources: ListOptions = ListOptions()
    max_pixels: int = MAX_PIXELS
    deduplicate: bool = True
    recaption: frozenset[str] = frozenset()
    since: datetime.datetime | None = None
    export: str | None = None
    accelerator: str | None = None

    @property
    def hints(self) -> dict[str, str]:
        """What the step that runs the model asks of its workers, beyond what the others need."""
        return {"accelerator": self.accelerator} if self.accelerator else {}

    @property
    def folder(self) -> str:
        """Of this run: its plan, its configuration and its report."""
        return stores.join(self.output, "runs", self.run)

    @property
    def settings_fingerprint(self) -> str:
        """All settings that change a row."""
        return f"{self.settings.fingerprint},alternatives={self.alternatives}"


@dataclasses.dataclass
class CaptionArchive(beam.PTransform):
    """The whole job. Only references, captions and numbers pass from step to step, never pixels."""

    options: CaptionOptions

    def expand(self, pbegin):
        """Wires the job."""
        options = self.options
        to_list = (
            pbegin
            | "Inputs" >> beam.Create([options.inputs])
            | "UnlessListed" >> beam.FlatMap(plan.unless_planned, options.folder)
        )
        to_compare = (
            pbegin
            | "Output" >> beam.Create([options.output])
            | "UnlessCompared" >> beam.FlatMap(plan.unless_planned, options.folder)
        )
        listed = to_list | "ListPhotos" >> ListPhotos(options.sources, options.limit)
        rule = DoneRule(options.model, options.settings_fingerprint, options.recaption, options.since)
        entries = to_compare | "ReadLedger" >> ReadLedger(options.run, rule)
        committed = (
            (listed, entries)
            | "PlanShards"
            >> PlanShards(
                options.folder,
                options.run,
                rule,
                options.shard_size,
                options.workers,
                options.deduplicate,
                options.sources,
            )
            | "Reshuffle" >> beam.Reshuffle()
            | "OpenShard" >> beam.Map(open_shard).with_output_types(PhotoStream)
            | "CaptionShards"
            >> RunInference(CaptionHandler(options).with_no_batching()).with_resource_hints(**options.hints)
        )
        if options.export:
            # The side input makes it wait for the last commit.
            _ = (
                pbegin
                | "Captions" >> beam.Create([options.output])
                | "AfterCommits" >> beam.Map(lambda output, _: output, AsIter(committed))
                | "ExportMissing" >> ExportMissing(options.export)
            )
        return committed


class CaptionHandler(ModelHandler[PhotoStream, str, CaptionModel]):
    """Captions a shard and commits it: every photo of it becomes a row of one file.

    Both in one step, since an engine may keep a step that has a resource hint apart from others: one of its own that
    committed would begin when all shards are captioned, and one that looked for commits would end before there are any.
    """

    def __init__(self, options: CaptionOptions):
        self._options = options

    def load_model(self) -> CaptionModel:
        """Loads the bundle, once a process."""
        _LOGGER.info("process %d loads the model", os.getpid())
        return CaptionModel(bundle_cache.fetched(self._options.bundle, self._options.model))

    def get_num_bytes(self, batch: Sequence[PhotoStream]) -> int:
        """Nothing: the default would pickle the shard only to measure it."""
        return 0

    def run_inference(self, batch: Any, model: CaptionModel, inference_args=None) -> Iterable[str]:
        """Reads, decodes, captions and commits one shard.

        Yields:
          The file; nothing where it is there already, or where the run is to end.
        """
        if is_to_do(batch.shard.index, self._options):
            yield commit(self._captioned(batch, model), self._options)

    def _captioned(self, batch: PhotoStream, model: CaptionModel) -> ShardResult:
        _LOGGER.info("process %d captions shard %d", os.getpid(), batch.shard.index)

        def caption(images: np.ndarray, photos: list[str]) -> list[list[Alternative]]:
            settings = self._options.settings
            uniforms = draws(photos, settings, 1 + self._options.alternatives, model.longest)
            captions, scores = model.caption(images, settings, uniforms)
            return [
                [Alternative(str(text), float(score)) for text, score in zip(*of_photo, strict=True)]
                for of_photo in zip(captions, scores, strict=True)
            ]

        read = ReadOptions(self._options.sources, self._options.max_pixels)

        def rows_of(shard: Shard) -> list[CaptionRow]:
            photos = check_store(PhotoStream(shard).pictures(model.image_size, read), self._options)
            return [
                row(photo, result, self._options) for photo, result in infer(photos, caption, self._options.batch_size)
            ]

        rows = tuple(with_duplicates(batch.shard, rows_of))
        return ShardResult(batch.shard.index, rows, retries.take())


def check_store(photos: Iterable[Photo], options: CaptionOptions) -> Iterator[Photo]:
    """Passes photos on, but for those of a store that is gone: they are not failed, but still to be done.

    Raises:
      StoreGoneError: none of a good many photos could be read, and that is not their own fault.
    """
    failed: list[Photo] = []
    photos = iter(photos)
    for photo in photos:
        failure = photo.picture.failure
        if failure is None or failure.stage != Stage.READ:
            break
        failed.append(photo)
        if len(failed) == FAILURES_IN_A_ROW and (reason := store_is_gone(failed, options)):
            raise StoreGoneError(f"{reason}; see that the store is there")
    else:
        yield from failed
        return
    yield from (*failed, photo)
    yield from photos


def store_is_gone(failed: Sequence[Photo], options: CaptionOptions) -> str | None:
    """Why their store is to be blamed for photos that can't be read; None where each may have a reason of its own."""
    for uri in options.inputs:
        if stores.is_local(uri) and not stores.has_wildcards(uri) and not stores.exists(uri):
            return f"there is no {uri} any more"
    failures = [
        photo.picture.failure for photo in failed if not stores.is_local(photo.ref.container or photo.ref.photo)
    ]
    if len(failures) == len(failed) and all(failure.error == ErrorCode.UNREADABLE for failure in failures if failure):
        return f"none of {len(failed)} photos could be read, for one {failed[0].ref.photo}: {failures[0].message}"  # type: ignore
    return None


class StoreGoneError(Exception):
    """The photos' store does not answer any more."""


def with_duplicates(shard: Shard, rows_of: Callable[[Shard], list[CaptionRow]]) -> Iterator[CaptionRow]:
    """The rows of a shard's photos, those of duplicates copied from the photos whose bytes they have.

    Where such a photo has gone or changed since the plan was made, its duplicates are read themselves.

    Args:
      shard: photos, some of them marked `same_as` another one.
      rows_of: reads and captions the photos that are not marked.
    """
    rows = rows_of(shard)
    yield from rows
    found = {of.photo: of for of in rows}
    alone = []
    for ref in shard.photos:
        if not ref.same_as:
            continue
        original = found.get(ref.same_as)
        # Where it is the MD5 that is known to be the same, reading the original has checked that.
        if original and original.sha256 and original.sha256 == (ref.sha256 or original.sha256):
            yield dataclasses.replace(original, photo=ref.photo, etag=ref.etag)
        else:
            alone.append(ref._replace(same_as=""))
    if alone:
        yield from rows_of(Shard(shard.index, tuple(alone)))


def row(photo: Photo, result: list[Alternative] | Failure, options: CaptionOptions) -> CaptionRow:
    """The output row of one photo: its captions, best first, or why it has none."""
    ref, decoded = photo
    failure = result if isinstance(result, Failure) else None
    captions = [] if isinstance(result, Failure) else result
    return CaptionRow(
        photo=ref.photo,
        etag=ref.etag,
        sha256=decoded.sha256,
        width=decoded.width,
        height=decoded.height,
        status=FAILED if failure else CAPTIONED,
        caption=captions[0].caption if captions else None,
        score=captions[0].score if captions else None,
        alternatives=tuple(captions[1 : options.alternatives + 1]),
        stage=failure.stage if failure else None,
        error=failure.error if failure else None,
        message=failure.message if failure else None,
        model=options.model,
        settings=options.settings_fingerprint,
        written_at=datetime.datetime.now(datetime.UTC),
    )


def commit_path(output: str, run: str, index: int) -> str:
    """Where a shard is committed."""
    return stores.join(output, "captions", f"run={run}", f"shard-{index:05d}.parquet")


def open_shard(planned: PlannedShard) -> PhotoStream:
    """A shard of the plan, as references."""
    return PhotoStream(plan.read_shard(planned))


def is_to_do(index: int, options: CaptionOptions) -> bool:
    """Whether a shard is to be captioned: it is not committed yet, and the run is not to end."""
    committed = stores.exists(commit_path(options.output, options.run, index))
    return not committed and not stopping.is_asked(options.folder)


def commit(result: ShardResult, options: CaptionOptions) -> str:
    """Writes a shard's rows, whole or not at all, and returns the file. The first commit stands."""
    path = commit_path(options.output, options.run, result.index)
    buffer = io.BytesIO()
    pq.write_table(caption_table(result.rows, result.retries), buffer, compression="zstd", write_page_checksum=True)
    stores.create(path, buffer.getvalue())
    return path

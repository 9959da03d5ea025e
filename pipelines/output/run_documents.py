"""The JSON files of a run: `config.json`, `plan.json`, `report.json`, and the rarer ones below.

The names of the fields are the keys in the files.
"""

import contextlib
import dataclasses
import datetime
import enum
import json
from typing import Annotated, ClassVar, Self

import pydantic

from beamscribe.model.documents import Document
from beamscribe.pipelines.output import layout

_CAPTIONS_STAND = "restore it from a backup; the captions do not depend on it"

# Times are written in ISO 8601, with the time zone as a numeric offset.
Time = Annotated[pydantic.AwareDatetime, pydantic.PlainSerializer(datetime.datetime.isoformat, when_used="json")]


# A whole number that is not negative, and fits in a column of 64 bits.
Number = Annotated[int, pydantic.Field(ge=0, lt=2**63)]


@dataclasses.dataclass(frozen=True)
class BundleName:
    """The bundle of a run: its name and its fingerprint."""

    name: str
    fingerprint: str


class Config(Document):
    """The configuration of a run; the content of `config.json`.

    Attributes:
      run: id of the run.
      inputs: URIs of the inputs.
      output: the folder that holds the captions of all runs.
      bundle: the model bundle.
      settings: fingerprint of the caption settings.
      recaption: photos to caption again; see `ledger.DoneRule`.
      max_pixels: width × height above which a photo is refused.
      runner: name of the Beam runner.
      version: version of Beamscribe.
      started_at: when the job started.
      allow_empty: whether an input may hold no photos.
      run_number: number of the run; 0 for a template's run, and for one of an earlier version.
    """

    REMEDY: ClassVar[str] = _CAPTIONS_STAND

    run: str
    inputs: tuple[str, ...]
    output: str
    bundle: BundleName
    settings: str
    recaption: tuple[str, ...]
    max_pixels: int
    runner: str
    version: str
    started_at: Time
    allow_empty: bool = False
    run_number: Number = 0


@dataclasses.dataclass(frozen=True, order=True)
class PlannedShard:
    """A shard of the plan.

    Attributes:
      index: its number.
      photos: number of its rows, one a photo.
      paths: files that list its photos or, for photos that are gone, hold their rows.
      known: files with earlier rows that its photos are compared with.
      is_gone: whether it holds rows of photos that are gone.
    """

    index: Number
    photos: Number
    paths: tuple[str, ...]
    known: tuple[str, ...] = ()
    is_gone: bool = False


class Plan(Document):
    """The plan of a run; the content of `plan.json`.

    Attributes:
      run: id of the run.
      listed: number of photos in the listing.
      skipped: number of listed photos that the ledger counts as done.
      planned: number of photos to caption: `listed` - `skipped`.
      duplicates: number of planned photos with the same bytes as another one, which are not read themselves.
      outdated: number of skipped photos that were captioned by another model or with other settings.
      ignored: number of ignored files by kind.
      inputs: number of photos found in each input, those that several inputs contain included.
      shards: shards of the run.
      run_number: number of the run, which its rows have; 0 for a run of an earlier version.
      closed_by: number of the job that closed the run before it had a plan; None for a plan of the run itself.
      gone: number of photos that are no longer there, whose rows the run marks.
      vanished: number of photos that are no longer there, but too many to be marked.
      edited: number of photos in the listing that a person has captioned.
    """

    REMEDY: ClassVar[str] = _CAPTIONS_STAND

    run: str
    listed: Number
    skipped: Number
    planned: Number
    duplicates: Number
    outdated: Number
    ignored: dict[str, Number]
    inputs: dict[str, Number] = pydantic.Field(default_factory=dict)
    shards: tuple[PlannedShard, ...]
    run_number: Number = 0
    closed_by: Number | None = None
    gone: Number = 0
    vanished: Number = 0
    edited: Number = 0


@dataclasses.dataclass(frozen=True)
class Example:
    """A failed photo; the fields are columns of `CAPTION_SCHEMA`."""

    photo: str
    stage: str
    error: str
    message: str


@dataclasses.dataclass(frozen=True)
class Sample:
    """A captioned photo; the fields are columns of `CAPTION_SCHEMA`."""

    photo: str
    caption: str
    score: float
    bytes: Number | None = None


class Report(Document):
    """The report of a run; the content of `report.json`.

    Attributes:
      run: id of the run.
      inputs: URIs of the inputs.
      output: the folder that holds the captions of all runs.
      bundle: name of the model bundle.
      fingerprint: fingerprint of the bundle.
      settings: fingerprint of the caption settings.
      runner: name of the Beam runner.
      version: version of Beamscribe.
      started_at: when the job started.
      finished_at: when the job ended, after its last commit.
      seconds: time between the two.
      listed: number of photos in the listing.
      skipped: number of listed photos that the ledger counts as done.
      outdated: number of skipped photos that were captioned by another model or with other settings.
      duplicates: number of planned photos with the same bytes as another one, which were not read themselves.
      ignored: number of ignored files by kind.
      empty_inputs: inputs in which no photo was found.
      taken_over: number of rows with the caption of an earlier row of the same picture.
      captioned: number of rows with a caption that the run made.
      failed: number of rows without a caption.
      gone: number of photos that are no longer there, whose rows the run has marked.
      vanished: number of photos that are no longer there, but too many to be marked.
      to_look_at: examples of photos that a person has captioned, and whose picture has changed since.
      photos_per_second: rows per second, from start to end.
      retries: number of retried requests to remote stores.
      failures: number of rows by error code, most frequent first.
      examples: examples of failed photos, for every code.
      samples: a random sample of the captioned photos.
      missing: examples of planned photos that have no row.
      balanced: whether `listed = skipped + taken_over + captioned + failed`, and every planned photo has a row.
      closed: whether another job has closed the run, because it seemed dead.

    Example:
      >>> report = beamscribe.caption("photos", "captions")
      >>> report.listed, report.skipped, report.taken_over, report.captioned, report.failed
      (13, 0, 0, 12, 1)
      >>> report.failures
      {'truncated': 1}
    """

    REMEDY: ClassVar[str] = _CAPTIONS_STAND

    run: str
    inputs: tuple[str, ...]
    output: str
    bundle: str
    fingerprint: str
    settings: str
    runner: str
    version: str
    started_at: Time
    finished_at: Time
    seconds: pydantic.FiniteFloat
    listed: Number
    skipped: Number
    outdated: Number
    duplicates: Number
    ignored: dict[str, Number]
    empty_inputs: tuple[str, ...] = ()
    taken_over: Number = 0
    captioned: Number
    failed: Number
    gone: Number = 0
    vanished: Number = 0
    to_look_at: tuple[str, ...] = ()
    photos_per_second: pydantic.FiniteFloat
    retries: Number
    failures: dict[str, Number]
    examples: tuple[Example, ...]
    samples: tuple[Sample, ...]
    missing: tuple[str, ...]
    balanced: bool
    closed: bool = False

    @classmethod
    def from_json(cls, data: bytes, path: str) -> Self:
        """Reads a file's bytes; see `Document.from_json`. In an earlier form, `closed` had the name of a number."""
        # Not by a validator of pydantic's: before it, fields of JSON would be taken for those of Python.
        with contextlib.suppress(ValueError, RecursionError):
            fields = json.loads(data)
            if isinstance(fields, dict) and isinstance(fields.get("taken_over"), bool):
                data = json.dumps({**fields, "taken_over": 0, "closed": fields["taken_over"]}).encode()
        return super().from_json(data, path)


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """A shard file: its path in the output folder, its rows and bytes, and its rows' digest total, hexadecimal."""

    file: str
    rows: Number
    bytes: Number
    digest: str


class Compaction(Document):
    """The record of a compaction; the content of `compaction.json`.

    Attributes:
      run: id of the run that consists of the new files.
      written_at: when the new files had been checked.
      runs: ids of the runs that were compacted; the rows that their plans and reports describe no longer exist there.
      rows: number of rows in the new files: one for most photos, several where more of them may still count.
      digest: digest total of these rows, hexadecimal.
      sources: the files that were compacted.
      results: the new files.
      gone: files of the new run with the last row of each photo that was dropped because it is no longer there. They
        are deleted after all sources, so that none of these photos comes back meanwhile.
      edits: greatest number of an edit among the rows and runs that were compacted; 0 if there was none.
    """

    run: str
    written_at: Time
    runs: tuple[str, ...]
    rows: Number
    digest: str
    sources: tuple[FileRecord, ...]
    results: tuple[FileRecord, ...]
    gone: tuple[FileRecord, ...] = ()
    edits: Number = 0

    @property
    def pruned(self) -> int:
        """Number of photos that were dropped because they are no longer there."""
        return sum(file.rows for file in self.gone)


class Closing(Document):
    """The record that a later job has closed a run; the content of `closed.json`.

    Attributes:
      closed_by: number of that job.
      is_over: whether the processes of the run are known to have ended.
    """

    closed_by: Number
    is_over: bool = False


class StopCause(enum.StrEnum):
    """Who or what asked a run to stop early."""

    ASKED = "asked"
    FAILURES = "failures"
    TAKEN_OVER = "taken_over"


class StopRequest(Document):
    """A request to stop a run early; the content of `stop.json`.

    Attributes:
      reason: why the run is stopped, for people.
      cause: what asked for it.
    """

    reason: str
    cause: StopCause = StopCause.ASKED


def document_kinds() -> dict[str, type[Document]]:
    """The JSON files of a run by name, but for that of a compaction, and their forms."""
    return {
        layout.CONFIG: Config,
        layout.PLAN: Plan,
        layout.REPORT: Report,
        layout.STOP: StopRequest,
        layout.CLOSED: Closing,
    }

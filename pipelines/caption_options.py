"""The options of the captioning job."""

import dataclasses
import datetime

from beamscribe.model.caption_settings import CaptionSettings
from beamscribe.pipelines.images.to_pixels import MAX_PIXELS
from beamscribe.pipelines.output import layout
from beamscribe.pipelines.sources.base import ListOptions


@dataclasses.dataclass(frozen=True)
class CaptionOptions:
    """What to caption, with which model, and where to write.

    Attributes:
      inputs: folders, globs, photos, lists and archives.
      output: the folder that holds the captions of all runs.
      run: id of this run.
      bundle: folder of the model bundle, local or remote; empty for the bundle in the package.
      model: fingerprint of the bundle.
      settings: how captions are searched for or sampled.
      alternatives: number of captions to write in addition to the best one.
      batch_size: number of photos in one call of the model.
      shard_size: approximate number of photos per shard.
      workers: number of workers to keep busy.
      limit: maximum number of photos to list; None for all.
      sources: which files to list, and how to read containers.
      max_pixels: width × height above which a photo is refused.
      deduplicate: whether photos with the same bytes are captioned once.
      recaption: photos to caption again although they have a row; see `ledger.DoneRule`.
      since: rows written at this time or later count as done whatever `recaption` says; None for no such time.
      export: format to write in addition to Parquet: `tfrecord`, `jsonl` or None.
      accelerator: resource hint for the step that runs the model, or None.
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
        """Beam's resource hints for the step that runs the model."""
        return {"accelerator": self.accelerator} if self.accelerator else {}

    @property
    def folder(self) -> str:
        """The folder of this run, which holds its plan, its configuration and its report."""
        return layout.run_folder(self.output, self.run)

    @property
    def settings_fingerprint(self) -> str:
        """The fingerprint of all settings that affect a row."""
        return f"{self.settings.fingerprint},alternatives={self.alternatives}"

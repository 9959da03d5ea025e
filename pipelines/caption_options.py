"""The options of the captioning job."""

import dataclasses

from beamscribe.pipelines.captioning import Captioning
from beamscribe.pipelines.output import layout
from beamscribe.pipelines.output.current import Since


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionOptions(Captioning):
    """What to caption, with which model, and where to write.

    Attributes, beside those of `Captioning`, whose `sources` also say which files to list:
      inputs: folders, globs, photos, lists and archives.
      output: the folder that holds the captions of all runs.
      run: id of this run.
      run_number: number of this run, taken with the lease; 0 for a template, whose plan has it.
      shard_size: approximate number of photos per shard.
      workers: number of workers to keep busy.
      limit: maximum number of photos to list; None for all.
      deduplicate: whether photos with the same bytes are captioned once.
      recaption: photos to caption again although they have a row; see `ledger.DoneRule`.
      since: the unfinished run that this one continues, whose rows count as done whatever `recaption` says; None for
        no such run.
      accept_gone: whether photos that are no longer there are marked even if they are many.
      export: format to write in addition to Parquet: `tfrecord`, `jsonl` or None.
    """

    inputs: tuple[str, ...]
    output: str
    run: str
    shard_size: int = 512
    workers: int = 1
    limit: int | None = None
    deduplicate: bool = True
    recaption: frozenset[str] = frozenset()
    since: Since | None = None
    run_number: int = 0
    accept_gone: bool = False
    export: str | None = None

    @property
    def folder(self) -> str:
        """The folder of this run, which holds its plan, its configuration and its report."""
        return layout.run_folder(self.output, self.run)

"""Rows that people have written: each edit is a run of its own, `edit-00000012`, whose number orders it.

A number is taken by creating the edit's file, which needs no lease. So people can edit while a job runs.
"""

import dataclasses
import io
from collections.abc import Sequence

import pyarrow.parquet as pq

from beamscribe.model.documents import DamagedDocumentError
from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines import stores
from beamscribe.pipelines.output import layout
from beamscribe.pipelines.output.run_documents import Compaction
from beamscribe.pipelines.photos import PERSON, CaptionRow, caption_table

# How often another writer may take the same number first.
_TRIES = 1000


def next_number(output: str) -> int:
    """The number that the next edit of an output takes: 1 + the greatest of all, those that were compacted included.

    Raises:
      OSError: the store reported an error.
      BeamscribeError: the record of a compaction is damaged, or a newer version wrote it.
    """
    numbers = [layout.edit_number(layout.run_of(path)) for path in layout.committed_files(output, "edit-*")]
    for path in layout.run_files(output, layout.COMPACTION):
        try:
            numbers.append(Compaction.from_json(stores.read(path), path).edits)
        except DamagedDocumentError as error:
            raise BeamscribeError(str(error)) from None
    return 1 + max(numbers, default=0)


def write(output: str, rows: Sequence[CaptionRow]) -> int:
    """Writes rows of a person's, whole or not at all, under a number that no other edit has.

    Args:
      output: the folder that holds the captions of all runs.
      rows: captioned or withdrawn rows, of the version of the photo that the person has seen; their numbers and sources
        are set here.

    Returns:
      The number of the edit.

    Raises:
      OSError: the store reported an error.
      BeamscribeError: the record of a compaction is damaged, or other writers take all numbers.
    """
    first = next_number(output)
    for number in range(first, first + _TRIES):
        own = [dataclasses.replace(row, source=PERSON, run_number=number, taken_from=None, attempts=0) for row in rows]
        buffer = io.BytesIO()
        pq.write_table(caption_table(own, run_number=number), buffer, compression="zstd", write_page_checksum=True)
        if stores.create(layout.shard_file(output, layout.edit_run(number), 0), buffer.getvalue()):
            return number
    raise BeamscribeError(f"can't write to {output}: other writers have taken {_TRIES} numbers; try again")

"""The places of shards in an output folder that a run may still write to, and the closing files that hold them."""

import functools
import io

import pyarrow.parquet as pq

from beamscribe.model.documents import DocumentError
from beamscribe.pipelines import stores
from beamscribe.pipelines.output import layout, rows
from beamscribe.pipelines.output.run_documents import Closing
from beamscribe.pipelines.photos import closing_table


@functools.lru_cache(maxsize=1)
def closing_file(number: int) -> bytes:
    """The bytes of a closing file, made by the job with a number."""
    buffer = io.BytesIO()
    pq.write_table(closing_table(number), buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def to_keep(output: str) -> set[str]:
    """The ids of the runs of which a process may still wake up: they were closed, and have written no report since.

    Raises:
      OSError: the store reported an error.
    """
    reported = {layout.run_of_file(path) for path in layout.run_files(output, layout.REPORT)}
    kept = set()
    for path in layout.run_files(output, layout.CLOSED):
        run = layout.run_of_file(path)
        if run in reported:
            continue
        try:
            is_over = Closing.from_json(stores.read(path), path).is_over
        except DocumentError:
            is_over = False
        if not is_over:
            kept.add(run)
    return kept


def to_fold(output: str) -> list[str]:
    """The committed files that a compaction folds: all, but for the closing files that have to stay.

    Raises:
      OSError: the store reported an error.
      UnreadableFileError, NewerFileError: see `rows.read_table`.
    """
    kept = to_keep(output)
    files = layout.committed_files(output)
    return [path for path in files if layout.run_of(path) not in kept or not rows.is_closing(path)]

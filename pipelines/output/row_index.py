"""Reads all rows of an output folder into arrays, and checks each file while it is read.

Millions of photos fit in memory: a row takes 66 bytes.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beamscribe.model.errors import one_line
from beamscribe.pipelines import stores
from beamscribe.pipelines.failures import ErrorCode
from beamscribe.pipelines.output import current, digests, layout, report, rows
from beamscribe.pipelines.output.current import Keys
from beamscribe.pipelines.photos import (
    CAPTION_SCHEMA,
    CAPTIONED,
    FAILED,
    GONE,
    MODEL,
    PERSON,
    WITHDRAWN,
)

_CODES = [code.value for code in ErrorCode]


class FileContent(NamedTuple):
    """The content of a file.

    Attributes:
      statuses: number of rows by what became of the photos, as in `report.statuses_of`.
      rows: number of all rows.
      digest: digest total of the rows, hexadecimal.
      problems: descriptions of what is wrong with rows.
    """

    statuses: Mapping[str, int]
    rows: int
    digest: str
    problems: tuple[str, ...]


class Columns(NamedTuple):
    """What is known of rows, as arrays `[rows]`.

    Attributes:
      photos: digests of the photos, strings of 16 bytes.
      keys: what decides which row of a photo counts.
      models: digests of model and settings, uint64.
      is_made: whether the run of the row made the caption, rather than a person or an earlier run; bool.
    """

    photos: np.ndarray
    keys: Keys
    models: np.ndarray
    is_made: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> "Columns":
        """The columns of rows of `CAPTION_SCHEMA`."""
        keys = Keys.of(table)
        models = digests.halves(digests.of_rows(table, ["model", "settings"]))
        is_own = pc.and_(pc.equal(table["status"], CAPTIONED), pc.is_null(table["taken_from"])).to_numpy()
        return cls(digests.of_rows(table, ["photo"]), keys, models, is_own & ((keys.kinds & current.IS_PERSONS) == 0))

    @classmethod
    def concatenated(cls, several: "Sequence[Columns]") -> "Columns":
        """The columns of several tables together."""
        all_photos, all_keys, *others = zip(cls.of(CAPTION_SCHEMA.empty_table()), *several, strict=True)
        return cls(np.concatenate(all_photos), Keys.concatenated(list(all_keys)), *map(np.concatenate, others))


@dataclasses.dataclass(frozen=True)
class RowIndex:
    """All rows of an output folder.

    Attributes:
      paths: paths of all files.
      starts: `[files]`, int64, index of the first row of each file; a file that can't be read has no rows.
      columns: the rows, in the order of the files.
    """

    paths: Sequence[str]
    starts: np.ndarray
    columns: Columns

    def __len__(self) -> int:
        return len(self.columns.photos)

    @property
    def runs(self) -> np.ndarray:
        """The run of each row, `[rows]`, int32: runs are numbered in the order of their ids."""
        names = list(map(layout.run_of, self.paths))
        numbers = {run: number for number, run in enumerate(sorted(set(names)))}
        of_files = np.array([numbers[name] for name in names], np.int32)
        return np.repeat(of_files, np.diff(self.starts, append=len(self)))

    def files(self, indices: np.ndarray) -> np.ndarray:
        """The files of rows, given by their indices, `[rows]`: indices of `paths`."""
        return np.searchsorted(self.starts, indices, "right") - 1

    def names(self, several: Iterable[int]) -> Iterator[tuple[str, str]]:
        """Reads the photos of rows, given by their indices; yields each with the path of its file."""
        indices = list(map(int, several))
        found: dict[int, str] = {}
        for some, table in self.tables(np.unique(np.array(indices, np.int64)), ["photo"]):
            found |= zip(some.tolist(), table["photo"].to_pylist(), strict=True)
        for index, file in zip(indices, self.files(np.array(indices, np.int64)), strict=True):
            yield found[index], self.paths[file]

    def tables(self, indices: np.ndarray, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Reads some columns of rows, given by their indices, sorted; yields some of the indices with their rows.

        Raises:
          UnreadableFileError, NewerFileError: see `rows.read_batches`.
        """
        for file, start in enumerate(self.starts):
            end = self.starts[file + 1] if file + 1 < len(self.starts) else len(self)
            if not len(_between(indices, start, end)):
                continue
            for table in rows.read_batches([self.paths[file]], columns):
                some = _between(indices, start, start + len(table))
                if len(some):
                    yield some, table.take(pa.array(some - start))
                start += len(table)


def _between(indices: np.ndarray, start: int, end: int) -> np.ndarray:
    """Those of sorted indices that are in a range."""
    first, last = np.searchsorted(indices, (start, end))
    return indices[first:last]


def read_files(paths: Sequence[str]) -> tuple[dict[str, FileContent], RowIndex, dict[str, list[str]]]:
    """Reads and checks shard files.

    Args:
      paths: paths of the files.

    Returns:
      The content of each readable file, by path; the rows of these files; and the problems of all files, by path.

    Raises:
      NewerFileError: a newer version of Beamscribe wrote one of the files.
    """
    problems: dict[str, list[str]] = collections.defaultdict(list)
    files: dict[str, FileContent] = {}
    starts, parts, count = [], [], 0
    for path, data in rows.read_ahead(stores.read, paths):
        starts.append(count)
        try:
            files[path], of_file = _read_file(rows.ShardFile(data.result(), path))
        except rows.DAMAGE as error:
            problems[path].append(f"can't be read ({one_line(error)})")
            continue
        parts.extend(of_file)
        count += files[path].rows
        problems[path].extend(files[path].problems)
    return files, RowIndex(paths, np.array(starts, np.int64), Columns.concatenated(parts)), problems


def _read_file(file: rows.ShardFile) -> tuple[FileContent, list[Columns]]:
    """Reads and checks one file; returns its content, and its rows in parts.

    Raises:
      OSError, pa.ArrowException, ValueError: the file is damaged (`rows.DAMAGE`).
    """
    file.check_columns()
    parts = []
    statuses: collections.Counter[str] = collections.Counter()
    problems: collections.Counter[str] = collections.Counter()
    count = digest = 0
    for table in file.batches():
        table.validate(full=True)
        parts.append(Columns.of(table))
        statuses.update(report.statuses_of(table))
        problems.update(_invalid_values(table))
        count += len(table)
        digest = digests.add(digest, digests.total(digests.of_rows(table, file.columns)))
    lines = tuple(f"{wrong:,} {problem}" for problem, wrong in problems.items() if wrong)
    return FileContent(statuses, count, f"{digest:016x}", lines), parts


def _invalid_values(table: pa.Table) -> dict[str, int]:
    """Counts the rows with invalid values, by problem."""
    captioned, failed, gone, withdrawn = (
        pc.equal(table["status"], status) for status in (CAPTIONED, FAILED, GONE, WITHDRAWN)
    )
    has_caption, has_code = pc.is_valid(table["caption"]), pc.is_in(table["error"], value_set=pa.array(_CODES))
    source, number = table["source"], pc.fill_null(table["run_number"], 0)
    wrong = {
        "rows with a status that is none of captioned, failed, gone and withdrawn": pc.invert(
            functools.reduce(pc.or_, (captioned, failed, gone, withdrawn))
        ),
        "captioned rows without a caption": pc.and_not(captioned, has_caption),
        "failed rows with a caption": pc.and_(failed, has_caption),
        "failed rows without a known error code": pc.and_not(failed, has_code),
        "gone rows with neither a caption nor a known error code": pc.and_not(gone, pc.or_(has_caption, has_code)),
        "withdrawn rows with a caption": pc.and_(withdrawn, has_caption),
        "withdrawn rows that are not a person's": pc.and_not(withdrawn, pc.fill_null(pc.equal(source, PERSON), False)),
        "rows with a source that is neither model nor person": pc.and_not(
            pc.is_valid(source), pc.is_in(source, value_set=pa.array([MODEL, PERSON]))
        ),
        "rows with a number that no run has": pc.or_(pc.less(number, 0), pc.greater(number, current.GREATEST_NUMBER)),
    }
    return {problem: _count(mask) for problem, mask in wrong.items()}


def _count(mask: pa.ChunkedArray) -> int:
    return pc.sum(mask).as_py() or 0

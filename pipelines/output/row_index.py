"""Reads all rows of an output folder into arrays, and checks each file while it is read.

Millions of photos fit in memory: a row takes three digests of 16 bytes, a number, a time, and its position.
"""

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beamscribe.model.errors import one_line
from beamscribe.pipelines import stores
from beamscribe.pipelines.failures import ErrorCode
from beamscribe.pipelines.output import current, digests, layout, rows
from beamscribe.pipelines.photos import CAPTION_SCHEMA, CAPTIONED, FAILED

_CODES = [code.value for code in ErrorCode]


class FileContent(NamedTuple):
    """The content of a file.

    Attributes:
      captioned: number of captioned rows.
      failed: number of failed rows.
      rows: number of all rows.
      digest: digest total of the rows, hexadecimal.
      problems: descriptions of what is wrong with rows.
    """

    captioned: int
    failed: int
    rows: int
    digest: str
    problems: tuple[str, ...]


class RowIndex(NamedTuple):
    """All rows of an output folder, as arrays `[rows]`.

    Attributes:
      paths: paths of all files; `files` indexes it.
      photos: digests of the photos, strings of 16 bytes.
      versions: digests of photo and etag, strings of 16 bytes.
      work: digests of photo, etag, model and settings, which are captioned only once; strings of 16 bytes.
      numbers: numbers of the runs that made the rows, int64; 0 for rows without one.
      times: times of writing, int64, microseconds since 1970.
      captioned: whether the row has a caption, bool.
      files: index of the file, int32.
      runs: number of the run, int32.
      places: index of the row in the file, int32.
    """

    paths: Sequence[str]
    photos: np.ndarray
    versions: np.ndarray
    work: np.ndarray
    numbers: np.ndarray
    times: np.ndarray
    captioned: np.ndarray
    files: np.ndarray
    runs: np.ndarray
    places: np.ndarray

    @property
    def keys(self) -> current.Keys:
        """What the rows are ordered by."""
        return current.Keys(self.numbers, self.times)

    def path(self, index: int) -> str:
        """The path of the file that holds a row."""
        return self.paths[self.files[index]]

    def names(self, indices: Iterable[int]) -> Iterator[tuple[str, str]]:
        """Reads the photo of each given row; yields it with the path of the row's file."""
        for index in indices:
            path = self.path(index)
            (table,) = rows.read_tables([path], ["photo"])
            yield table["photo"][int(self.places[index])].as_py(), path


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
    runs = {run: number for number, run in enumerate(sorted(set(map(layout.run_of, paths))))}
    files: dict[str, FileContent] = {}
    parts = [_no_rows()]
    for index, (path, data) in enumerate(rows.read_ahead(stores.read, paths)):
        try:
            file = rows.ShardFile(data.result(), path)
            files[path], of_file = _read_file(file, index, runs[layout.run_of(path)])
        except rows.DAMAGE as error:
            problems[path].append(f"can't be read ({one_line(error)})")
            continue
        parts.extend(of_file)
        problems[path].extend(files[path].problems)
    table = RowIndex(paths, *(np.concatenate(column) for column in zip(*parts, strict=True)))
    return files, table, problems


def _read_file(file: rows.ShardFile, index: int, run: int) -> tuple[FileContent, list[tuple[np.ndarray, ...]]]:
    """Reads and checks one file.

    Args:
      file: the file.
      index: index of its path.
      run: number of its run.

    Returns:
      The content of the file, and its rows as parts of the arrays of `RowIndex`.

    Raises:
      OSError, pa.ArrowException, ValueError: the file is damaged (`rows.DAMAGE`).
    """
    file.check_columns()
    parts = []
    problems: collections.Counter[str] = collections.Counter()
    captioned = failed = count = digest = 0
    for table in file.batches():
        table.validate(full=True)
        parts.append(_as_arrays(table, index, run, count))
        problems.update(_invalid_values(table))
        captioned += _count(pc.equal(table["status"], CAPTIONED))
        failed += _count(pc.equal(table["status"], FAILED))
        count += len(table)
        digest = digests.add(digest, digests.total(digests.of_rows(table, file.columns)))
    lines = tuple(f"{wrong:,} {problem}" for problem, wrong in problems.items() if wrong)
    return FileContent(captioned, failed, count, f"{digest:016x}", lines), parts


def _as_arrays(table: pa.Table, index: int, run: int, start: int) -> tuple[np.ndarray, ...]:
    """Makes the arrays of `RowIndex` for consecutive rows of a file; `start` is the place of the first row."""
    return (
        digests.of_rows(table, ["photo"]),
        digests.of_rows(table, ["photo", "etag"]),
        digests.of_rows(table, ["photo", "etag", "model", "settings"]),
        *current.Keys.of(table),
        pc.equal(table["status"], CAPTIONED).to_numpy(),
        np.full(len(table), index, np.int32),
        np.full(len(table), run, np.int32),
        np.arange(start, start + len(table), dtype=np.int32),
    )


def _no_rows() -> tuple[np.ndarray, ...]:
    return _as_arrays(CAPTION_SCHEMA.empty_table(), 0, 0, 0)


def _invalid_values(table: pa.Table) -> dict[str, int]:
    """Counts the rows with invalid values, by problem."""
    captioned, failed = pc.equal(table["status"], CAPTIONED), pc.equal(table["status"], FAILED)
    has_caption, has_code = pc.is_valid(table["caption"]), pc.is_in(table["error"], value_set=pa.array(_CODES))
    wrong = {
        "rows with a status that is neither captioned nor failed": pc.invert(pc.or_(captioned, failed)),
        "captioned rows without a caption": pc.and_not(captioned, has_caption),
        "failed rows with a caption": pc.and_(failed, has_caption),
        "failed rows without a known error code": pc.and_not(failed, has_code),
    }
    return {problem: _count(mask) for problem, mask in wrong.items()}


def _count(mask: pa.ChunkedArray) -> int:
    return pc.sum(mask).as_py() or 0

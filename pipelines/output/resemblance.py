"""What photos that were moved, copied or touched have in common: their clues.

A photo's *clues* are its name, its size, its size with its base name, and its base name, as numbers. They need no
reading: a listing has them, and so has a row.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beamscribe.pipelines.photos import PhotoRef

# The columns that the clues of rows come from.
COLUMNS = ("photo", "etag", "bytes")
# Kinds of clues: name, size, size and base name, base name.
KINDS = 4
# The column of the size with the base name.
SIZE_AND_NAME = 2

# Clues are numbers; these keep those of one kind apart from those of another.
_ODD = np.uint64(0x9E3779B97F4A7C15)
_OF_PHOTO, _OF_SIZE, _OF_BOTH, _OF_NAME = (np.uint64(0x517CC1B727220A95 * kind % 2**64) for kind in range(1, 5))
# The etag of a local file, or of a member of a tar archive, begins with the size.
_SIZE_IN_ETAG = r"^(?P<size>[0-9]{1,18})-"


def clues_of_refs(refs: Sequence[PhotoRef]) -> np.ndarray:
    """The clues of listed photos, `[photos, 4]`, uint64; 0 where a photo has none of a kind."""
    return _clues([ref.photo for ref in refs], np.array([ref.size for ref in refs], np.uint64))


def clues_of_rows(table: pa.Table) -> np.ndarray:
    """The clues of rows with the columns `photo`, `etag` and `bytes`, `[rows, 4]`, uint64; 0 where there is none."""
    of_etag = pc.struct_field(pc.extract_regex(table["etag"], _SIZE_IN_ETAG), "size").cast(pa.int64())
    sizes = pc.fill_null(pc.coalesce(table["bytes"], of_etag), 0).to_numpy()
    return _clues(table["photo"].to_pylist(), sizes.astype(np.uint64))


def _clues(photos: Sequence[str], sizes: np.ndarray) -> np.ndarray:
    found = np.empty((len(photos), KINDS), np.uint64)
    names = np.fromiter((_digest(_base_name(photo)) for photo in photos), np.uint64, len(photos))
    sized = sizes * _ODD
    found[:, 0] = np.fromiter(map(_digest, photos), np.uint64, len(photos)) ^ _OF_PHOTO
    found[:, 1] = np.where(sizes > 0, sized ^ _OF_SIZE, 0)
    found[:, SIZE_AND_NAME] = np.where(sizes > 0, (sized + names) ^ _OF_BOTH, 0)
    found[:, 3] = names ^ _OF_NAME
    return found


def _base_name(photo: str) -> str:
    return photo[max(photo.rfind("/"), photo.rfind("#")) + 1 :]


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")

"""Reads the bytes of listed photos, both standalone files and members of containers."""

import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence

from beamscribe.model.errors import BeamscribeError, one_line
from beamscribe.pipelines import failures, stores
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources.base import MAX_BYTES, ListOptions
from beamscribe.pipelines.sources.registry import CONTAINERS
from beamscribe.pipelines.stores.base import NoCredentialsError, TooLongError

Content = bytes | Failure

_LOGGER = logging.getLogger(__name__)

# Bytes of a file that are in memory while its digest is computed.
_PIECE_BYTES = 2**20


def read_photo(ref: PhotoRef) -> Content:
    """Reads a standalone photo: no more of it than the listing said, or than any photo may have.

    Raises:
      NoCredentialsError: there are no credentials for the store.
    """
    if (failure := _known_failure(ref)) is not None:
        return failure
    most = ref.size or MAX_BYTES
    try:
        before = stores.version(ref.photo) if stores.is_local(ref.photo) else ref.etag
        data = stores.read(ref.photo, most)
        # With an MD5, no request for the version of a remote file is needed.
        after = stores.version(ref.photo) if before and not ref.md5 else before
        if before and not after:
            raise FileNotFoundError("the file was deleted while it was read")
    except NoCredentialsError:
        raise
    except TooLongError:
        if ref.size:
            return Failure(Stage.READ, ErrorCode.CHANGED_WHILE_READING, "the file has grown since it was listed")
        return Failure(Stage.READ, ErrorCode.TOO_LARGE, f"the photo has more than {MAX_BYTES} bytes, the limit")
    except Exception as error:  # noqa: BLE001 - a store's client may raise anything, and must not fail other photos
        return failures.of_error(Stage.READ, error)
    if ref.md5 and hashlib.md5(data, usedforsecurity=False).hexdigest() != ref.md5:
        return Failure(Stage.READ, ErrorCode.CHANGED_WHILE_READING, "the object changed after it was listed")
    if before != after:
        return Failure(Stage.READ, ErrorCode.CHANGED_WHILE_READING, "the file changed while it was read")
    return data


def digest_photo(ref: PhotoRef) -> str:
    """The SHA-256 of a standalone photo, hexadecimal, read piece by piece; empty if it can't be read as it was listed.

    Raises:
      NoCredentialsError: there are no credentials for the store.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with stores.opened(ref.photo) as file:
            # A piece more than the listing says shows that the file has grown.
            while size <= ref.size and (piece := file.read(_PIECE_BYTES)):
                digest.update(piece)
                size += len(piece)
    except NoCredentialsError:
        raise
    except Exception as error:  # noqa: BLE001 - reading the photo for its caption reports what is wrong
        _LOGGER.debug("can't compare %s with other photos: %s", ref.photo, one_line(error))
        return ""
    return digest.hexdigest() if size == ref.size else ""


def read_members(refs: Sequence[PhotoRef], options: ListOptions) -> Iterator[Content]:
    """Reads photos of one container.

    Args:
      refs: references to members of the container, sorted by `place`.
      options: how containers are read.

    Yields:
      The bytes or the failure of each photo, in order.

    Raises:
      NoCredentialsError: there are no credentials for the store.
    """
    whole = [ref for ref in refs if _known_failure(ref) is None]
    contents: Iterator[Content] = iter(())
    if whole:
        uri = whole[0].container
        contents = _or_failures(CONTAINERS[whole[0].format].read(uri, whole, options), len(whole))
    for ref in refs:
        failure = _known_failure(ref)
        yield next(contents) if failure is None else failure


def _or_failures(contents: Iterator[Content], count: int) -> Iterator[Content]:
    """Passes contents on until reading them raises, then yields a failure for each remaining photo."""
    left = count
    try:
        for content in itertools.islice(contents, count):
            left -= 1
            yield content
        error = Exception("the container holds fewer photos than when it was listed")
    except (NoCredentialsError, BeamscribeError):
        raise
    except Exception as raised:  # noqa: BLE001 - a damaged container must not fail photos of other containers
        error = raised
    yield from itertools.repeat(failures.of_error(Stage.READ, error), left)


def by_container(refs: Iterable[PhotoRef]) -> Iterator[tuple[str, list[PhotoRef]]]:
    """Groups adjacent references by container; the container is empty for standalone photos."""
    for container, run in itertools.groupby(refs, key=lambda ref: ref.container):
        yield container, list(run)


def _known_failure(ref: PhotoRef) -> Failure | None:
    if ref.failure is not None:
        return ref.failure
    if ref.size > MAX_BYTES:
        return Failure(Stage.READ, ErrorCode.TOO_LARGE, f"the photo has {ref.size} bytes, the limit is {MAX_BYTES}")
    if ref.container and ref.format not in CONTAINERS:
        # A reference that somebody has made may have any.
        message = f"{ref.format!r} is no format of a container: it must be one of {', '.join(CONTAINERS)}"
        return Failure(Stage.READ, ErrorCode.UNSUPPORTED_FORMAT, message)
    return None

"""Reads the bytes of listed photos, both standalone files and members of containers."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines import failures, stores
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources.base import MAX_BYTES, ListOptions
from beamscribe.pipelines.sources.registry import CONTAINERS
from beamscribe.pipelines.stores.base import NoCredentialsError

Content = bytes | Failure


def read_photo(ref: PhotoRef) -> Content:
    """Reads a standalone photo.

    Raises:
      NoCredentialsError: there are no credentials for the store.
    """
    if (failure := _known_failure(ref)) is not None:
        return failure
    try:
        before = stores.version(ref.photo) if stores.is_local(ref.photo) else ref.etag
        data = stores.read(ref.photo)
        # With an MD5, no request for the version of a remote file is needed.
        after = stores.version(ref.photo) if before and not ref.md5 else before
        if before and not after:
            raise FileNotFoundError("the file was deleted while it was read")
    except NoCredentialsError:
        raise
    except Exception as error:  # noqa: BLE001 - a store's client may raise anything, and must not fail other photos
        return failures.of_error(Stage.READ, error)
    if ref.md5 and hashlib.md5(data, usedforsecurity=False).hexdigest() != ref.md5:
        return Failure(Stage.READ, ErrorCode.CHANGED_WHILE_READING, "the object changed after it was listed")
    if before != after:
        return Failure(Stage.READ, ErrorCode.CHANGED_WHILE_READING, "the file changed while it was read")
    return data


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

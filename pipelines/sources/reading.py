"""The bytes of listed photos, from wherever they lie, or why they can't be had."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

from beamscribe.pipelines import failures, stores
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.listing import CONTAINERS
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources.base import MAX_BYTES, ListOptions
from beamscribe.pipelines.stores.gcs import NoCredentialsError

Content = bytes | Failure


def read_photo(ref: PhotoRef) -> Content:
    """Reads a photo that is a file of its own.

    Raises:
      NoCredentialsError: there are none for its store.
    """
    if (failure := _known_failure(ref)) is not None:
        return failure
    try:
        before = stores.version(ref.photo) if stores.is_local(ref.photo) else ref.etag
        data = stores.read(ref.photo)
        # The version of a remote file that is known by its MD5 need not be asked for.
        after = stores.version(ref.photo) if before and not ref.md5 else before
    except NoCredentialsError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a store's client raises, it must cost no other photo
        return failures.of_error(Stage.READ, error)
    if ref.md5 and hashlib.md5(data, usedforsecurity=False).hexdigest() != ref.md5:
        return Failure(Stage.READ, ErrorCode.CHANGED_WHILE_READING, "the object is not the one that was listed")
    if before != after:
        return Failure(Stage.READ, ErrorCode.CHANGED_WHILE_READING, "somebody wrote to it just then")
    return data


def read_members(refs: Sequence[PhotoRef], options: ListOptions) -> Iterator[Content]:
    """Reads photos of one container, in the order of the references, which is that of their places.

    Raises:
      NoCredentialsError: there are none for its store.
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
    """Contents up to the error that ends them, and then a failure for each that is left."""
    left = count
    try:
        for content in itertools.islice(contents, count):
            left -= 1
            yield content
        error = Exception("the container holds fewer photos than when it was listed")
    except NoCredentialsError:
        raise
    except Exception as raised:  # noqa: BLE001 - a damaged container must cost no photo of another one
        error = raised
    yield from itertools.repeat(failures.of_error(Stage.READ, error), left)


def by_container(refs: Iterable[PhotoRef]) -> Iterator[tuple[str, list[PhotoRef]]]:
    """Runs of references that lie in the same container, or in none."""
    for container, run in itertools.groupby(refs, key=lambda ref: ref.container):
        yield container, list(run)


def _known_failure(ref: PhotoRef) -> Failure | None:
    if ref.failure is not None:
        return ref.failure
    if ref.size > MAX_BYTES:
        return Failure(Stage.READ, ErrorCode.TOO_LARGE, f"{ref.size} bytes, the limit is {MAX_BYTES}")
    return None

"""What there is to caption: the photos of all inputs, as references, and what is passed over."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam

from beamscribe.model.errors import UserError
from beamscribe.pipelines import failures, stores
from beamscribe.pipelines.failures import Stage
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import detect, files, lists, parquets, ranges, tars, tfrecords, zips
from beamscribe.pipelines.sources.base import Ignored, ListOptions, Source
from beamscribe.pipelines.stores.gcs import NoCredentialsError

# Photos in one element: the cost of passing it on is small for each.
CHUNK = 1000

CONTAINERS = {"tar": tars, "zip": zips, "tfrecord": tfrecords, "parquet": parquets}


class Listed(NamedTuple):
    """A part of a listing.

    Attributes:
      photos: some photos, in order.
      ignored: how many other files there are of each kind.
      containers: of a glob, what is still to be listed.
    """

    photos: tuple[PhotoRef, ...]
    ignored: dict[str, int]
    containers: tuple[Source, ...] = ()


@dataclasses.dataclass
class ListPhotos(beam.PTransform):
    """From one tuple of inputs (folders, globs, photos, lists, archives) to `Listed`s.

    Attributes:
      options: what to list of them.
      limit: take only so many photos, in the order of the inputs and of their names; None for all.
    """

    options: ListOptions = ListOptions()
    limit: int | None = None

    def expand(self, inputs):
        """`inputs` holds a tuple of URIs."""
        if self.limit is not None:
            # Which are the first is known only to whoever lists them all.
            return inputs | "ListFirst" >> beam.FlatMap(self._first).with_output_types(Listed)
        listed = (
            inputs
            | "ExpandInputs" >> beam.FlatMap(sources, self.options).with_output_types(Source)
            | "SplitSources" >> beam.FlatMap(ranges.parts).with_output_types(Source)
            | "ReshuffleSources" >> beam.Reshuffle()
            | "ListSource" >> beam.FlatMap(self._list).with_output_types(Listed)
        )
        inside = (
            listed
            | "Containers" >> beam.FlatMap(lambda part: part.containers).with_output_types(Source)
            | "ReshuffleContainers" >> beam.Reshuffle()
            | "ListContainer" >> beam.FlatMap(self._list).with_output_types(Listed)
        )
        return (listed, inside) | "FlattenListed" >> beam.Flatten()

    def _list(self, source: Source) -> Iterator[Listed]:
        return in_chunks(_found(source, self.options))

    def _first(self, inputs: Iterable[str]) -> Iterator[Listed]:
        return in_chunks(itertools.islice(list_photos(inputs, self.options), self.limit))


def check(uri: str, options: ListOptions) -> None:
    """Looks whether there is something to list of an input, as far as that shows at its first name.

    Raises:
      UserError: there is no such input, nothing matches it, or it can't be told what it is.
    """
    if detect.source_of(uri, options).kind == "glob" and next(stores.matching(uri), None) is None:
        raise UserError(f"--input: nothing matches {uri}")


def sources(inputs: Iterable[str], options: ListOptions) -> Iterator[Source]:
    """What the inputs are.

    Raises:
      UserError: there is no such input, or it can't be told what it is.
    """
    for uri in inputs:
        yield detect.source_of(uri, options)


def list_photos(inputs: Iterable[str], options: ListOptions | None = None) -> Iterator[PhotoRef]:
    """The photos of some inputs, one after the other.

    Args:
      inputs: folders (all below them), globs, photos, lists, archives; local or of any filesystem that Beam knows.
      options: what to list of them.

    Yields:
      Each photo, and what only could not be looked at: reading says why. One that two inputs hold comes twice.

    Raises:
      UserError: there is no such input, or it can't be told what it is.
    """
    options = options or ListOptions()
    for source in sources(inputs, options):
        for found in list_source(source, options):
            if isinstance(found, PhotoRef):
                yield found


def list_source(source: Source, options: ListOptions) -> Iterator[PhotoRef | Ignored]:
    """The photos of one source, and the kinds of its other files."""
    for found in _found(source, options):
        if isinstance(found, Source):
            yield from list_source(found, options)
        else:
            yield found


def _found(source: Source, options: ListOptions) -> Iterator[PhotoRef | Ignored | Source]:
    """As `list_source`, but for the containers of a glob, which are not looked into."""
    uri = source.uri
    if source.kind in CONTAINERS:
        return _or_failure(uri, CONTAINERS[source.kind].members(uri, options))
    if source.kind == "folder":
        return files.list_folder(uri, options, source.start, source.end)
    if source.kind == "glob":
        kind_of = functools.partial(detect.kind_in_glob, options=options)
        return files.list_glob(uri, options, kind_of, source.start, source.end)
    if source.kind == "list":
        return lists.list_list(uri, options)
    return iter([files.list_photo(uri)])


def _or_failure(uri: str, members: Iterator[PhotoRef | Ignored]) -> Iterator[PhotoRef | Ignored]:
    """The members of a container, and a failure of the container itself where listing them ends with an error."""
    try:
        yield from members
    except NoCredentialsError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a damaged container leads to, it must cost no other photo
        yield PhotoRef(uri, etag="", failure=failures.of_error(Stage.LIST, error))


def in_chunks(listed: Iterator[PhotoRef | Ignored | Source]) -> Iterator[Listed]:
    """Groups what is listed; an empty source has a chunk, too."""
    while True:
        photos: list[PhotoRef] = []
        containers: list[Source] = []
        ignored: collections.Counter[str] = collections.Counter()
        for found in listed:
            if isinstance(found, Ignored):
                ignored[found.kind] += 1
                continue
            if isinstance(found, Source):
                containers.append(found)
            else:
                photos.append(found)
            if len(photos) + len(containers) == CHUNK:
                break
        else:
            yield Listed(tuple(photos), dict(ignored), tuple(containers))
            return
        yield Listed(tuple(photos), dict(ignored), tuple(containers))

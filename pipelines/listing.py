"""Lists the photos of all inputs as references, and counts the files that are ignored."""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam

from beamscribe.model.errors import BeamscribeError, InputError
from beamscribe.pipelines import failures, stores
from beamscribe.pipelines.failures import Stage
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import detect, files, lists, ranges
from beamscribe.pipelines.sources.base import Ignored, ListOptions, Source
from beamscribe.pipelines.sources.registry import CONTAINERS
from beamscribe.pipelines.stores.base import NoCredentialsError

# Photos and containers in one element, so that the cost of passing elements on is small per photo.
CHUNK = 1000


class Listed(NamedTuple):
    """A part of a listing.

    Attributes:
      photos: photos of this part, in order.
      ignored: number of ignored files by kind.
      containers: containers that match a glob and are not listed yet.
      input: the input that the part belongs to.
    """

    photos: tuple[PhotoRef, ...]
    ignored: dict[str, int]
    containers: tuple[Source, ...] = ()
    input: str = ""


@dataclasses.dataclass
class ListPhotos(beam.PTransform):
    """Lists the photos of all inputs: folders, globs, photos, lists and archives.

    Attributes:
      options: which files to list.
      limit: maximum number of photos, taken in the order of the inputs and of the names in them; None for all.
    """

    options: ListOptions = ListOptions()
    limit: int | None = None

    def expand(self, inputs: beam.PCollection[tuple[str, ...]]) -> beam.PCollection[Listed]:
        """Lists the inputs.

        Args:
          inputs: one element: the tuple of all inputs' URIs.

        Returns:
          The parts of the listing.
        """
        if self.limit is not None:
            # Only a worker that lists all inputs knows which photos come first.
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
        return in_chunks(_found(source, self.options), source.input)

    def _first(self, inputs: Iterable[str]) -> Iterator[Listed]:
        return list_parts(inputs, self.options, self.limit)


def check(uri: str, options: ListOptions) -> None:
    """Checks that an input exists, that its kind is known and, for a glob, that a file matches it.

    Raises:
      InputError: the input does not exist, nothing matches it, or its kind is unknown.
    """
    if detect.source_of(uri, options).kind == "glob" and next(stores.matching(uri), None) is None:
        raise InputError(f"nothing matches {uri}")


def sources(inputs: Iterable[str], options: ListOptions) -> Iterator[Source]:
    """Finds out the kind of each input.

    Raises:
      InputError: an input does not exist, or its kind is unknown.
    """
    for uri in inputs:
        yield detect.source_of(uri, options)._replace(input=uri)


def list_photos(inputs: Iterable[str], options: ListOptions | None = None) -> Iterator[PhotoRef]:
    """Lists the photos of the inputs, one input after another.

    Args:
      inputs: folders (with everything below them), globs, photos, lists and archives, local or on any filesystem that
        Beam knows.
      options: which files to list.

    Yields:
      Each photo, and each file or folder that can't be examined: reading it reports why. A photo that two inputs
      contain comes twice.

    Raises:
      InputError: an input does not exist, or its kind is unknown.
    """
    for part in list_parts(inputs, options or ListOptions()):
        yield from part.photos


def list_parts(inputs: Iterable[str], options: ListOptions, limit: int | None = None) -> Iterator[Listed]:
    """Lists the photos of the inputs in parts, one input after another; raises what `list_photos` raises.

    Args:
      inputs: as for `list_photos`.
      options: which files to list.
      limit: number of photos after which the listing ends; None for no limit. No part belongs to an input that is not
        reached.
    """
    left = limit
    for source in sources(inputs, options):
        if left == 0:
            return
        for part in in_chunks(_first(list_source(source, options), left), source.input):
            yield part
            left = None if left is None else left - len(part.photos)


def _first(listed: Iterator[PhotoRef | Ignored], photos: int | None) -> Iterator[PhotoRef | Ignored]:
    """The beginning of a listing, up to a number of photos; all of it for None."""
    for found in listed:
        yield found
        if photos is not None and isinstance(found, PhotoRef):
            photos -= 1
            if photos == 0:
                return


def list_source(source: Source, options: ListOptions) -> Iterator[PhotoRef | Ignored]:
    """Lists the photos of one source, and the kinds of its ignored files."""
    for found in _found(source, options):
        if isinstance(found, Source):
            yield from list_source(found, options)
        else:
            yield found


def _found(source: Source, options: ListOptions) -> Iterator[PhotoRef | Ignored | Source]:
    """Lists a source as `list_source` does, but yields the containers that match a glob without listing them."""
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
    """Passes the members of a container on; if listing them raises, yields a failure of the container itself."""
    try:
        yield from members
    except (NoCredentialsError, BeamscribeError):
        # The machine lacks something that all such containers need: no fault of this one.
        raise
    except Exception as error:  # noqa: BLE001 - a damaged container must not fail photos of other inputs
        yield PhotoRef(uri, etag="", failure=failures.of_error(Stage.LIST, error))


def in_chunks(listed: Iterator[PhotoRef | Ignored | Source], uri: str = "") -> Iterator[Listed]:
    """Groups a listing into parts of at most `CHUNK` photos and containers; an empty listing gives one empty part.

    Args:
      listed: the listing of a source.
      uri: the input that the source belongs to.
    """
    while True:
        photos: list[PhotoRef] = []
        containers: list[Source] = []
        ignored: collections.Counter[str] = collections.Counter()
        for found in listed:
            if isinstance(found, Ignored):
                ignored[found.kind] += 1
                continue
            if isinstance(found, Source):
                containers.append(found._replace(input=uri))
            else:
                photos.append(found)
            if len(photos) + len(containers) == CHUNK:
                break
        else:
            yield Listed(tuple(photos), dict(ignored), tuple(containers), uri)
            return
        yield Listed(tuple(photos), dict(ignored), tuple(containers), uri)

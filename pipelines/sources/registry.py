"""The kinds of containers. One module per kind lists and reads the photos in a container."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from beamscribe.pipelines.failures import Failure
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import parquets, tars, tfrecords, zips
from beamscribe.pipelines.sources.base import Ignored, ListOptions


class Container(Protocol):
    """The interface of a module for a kind of container."""

    def members(self, uri: str, options: ListOptions) -> Iterator[PhotoRef | Ignored]:
        """Lists the photos of a container; if it is damaged, yields a failure of the container itself, too."""

    def read(self, uri: str, refs: Sequence[PhotoRef], options: ListOptions) -> Iterator[bytes | Failure]:
        """Reads members of a container.

        Args:
          uri: URI of the container.
          refs: references to the members, sorted by `place`.
          options: how containers are read.

        Yields:
          The bytes or the failure of each member, in order.
        """


# The keys are the values of `PhotoRef.format` and `Source.kind`.
CONTAINERS: Mapping[str, Container] = {"tar": tars, "zip": zips, "tfrecord": tfrecords, "parquet": parquets}

"""The transform `CaptionPhotos`: captions photos in anyone's pipeline."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.io.fileio import ReadableFile
from apache_beam.io.filesystem import FileMetadata
from apache_beam.ml.inference.base import RunInference
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beamscribe.model import caption_settings
from beamscribe.model.errors import text
from beamscribe.pipelines import bundle_cache, captioning, counters
from beamscribe.pipelines.captioning import Captioning, LazyModel
from beamscribe.pipelines.images.to_pixels import MAX_PIXELS
from beamscribe.pipelines.inference import PhotoStream, ShardHandler
from beamscribe.pipelines.photos import CaptionRow, PhotoRef, Shard
from beamscribe.pipelines.sources.photo_reader import ReadOptions
from beamscribe.pipelines.stores import uris

# What names a photo.
Named = str | os.PathLike | PhotoRef | FileMetadata | ReadableFile


@dataclasses.dataclass
class CaptionPhotos(beam.PTransform):
    """Captions photos in a pipeline: takes paths, gives a row for each of them.

    The transform writes nothing. It groups the elements of each window into shards, and a worker reads, decodes and
    captions the photos of a shard together. Each row is in the window of its element and has its timestamp. For a
    photo that fails, the row has the status `failed` and says why. An element that comes twice gives two rows.

    Each element names a photo: it is a path or a URI (`str` or `os.PathLike`), a `PhotoRef`, or what
    `fileio.MatchFiles` or `fileio.ReadMatches` gives. The `photo` of a row is the path as the element gives it. Where
    captions are drawn (`top_p`), they depend on that path and the seed.

    The model is loaded on workers, once per process; only the path of its bundle, its fingerprint and the settings are
    pickled. The counters in Beam's metrics have the namespace `beamscribe`.

    Attributes:
      bundle: folder of the model bundle, local or, with its digest, `gs://…@sha256:…`; None for the bundle in the
        package. Every worker must find the same bundle there.
      settings: changes to the bundle's caption settings, such as `{"beam_width": 5}`.
      alternatives: number of captions to write in addition to the best one.
      batch_size: number of photos in one call of the model.
      max_pixels: width × height above which a photo is refused.
      shard_size: largest number of photos that a worker takes at a time. With fewer, more workers share few photos.
      accelerator: Beam's resource hint `accelerator` for the step that runs the model; None for no GPU.

    Raises:
      InputError: when the transform is made, there is no bundle, its digest is missing or another one, or an argument
        is of another type or out of range.
      BeamscribeError: when the transform is made, the bundle is damaged or can't be read.
      TypeError: on a worker, an element does not name a photo.

    Example:
      >>> import apache_beam as beam
      >>> with beam.Pipeline("FnApiRunner") as pipeline:
      ...   _ = (
      ...     pipeline
      ...     | beam.Create(["photos/astronaut.jpg"])
      ...     | beamscribe.CaptionPhotos()
      ...     | beam.Map(lambda row: print(row.photo, row.caption, sep=": "))
      ...   )
      photos/astronaut.jpg: a man in a red shirt is standing in front of a crowd
    """

    bundle: str | os.PathLike[str] | None = None
    _: dataclasses.KW_ONLY
    settings: Mapping[str, Any] | None = None
    alternatives: int = 0
    batch_size: int = 32
    max_pixels: int = MAX_PIXELS
    shard_size: int = 512
    accelerator: str | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self._shard_size = caption_settings.whole_number("shard_size", self.shard_size, least=1)
        bundle = bundle_cache.located(self.bundle)
        chosen = captioning.checked(
            bundle,
            bundle_cache.described(bundle),
            self.settings,
            self.alternatives,
            self.batch_size,
            self.max_pixels,
        )
        self._captioning = dataclasses.replace(chosen, accelerator=text("accelerator", self.accelerator))

    def expand(self, photos: beam.PCollection[Named]) -> beam.PCollection[CaptionRow]:
        """Returns the rows of the photos, in any order."""
        return (
            photos
            | "Shards" >> beam.ParDo(_IntoShards(self._shard_size)).with_output_types(_Photos)
            | "Reshuffle" >> beam.Reshuffle()
            | "Caption"
            >> RunInference(_Handler(self._captioning).with_no_batching()).with_resource_hints(**self._captioning.hints)
            | "Timestamps" >> beam.ParDo(_WithTimestamps()).with_output_types(CaptionRow)
        )


@dataclasses.dataclass(frozen=True)
class _Photos(PhotoStream):
    """Photos of one window, each once, and the timestamps of all elements that name each of them."""

    timestamps: tuple[tuple[Timestamp, ...], ...]


class _IntoShards(beam.DoFn):
    """Groups the photos of a bundle of elements, by windows, into shards.

    Args:
      size: largest number of photos in a shard.
    """

    def __init__(self, size: int):
        self._size = size
        self._open: dict[BoundedWindow, dict[PhotoRef, list[Timestamp]]] = {}

    def start_bundle(self) -> None:
        """Begins with no open shards."""
        self._open = {}

    def process(
        self, element: Any, window: Any = beam.DoFn.WindowParam, timestamp: Any = beam.DoFn.TimestampParam
    ) -> Iterator[WindowedValue]:
        """Adds a photo to the open shard of its window, and yields the shard when it is full."""
        photos = self._open.setdefault(window, {})
        photos.setdefault(reference(element), []).append(timestamp)
        if len(photos) == self._size:
            yield _shard(self._open.pop(window), window)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yields the shards that are not full."""
        for window, photos in self._open.items():
            yield _shard(photos, window)


def _shard(photos: Mapping[PhotoRef, list[Timestamp]], window: BoundedWindow) -> WindowedValue:
    # Members of a container are read together, in the order of their places.
    refs = sorted(photos, key=lambda ref: (ref.container, ref.place))
    stream = _Photos(Shard(0, tuple(refs)), tuple(tuple(photos[ref]) for ref in refs))
    # With the earliest timestamp, the shard holds the watermark back until the rows of all its photos are out.
    return WindowedValue(stream, min(map(min, stream.timestamps)), (window,))


def reference(element: Any) -> PhotoRef:
    """A reference to the photo that an element names. Its version is unknown, unless the element is a reference.

    Raises:
      TypeError: the element does not name a photo.
    """
    if isinstance(element, PhotoRef):
        # Duplicates of other photos are read, too: each element has its row.
        return element._replace(same_as="")
    if isinstance(element, ReadableFile):
        element = element.metadata
    path = element.path if isinstance(element, FileMetadata) else element
    if not isinstance(path, str | os.PathLike):
        known = "paths, and what fileio.MatchFiles or fileio.ReadMatches gives"
        raise TypeError(f"CaptionPhotos takes {known}, not {type(path).__name__}")
    # A plain string: types that derive from `str`, such as NumPy's, need not be known where the rows are read.
    return PhotoRef(uris.local_uri(str.__str__(os.fsdecode(path))), etag="")


class _Handler(ShardHandler[tuple[Timestamp, CaptionRow], LazyModel]):
    """Captions a shard.

    Args:
      captioning: how photos are captioned.
    """

    def __init__(self, captioning: Captioning):
        self._captioning = captioning

    def load_model(self) -> LazyModel:
        """The model, which is loaded when the first photo needs it; Beam calls this once per process."""
        return LazyModel(self._captioning)

    def run_shard(self, stream: PhotoStream, model: LazyModel) -> Iterable[tuple[Timestamp, CaptionRow]]:
        """Reads and captions one shard.

        Yields:
          A row for each element, with the element's timestamp.
        """
        assert isinstance(stream, _Photos)
        read = ReadOptions(self._captioning.sources, self._captioning.max_pixels, look_up=True)
        photos = stream.pictures(model.image_size, read)
        rows = captioning.rows(photos, model, self._captioning)
        for row, timestamps in zip(rows, stream.timestamps, strict=True):
            for timestamp in timestamps:
                counters.count_row(row.status, row.error)
                yield timestamp, row


class _WithTimestamps(beam.DoFn):
    """Gives each row the timestamp of its element, in the window of its shard."""

    def process(
        self, found: tuple[Timestamp, CaptionRow], window: Any = beam.DoFn.WindowParam
    ) -> Iterator[WindowedValue]:
        """Yields the row. A `TimestampedValue` would be put into windows anew: into several, where they overlap."""
        timestamp, row = found
        yield WindowedValue(row, timestamp, (window,))

"""Captions photos in this process: `load()`. Imports no Beam."""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from PIL import Image

from beamscribe.model.bundle import Description
from beamscribe.model.caption_settings import CaptionSettings
from beamscribe.model.captioners import exported_model
from beamscribe.model.errors import BeamscribeError, InputError, one_line
from beamscribe.pipelines import bundle_cache, captioning, failures, stores
from beamscribe.pipelines.captioning import Captioning, LazyModel
from beamscribe.pipelines.failures import Failure, Stage
from beamscribe.pipelines.images import process_pool, to_pixels
from beamscribe.pipelines.images.pictures import Picture
from beamscribe.pipelines.images.to_pixels import MAX_PIXELS
from beamscribe.pipelines.photos import Alternative, PhotoRef
from beamscribe.pipelines.sources import files, reading
from beamscribe.pipelines.sources.photo_reader import Photo, chunks
from beamscribe.pipelines.stores import local
from beamscribe.pipelines.stores.base import NoCredentialsError

# A photo as a caller has it: a path or URI, the bytes of an image file, or an image of Pillow.
Given = str | os.PathLike | bytes | bytearray | memoryview | Image.Image

# Bytes of a pixel in Pillow's memory.
_PIXEL_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Caption:
    """The caption of a photo, or the reason why it has none.

    Attributes:
      text: the best caption; None if the photo failed.
      score: the caption's mean log-probability per token, in nats; None if the photo failed.
      alternatives: the next-best captions with their scores, best first.
      failure: the stage in which the photo failed, the error code and a message; None if the photo has a caption.
      width, height: size of the upright photo, pixels; None if unknown.

    Example:
      >>> model = beamscribe.load()
      >>> found, missing = model.caption(["photos/astronaut.jpg", "photos/nothing.jpg"])
      >>> found.width, found.height, found.failure
      (512, 512, None)
      >>> missing.text, missing.failure.error
      (None, <ErrorCode.NOT_FOUND: 'not_found'>)
    """

    text: str | None
    score: float | None
    alternatives: tuple[Alternative, ...]
    failure: Failure | None
    width: int | None
    height: int | None


def load(bundle: str | os.PathLike[str] | None = None) -> "Captioner":
    """Loads a model that captions photos in this process.

    Args:
      bundle: folder of a model bundle, local or, with its digest, `gs://…@sha256:…`; None for that of the package.

    Returns:
      The loaded model. Several can be loaded side by side.

    Raises:
      InputError: the folder is not a bundle, or its digest is missing or another one.
      BeamscribeError: the bundle is damaged, does more than compute, or can't be read or fetched.

    Example:
      >>> model = beamscribe.load()
      >>> model.caption(["photos/astronaut.jpg"])[0].text
      'a man in a red shirt is standing in front of a crowd'
    """
    uri = bundle_cache.located(bundle)
    description = bundle_cache.described(uri)
    choices = captioning.checked(uri, description)
    model = LazyModel(choices)
    model.loaded()
    return Captioner(uri, description, model)


class Captioner:
    """A loaded model, which captions photos in this process. `beamscribe.load` makes it.

    Image files are decoded by a pool of processes that all captioners share and that ends with this process: a photo
    that crashes a codec fails alone. Several threads may use a captioner at once.

    Attributes:
      name: name of the model.
      fingerprint: fingerprint of the model; it is in the column `model` of the rows that a job writes.
      settings: caption settings of the model, which `caption` can change for a call.
      image_size: height and width to which photos are resized for the model, pixels.

    Example:
      >>> model = beamscribe.load()
      >>> with open("photos/astronaut.jpg", "rb") as file:
      ...   data = file.read()
      >>> caption, = model.caption([data], settings={"beam_width": 5}, alternatives=2)
      >>> len(caption.alternatives)
      2
    """

    def __init__(self, bundle: str, description: Description, model: LazyModel):
        self._bundle = bundle
        self._description = description
        self._model = model
        self.name: str = description.name
        self.fingerprint: str = description.fingerprint
        self.settings: CaptionSettings = description.settings
        self.image_size: int = description.image_size

    def __repr__(self) -> str:
        bundle = self._bundle or "the bundle in the package"
        return f"<Captioner {self.name} {self.fingerprint}, {bundle}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a loaded model can't be pickled; load it where it is used, or use beamscribe.CaptionPhotos")

    def caption(
        self,
        photos: Iterable[Given],
        *,
        settings: Mapping[str, Any] | None = None,
        alternatives: int = 0,
        batch_size: int = 32,
        max_pixels: int = MAX_PIXELS,
    ) -> list[Caption]:
        """Captions photos.

        Photos are read and decoded ahead of the model, a few batches at most, so `photos` may be a generator.

        Args:
          photos: paths or URIs of image files, bytes of image files, or images of Pillow, which stay as they are.
          settings: changes to the model's caption settings, such as `{"beam_width": 5}`: `beam_width`, `max_length`,
            `min_length`, `length_penalty`, `no_repeat_ngram`, `top_p`, `temperature` and `seed`. Where captions are
            drawn (`top_p`), those of a path depend on its absolute form and the seed; those of bytes and images, on
            the content and the seed.
          alternatives: number of captions to return in addition to the best one.
          batch_size: number of photos in one call of the model.
          max_pixels: width × height above which a photo is refused.

        Returns:
          A caption for each photo, in order. A photo that can't be read, decoded or captioned has a `failure`.

        Raises:
          InputError: an argument is of another type or out of range, or a photo is of none of the types above.
          BeamscribeError: there are no credentials for a store, or this process was forked after a model was loaded.
        """
        return list(
            self.captions(
                photos, settings=settings, alternatives=alternatives, batch_size=batch_size, max_pixels=max_pixels
            )
        )

    def captions(
        self,
        photos: Iterable[Given],
        *,
        settings: Mapping[str, Any] | None = None,
        alternatives: int = 0,
        batch_size: int = 32,
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[Caption]:
        """Captions photos as `caption` does, and yields each caption as soon as its batch is done.

        It takes photos from `photos` only a few batches before it yields their captions. Arguments and errors are those
        of `caption`; an error of the arguments is raised at once.
        """
        exported_model.check_process()
        choices = captioning.checked(self._bundle, self._description, settings, alternatives, batch_size, max_pixels)
        return self._captions(_iterated(photos), choices)

    def _captions(self, photos: Iterator[Any], choices: Captioning) -> Iterator[Caption]:
        try:
            for photo, result in captioning.captions(self._pictures(photos, choices), self._model, choices):
                assert result is not None, "no photo is known where nothing is expected"
                yield _caption(photo.picture, result, choices.alternatives)
        except NoCredentialsError as error:
            raise BeamscribeError(one_line(error)) from None

    def _pictures(self, photos: Iterator[Any], choices: Captioning) -> Iterator[Photo]:
        """Reads photos and converts them to pixels, a few chunks ahead of the model."""
        pool = process_pool.shared()
        # Threads only read files and wait: two more threads than processes keep every process busy.
        ahead = pool.workers + 2
        with concurrent.futures.ThreadPoolExecutor(ahead, thread_name_prefix="caption") as threads:
            pending: collections.deque[concurrent.futures.Future[list[Photo]]] = collections.deque()
            try:
                for chunk in chunks(map(_taken, photos, itertools.count()), choices.batch_size):
                    pending.append(threads.submit(_converted, chunk, self.image_size, choices.max_pixels))
                    if len(pending) > ahead:
                        yield from pending.popleft().result()
                while pending:
                    yield from pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()


class _Taken(NamedTuple):
    """A photo that was taken from the caller.

    Attributes:
      ref: reference to the photo; its name is empty if the caller gave its content.
      content: bytes of the image file, or the image of Pillow; None if it must be read.
      size: size in bytes, of an image of Pillow that in Pillow's memory; 0 if unknown.
    """

    ref: PhotoRef
    content: bytes | Image.Image | None
    size: int


def _iterated(photos: Any) -> Iterator[Any]:
    if isinstance(photos, Given):
        raise InputError("`photos` must be a list or another iterable of photos; for one photo, give [photo]")
    try:
        return iter(photos)
    except TypeError:
        raise InputError(
            f"`photos` must be a list or another iterable of photos, not {type(photos).__name__}"
        ) from None


def _taken(photo: Any, index: int) -> _Taken:
    if isinstance(photo, str | os.PathLike):
        try:
            uri = os.fsdecode(photo)
        except TypeError as error:
            raise InputError(f"`photos`: item {index} is no path: {one_line(error)}") from None
        if not stores.is_local(uri):
            return _Taken(PhotoRef(uri, etag=""), None, 0)
        # The name that a job gives the photo.
        ref = files.list_photo(local.absolute(uri))
        return _Taken(ref, None, ref.size)
    if isinstance(photo, bytes | bytearray | memoryview):
        try:
            data = bytes(photo)
        except ValueError:
            raise InputError(f"`photos`: item {index} is a memoryview that was released; give its bytes") from None
        return _Taken(PhotoRef("", etag=""), data, len(data))
    if isinstance(photo, Image.Image):
        return _Taken(PhotoRef("", etag=""), photo, _PIXEL_BYTES * photo.width * photo.height)
    kinds = "paths, bytes of image files, or images of Pillow"
    raise InputError(f"`photos`: item {index} is of the type {type(photo).__name__}; give {kinds}")


def _converted(taken: list[_Taken], size: int, max_pixels: int) -> list[Photo]:
    """Reads photos and converts them to pixels: bytes in an image process, images of Pillow in this thread."""
    contents = [
        reading.read_photo(files.looked_up(photo.ref)) if photo.content is None else photo.content for photo in taken
    ]
    data = [content for content in contents if isinstance(content, bytes)]
    pictures = iter(process_pool.shared().convert(data, size, max_pixels))

    def picture(content: bytes | Image.Image | Failure) -> Picture:
        if isinstance(content, bytes):
            return next(pictures)
        if isinstance(content, Failure):
            return Picture(None, failure=content)
        converted = to_pixels.convert_image(content, size, max_pixels)
        if converted.fault:
            failures.log_remote_fault(Stage.DECODE, converted.fault)
        return converted

    found = [Photo(photo.ref, picture(content)) for photo, content in zip(taken, contents, strict=True)]
    # The name that randomness depends on.
    return [
        photo._replace(ref=photo.ref._replace(photo=photo.ref.photo or photo.picture.sha256 or "")) for photo in found
    ]


def _caption(picture: Picture, result: list[Alternative] | Failure, alternatives: int) -> Caption:
    if isinstance(result, Failure):
        return Caption(None, None, (), result, picture.width, picture.height)
    best, *others = result
    return Caption(best.caption, best.score, tuple(others[:alternatives]), None, picture.width, picture.height)

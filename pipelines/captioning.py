"""What captions photos, in a job, in anyone's pipeline and in a process of its own: the choices, and photos to rows.

Imports no Beam.
"""

import dataclasses
import datetime
import functools
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beamscribe.model import bundle, caption_settings
from beamscribe.model.bundle import Description
from beamscribe.model.caption_settings import CaptionSettings, draws
from beamscribe.model.captioners.exported_model import CaptionModel
from beamscribe.pipelines import bundle_cache
from beamscribe.pipelines.batches import infer
from beamscribe.pipelines.failures import Failure
from beamscribe.pipelines.images.to_pixels import MAX_PIXELS
from beamscribe.pipelines.photos import CAPTIONED, FAILED, MODEL, Alternative, CaptionRow
from beamscribe.pipelines.sources.base import ListOptions
from beamscribe.pipelines.sources.photo_reader import Photo

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captioning:
    """With which model and how photos are captioned.

    Attributes:
      bundle: folder of the model bundle, local or remote; empty for the bundle in the package.
      model: fingerprint of the bundle.
      settings: how captions are searched for or sampled.
      alternatives: number of captions to write in addition to the best one.
      batch_size: number of photos in one call of the model.
      max_pixels: width × height above which a photo is refused.
      sources: how photos in containers are read.
      accelerator: resource hint for the step that runs the model, or None.
    """

    bundle: str
    model: str
    settings: CaptionSettings
    alternatives: int = 0
    batch_size: int = 32
    max_pixels: int = MAX_PIXELS
    sources: ListOptions = ListOptions()
    accelerator: str | None = None

    @property
    def hints(self) -> dict[str, str]:
        """Beam's resource hints for the step that runs the model."""
        return {"accelerator": self.accelerator} if self.accelerator else {}

    @property
    def settings_fingerprint(self) -> str:
        """The fingerprint of all settings that affect a row."""
        return f"{self.settings.fingerprint},alternatives={self.alternatives}"


def checked(
    bundle: str,
    model: Description,
    settings: Mapping[str, Any] | None = None,
    alternatives: int = 0,
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
) -> Captioning:
    """Checks what a caller asks for.

    Args:
      bundle: URI of the bundle, as `bundle_cache.located` returns it.
      model: the bundle's description.
      settings: changes to the bundle's settings; see `caption_settings.chosen`.
      alternatives, batch_size, max_pixels: as in `Captioning`.

    Raises:
      InputError: an argument is of another type or out of range.
    """
    chosen = caption_settings.chosen(settings, model.settings, model.longest)
    return Captioning(
        bundle=bundle,
        model=model.fingerprint,
        settings=chosen,
        alternatives=caption_settings.check_alternatives(alternatives, chosen),
        batch_size=caption_settings.whole_number("batch_size", batch_size, least=1),
        max_pixels=caption_settings.whole_number("max_pixels", max_pixels, least=1),
    )


class LazyModel:
    """A bundle's model, which is loaded when the first photo needs it.

    Args:
      captioning: names the bundle.
    """

    def __init__(self, captioning: Captioning):
        self._captioning = captioning
        self._lock = threading.Lock()
        self._model: CaptionModel | None = None

    @functools.cached_property
    def _folder(self) -> Path:
        return bundle_cache.fetched(self._captioning.bundle, self._captioning.model)

    @property
    def image_size(self) -> int:
        """Height and width of the photos that the model takes, pixels.

        Raises:
          BeamscribeError: as for `loaded`.
        """
        return bundle.describe(self._folder).image_size

    @property
    def engine(self) -> str | None:
        """What runs the model; None while it is not loaded."""
        return self._model.engine if self._model else None

    def loaded(self) -> CaptionModel:
        """Loads the model; fetches its bundle if that is remote.

        Raises:
          BeamscribeError: the bundle has another fingerprint, is damaged, or can't be fetched.
        """
        with self._lock:
            if self._model is None:
                _LOGGER.info("process %d loads the model", os.getpid())
                self._model = CaptionModel(self._folder)
            return self._model


def captions(
    photos: Iterable[Photo], model: LazyModel, captioning: Captioning
) -> Iterator[tuple[Photo, list[Alternative] | Failure | None]]:
    """Captions photos in batches.

    Args:
      photos: photos with their pixels or failures, or known ones.
      model: the model, which is loaded for the first photo with pixels.
      captioning: how to caption.

    Yields:
      Each photo, in order, with its captions, best first, or its failure; None for a known one.

    Raises:
      BeamscribeError: the model can't be loaded.
    """

    def caption(images: np.ndarray, names: list[str]) -> list[list[Alternative]]:
        settings, loaded = captioning.settings, model.loaded()
        uniforms = draws(names, settings, 1 + captioning.alternatives, loaded.longest)
        texts, scores = loaded.caption(images, settings, uniforms)
        found = [
            [Alternative(str(text), float(score)) for text, score in zip(*of_photo, strict=True)]
            for of_photo in zip(texts, scores, strict=True)
        ]
        if not all(found):
            raise RuntimeError("the model gave no caption for a photo")
        return found

    return infer(_loading(photos, model), caption, captioning.batch_size)


def _loading(photos: Iterable[Photo], model: LazyModel) -> Iterator[Photo]:
    """Passes photos on, and loads the model before the first one that needs it: what prevents that fails no photo."""
    for photo in photos:
        if photo.picture.pixels is not None:
            model.loaded()
        yield photo


def rows(photos: Iterable[Photo], model: LazyModel, captioning: Captioning) -> Iterator[CaptionRow]:
    """Captions photos in batches, and yields the row of each photo, in order; arguments are those of `captions`."""
    for photo, result in captions(photos, model, captioning):
        assert result is not None, "no photo is known where nothing is expected"
        yield row(photo, result, captioning, model.engine)


def row(
    photo: Photo, result: list[Alternative] | Failure, captioning: Captioning, engine: str | None = None
) -> CaptionRow:
    """Makes the output row of a photo.

    Args:
      photo: the photo with its pixels or its failure.
      result: captions of the photo, best first, or its failure.
      captioning: how the photo was captioned.
      engine: what ran the model; None where no model has run.
    """
    ref, picture = photo.ref, photo.picture
    failure = result if isinstance(result, Failure) else None
    found = [] if isinstance(result, Failure) else result
    return CaptionRow(
        photo=ref.photo,
        etag=ref.etag,
        bytes=photo.bytes,
        sha256=picture.sha256,
        image_sha256=picture.image_sha256,
        width=picture.width,
        height=picture.height,
        orientation=picture.orientation,
        taken_at=picture.taken_at,
        description=picture.description,
        status=FAILED if failure else CAPTIONED,
        caption=found[0].caption if found else None,
        score=found[0].score if found else None,
        alternatives=tuple(found[1 : captioning.alternatives + 1]),
        perceptual_hash=picture.perceptual_hash,
        stage=failure.stage if failure else None,
        error=failure.error if failure else None,
        message=failure.message if failure else None,
        model=captioning.model,
        engine=engine if found else None,
        settings=captioning.settings_fingerprint,
        source=MODEL if found else None,
        written_at=datetime.datetime.now(datetime.UTC),
    )

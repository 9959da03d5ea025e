"""The model bundle: the one folder that a captioning worker loads. Written by training, read by workers.

Imports no TensorFlow: `beamscribe.model.saved_model` writes the model inside, and
`beamscribe.model.captioners.exported_model` captions with it.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import pydantic
import pydantic_core

from beamscribe.model import caption_settings, folder_lock
from beamscribe.model.caption_settings import CaptionSettings
from beamscribe.model.documents import Document
from beamscribe.model.errors import BeamscribeError, InputError
from beamscribe.model.recipe import CaptionLength, ImageSize, Recipe
from beamscribe.model.words.vocabulary import Vocabulary

DEFAULT = Path(__file__).parent / "default_bundle"

DESCRIPTION = "bundle.json"
SAVED_MODEL = "saved_model"
RECIPE = "recipe.yaml"
VOCABULARY = "vocabulary.txt"
METRICS = "metrics.json"
CARD = "MODEL_CARD.md"
# What the captions depend on: not the figures, nor the card.
_CONTENT = (SAVED_MODEL, RECIPE, VOCABULARY)


class Description(Document):
    """What `bundle.json` says.

    Attributes:
      fingerprint: names the weights, the recipe and the vocabulary, in rows; another export of them keeps it. In
        bundles of the first form, it is the digest of the files.
      name: of the recipe.
      image_size: height and width of the photos that the model takes, pixels.
      longest: most words that a caption can have.
      settings: the default caption settings.
      files: digest of the files that the captions depend on; None in bundles of the first form.
    """

    VERSION: ClassVar[int] = 2
    REMEDY: ClassVar[str] = "get the bundle again"

    # It names a folder of caches.
    fingerprint: Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{16}$")]
    name: str
    image_size: ImageSize
    longest: CaptionLength
    settings: CaptionSettings
    files: str | None = None

    @pydantic.field_validator("settings")
    @classmethod
    def _allowed(cls, settings: CaptionSettings, info: pydantic.ValidationInfo) -> CaptionSettings:
        """Checks the settings as if a caller had asked for them."""
        asked = {name: value for name, value in settings._asdict().items() if name not in settings.idle}
        try:
            # Where the longest caption is wrong, that is the error.
            return caption_settings.chosen(asked, settings, info.data.get("longest", settings.max_length))
        except InputError as error:
            raise pydantic_core.PydanticCustomError("setting", "{problem}", {"problem": str(error)}) from None

    @pydantic.field_serializer("settings")
    def _as_object(self, settings: CaptionSettings) -> dict[str, Any]:
        return settings._asdict()


def is_bundle(path: str) -> bool:
    """Whether a path is that of a bundle's folder."""
    return (Path(path) / DESCRIPTION).is_file()


def describe(folder: Path) -> Description:
    """Reads what a bundle says of itself, and checks that its files are those that were written.

    Raises:
      InputError: the folder is no bundle.
      BeamscribeError: a file of the bundle is missing or changed.
    """
    path = folder / DESCRIPTION
    try:
        description = Description.from_json(path.read_bytes(), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} is not a model bundle: it has no {DESCRIPTION}") from None
    found = _digest_of_files(folder)
    # The first form has the beginning of the digest.
    if (found[:16] if description.files is None else found) != (description.files or description.fingerprint):
        raise BeamscribeError(
            f"the bundle {folder} is damaged: its files have changed since it was written; get it again"
        )
    return description


def restore(folder: Path, encoder: Any = None, decoder: Any = None) -> None:
    """Gives models the weights of a bundle of models of the same shape.

    Args:
      folder: of the bundle.
      encoder: the `keras.Model` that gets the encoder's weights; None for none.
      decoder: the `Decoder` that gets the decoder's weights; None for none.

    Raises:
      InputError: the folder is no bundle, or its models have other shapes.
      BeamscribeError: the bundle is damaged.
    """
    from beamscribe.model import saved_model

    describe(folder)
    saved_model.restore(folder / SAVED_MODEL, encoder, decoder)


def digest(folder: Path) -> str:
    """SHA-256 of all files of a bundle that are loaded, hexadecimal: what a pin is compared with.

    Raises:
      BeamscribeError: a folder of the bundle is a link.
      OSError: a file can't be read.
    """
    return digest_of({name: hashlib.sha256(path.read_bytes()).digest() for name, path in _loaded_files(folder).items()})


def _loaded_files(folder: Path) -> dict[str, Path]:
    """The files of a bundle that are loaded, by their names below its folder.

    Raises:
      BeamscribeError: one of the folders is a link: what is behind it would be loaded, and be in no digest.
    """
    names = ((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*"))
    found = {name: path for name, path in names if is_loaded(name)}
    for path in found.values():
        if path.is_symlink() and path.is_dir():
            raise BeamscribeError(f"{path} is a link to a folder, which a bundle can't have; copy the folder itself")
    return {name: path for name, path in found.items() if path.is_file()}


def digest_of(digests: Mapping[str, bytes]) -> str:
    """The digest of a bundle, given the SHA-256 of each file that is loaded, by the file's name below the folder."""
    whole = hashlib.sha256()
    for name in sorted(digests):
        whole.update(f"{name}\0".encode("utf-8", "surrogateescape"))
        whole.update(digests[name])
    return whole.hexdigest()


def is_loaded(name: str) -> bool:
    """Whether a file of a bundle, by its name below the folder, is loaded: the card and the figures are not."""
    return name.partition("/")[0] in (DESCRIPTION, *_CONTENT)


def _digest_of_files(folder: Path) -> str:
    """The digest of the files that the captions depend on."""
    whole = hashlib.sha256()
    files = _loaded_files(folder)
    for top in _CONTENT:
        for path in sorted(path for name, path in files.items() if name.partition("/")[0] == top):
            whole.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def _fingerprint(recipe: str, networks: Sequence[Any], vocabulary: bytes) -> str:
    """The name of weights, a recipe and a vocabulary.

    Args:
      recipe: as YAML.
      networks: whose weights are meant, as they are stored: in float16.
      vocabulary: its file.
    """
    import numpy as np

    whole = hashlib.sha256()
    for data in (recipe.encode(), vocabulary):
        whole.update(hashlib.sha256(data).digest())
    for network in networks:
        for weight in network.weights:
            values = np.asarray(weight.value).astype(np.float16)
            whole.update(f"{values.shape}\0".encode())
            whole.update(values.tobytes())
    return whole.hexdigest()[:16]


class BundleWriter:
    """Writes a bundle beside its place, and moves it there when it is whole.

    What a process that was killed has left there is deleted by the next one that writes a bundle to this place.

    Attributes:
      path: the folder in which the bundle is written.

    Args:
      folder: the bundle's place.

    Raises:
      InputError: on entering, the bundle's place is taken.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.path = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
        self._lock: int | None = None

    def __enter__(self) -> Self:
        if self._folder.exists():
            raise InputError(f"{self._folder} is there already; delete it or choose another place for the bundle")
        self._clean_up()
        self.path.mkdir(parents=True)
        self._lock = folder_lock.take(self.path)
        return self

    def __exit__(self, error: Any, *_: object) -> None:
        try:
            if error is None:
                self.path.rename(self._folder)
            else:
                shutil.rmtree(self.path)
        finally:
            if self._lock is not None:
                os.close(self._lock)

    def _clean_up(self) -> None:
        others = re.compile(rf"\.{re.escape(self._folder.name)}\.[0-9a-f]{{32}}")
        parent = self._folder.parent
        found = list(parent.iterdir()) if parent.is_dir() else []
        folder_lock.delete_left_over(path for path in found if others.fullmatch(path.name))

    def add_model(
        self, recipe: Recipe, encoder: Any, decoder: Any, vocabulary: Vocabulary, fingerprint: str | None = None
    ) -> None:
        """Exports the model and writes what goes with it, but for the figures and the card.

        Args:
          recipe: what the model was made by.
          encoder: a `keras.Model` from photos to features.
          decoder: the `Decoder` of these features.
          vocabulary: the decoder's.
          fingerprint: what rows of an earlier export of the same model have; None where there is none.

        Raises:
          BeamscribeError: the model has an operation that `safe_loading` does not allow.
        """
        from beamscribe.model import saved_model

        saved_model.save(self.path / SAVED_MODEL, encoder, decoder, vocabulary)
        vocabulary.save(self.path / VOCABULARY)
        (self.path / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
        words = (self.path / VOCABULARY).read_bytes()
        description = Description(
            fingerprint=fingerprint or _fingerprint(recipe.to_yaml(), (encoder, decoder), words),
            name=recipe.name,
            image_size=recipe.encoder.image_size,
            longest=recipe.words.max_words,
            settings=CaptionSettings(**recipe.search.model_dump()),
            files=_digest_of_files(self.path),
        )
        (self.path / DESCRIPTION).write_bytes(description.to_json())

    def add_metrics(self, metrics: dict[str, Any], card: str) -> None:
        """Writes how well the model does, and its card."""
        (self.path / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        (self.path / CARD).write_text(card, encoding="utf-8")

"""The model bundle: the one folder that a captioning worker loads. Written by training, read by workers."""

import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.errors import UserError
from model.quiet import quiet_imports
from model.recipe import Recipe
from model.vocabulary import Vocabulary

DEFAULT = Path(__file__).parent / "default_bundle"

_DESCRIPTION = "bundle.json"
# What the captions depend on, and so the fingerprint: not the figures, nor the card.
_FINGERPRINTED = ("saved_model", "recipe.yaml", "vocabulary.txt")


class CaptionSettings(NamedTuple):
    """What the caller may choose for each call of the model.

    Attributes:
      beam_width: captions that beam search keeps at each step.
      max_length: most words in a caption.
    """

    beam_width: int
    max_length: int

    @property
    def fingerprint(self) -> str:
        """A short text that is equal for equal settings."""
        return ",".join(f"{name}={value}" for name, value in self._asdict().items())


class Description(NamedTuple):
    """What `bundle.json` says.

    Attributes:
      fingerprint: digest of all that the captions depend on.
      name: of the recipe.
      image_size: height and width of the photos that the model takes, pixels.
      longest: most words that a caption can have.
      settings: the default caption settings.
    """

    fingerprint: str
    name: str
    image_size: int
    longest: int
    settings: CaptionSettings


class CaptionModel:
    """A bundle's model, ready to caption.

    Attributes:
      image_size: height and width of the photos that it takes, pixels.
    """

    def __init__(self, folder: Path):
        with quiet_imports():
            import tensorflow as tf

        self.image_size = describe(folder).image_size
        self._tensorflow = tf
        # The signatures live only as long as the object that was loaded.
        self._loaded = tf.saved_model.load(str(folder / "saved_model"))

    def caption(self, images: np.ndarray, settings: CaptionSettings) -> tuple[np.ndarray, np.ndarray]:
        """Captions photos.

        Args:
          images: `[batch, size, size, 3]`, uint8, RGB.
          settings: beam width and length.

        Returns:
          Captions `[batch, beam_width]`, str, best first, and their mean log-probability a token, float32, nats.
        """
        return self._call("caption", settings, images=images)

    def caption_features(self, features: np.ndarray, settings: CaptionSettings) -> tuple[np.ndarray, np.ndarray]:
        """Captions features `[batch, height, width, channels]`, float16; returns what `caption` does."""
        return self._call("caption_features", settings, features=features)

    def features(self, images: np.ndarray) -> np.ndarray:
        """The encoder's features `[batch, height, width, channels]`, float16, of photos as `caption` takes them."""
        return self._loaded.signatures["features"](images=self._tensorflow.constant(images))["features"].numpy()

    def _call(self, signature: str, settings: CaptionSettings, **inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        constant = self._tensorflow.constant
        outputs = self._loaded.signatures[signature](
            **{name: constant(array) for name, array in inputs.items()},
            beam_width=constant(settings.beam_width),
            max_length=constant(settings.max_length),
        )
        return np.char.decode(outputs["captions"].numpy().astype("S"), "utf-8"), outputs["scores"].numpy()


def describe(folder: Path) -> Description:
    """Reads what a bundle says of itself, and checks that its files are those that were written.

    Raises:
      UserError: it is no bundle, or a file of it is missing or changed.
    """
    try:
        fields = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        description = Description(**{**fields, "settings": CaptionSettings(**fields["settings"])})
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is not a model bundle: it has no {_DESCRIPTION}") from None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{folder / _DESCRIPTION} is damaged; get the bundle again") from None
    if _fingerprint(folder) != description.fingerprint:
        raise UserError(f"the bundle {folder} is damaged: its files are not those that it was made of; get it again")
    return description


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in _FINGERPRINTED:
        top = folder / name
        for path in sorted(p for p in [top, *top.rglob("*")] if p.is_file()):
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


class BundleWriter:
    """Writes a bundle beside its place, and moves it there when it is whole.

    Args:
      folder: the bundle's place.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.path = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"

    def __enter__(self) -> "BundleWriter":
        if self._folder.exists():
            raise UserError(f"{self._folder} is there already; delete it or choose another place for the bundle")
        self.path.mkdir(parents=True)
        return self

    def __exit__(self, error: Any, *_: object) -> None:
        if error is None:
            self.path.rename(self._folder)
        else:
            shutil.rmtree(self.path)

    def add_model(self, recipe: Recipe, encoder: Any, decoder: Any, vocabulary: Vocabulary) -> None:
        """Exports the model and writes what goes with it, but for the figures and the card."""
        from model import export

        export.save(self.path / "saved_model", encoder, decoder, vocabulary)
        vocabulary.save(self.path / "vocabulary.txt")
        (self.path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        description = Description(
            fingerprint=_fingerprint(self.path),
            name=recipe.name,
            image_size=recipe.encoder.image_size,
            longest=recipe.words.max_words,
            settings=CaptionSettings(**recipe.search.model_dump()),
        )
        fields = {**description._asdict(), "settings": description.settings._asdict()}
        self._write_json(_DESCRIPTION, fields)

    def add_metrics(self, metrics: dict[str, Any], card: str) -> None:
        """Writes how well the model does, and its card."""
        self._write_json("metrics.json", metrics)
        (self.path / "MODEL_CARD.md").write_text(card, encoding="utf-8")

    def _write_json(self, name: str, content: Any) -> None:
        (self.path / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""The model bundle: the one folder that a captioning worker loads. Written by training, read by workers."""

import contextlib
import hashlib
import json
import logging
import shutil
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beamscribe.model.errors import UserError
from beamscribe.model.quiet import quiet_imports
from beamscribe.model.recipe import Recipe
from beamscribe.model.words.vocabulary import Vocabulary

DEFAULT = Path(__file__).parent / "default_bundle"

DESCRIPTION = "bundle.json"
VOCABULARY = "vocabulary.txt"
# What the captions depend on, and so the fingerprint: not the figures, nor the card.
_FINGERPRINTED = ("saved_model", "recipe.yaml", VOCABULARY)


# On a GPU, batches have this many photos, twice as many, four times as many and so on.
SMALLEST_BATCH = 8

_LOGGER = logging.getLogger(__name__)


class CaptionSettings(NamedTuple):
    """What the caller may choose for each call of the model.

    Attributes:
      beam_width: captions that beam search keeps at each step.
      max_length: most words in a caption.
      min_length: fewest words in a caption.
      length_penalty: how much beam search favours long captions (Wu et al. 2016, arXiv:1609.08144, equation 14).
      no_repeat_ngram: no sequence of so many words occurs twice in a caption; 0 allows all.
      top_p: above 0, captions are drawn, not searched for: from the most probable words that together have this
        probability (Holtzman et al. 2020, arXiv:1904.09751).
      temperature: of the drawing; above 1 for more varied captions.
      seed: of the drawing.
    """

    beam_width: int
    max_length: int
    min_length: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0
    top_p: float = 0.0
    temperature: float = 1.0
    seed: int = 0

    @property
    def idle(self) -> frozenset[str]:
        """The fields that change nothing: those of drawing in a search, and the other way round."""
        return _OF_SEARCH if self.top_p else _OF_DRAWING

    @property
    def fingerprint(self) -> str:
        """A short text that is equal for settings that write the same captions."""
        return ",".join(f"{name}={value}" for name, value in self._asdict().items() if name not in self.idle)


_OF_SEARCH = frozenset(("beam_width", "length_penalty"))
_OF_DRAWING = frozenset(("top_p", "temperature", "seed"))


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
      longest: most words that a caption can have.

    Args:
      folder: of the bundle.
      on_gpu: whether to do what pays on GPUs; None for where TensorFlow sees one.
    """

    def __init__(self, folder: Path, on_gpu: bool | None = None):
        with quiet_imports():
            import tensorflow as tf

        description = describe(folder)
        self.image_size, self.longest = description.image_size, description.longest
        self._tensorflow = tf
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            # Else the first model takes all memory. Where the GPU is in use already it is too late to say so.
            with contextlib.suppress(RuntimeError):
                tf.config.experimental.set_memory_growth(gpu, True)
        # The signatures live only as long as the object that was loaded.
        self._loaded = tf.saved_model.load(str(folder / "saved_model"))
        self._on_gpu = bool(gpus) if on_gpu is None else on_gpu
        # Bundles of earlier versions have no signature in half precision.
        half = "features_half" in self._loaded.signatures and all(map(self._is_fast_in_half_precision, gpus))
        encoder = "features_half" if half else "features"
        self._compiled_encoder = self._compile_encoder(encoder) if self._on_gpu else None
        # A GPU's memory is for one batch, however many shards a worker has in hand.
        self._turn: Any = threading.Lock() if self._on_gpu else contextlib.nullcontext()

    def caption(
        self, images: np.ndarray, settings: CaptionSettings, uniforms: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Captions photos.

        Args:
          images: `[batch, size, size, 3]`, uint8, RGB.
          settings: of beam search, or of drawing where `top_p` is above 0.
          uniforms: the randomness of drawing, `[batch, captions, longest + 1]`, float32, in [0, 1), as `draws` makes
            it; says how many captions to draw for each photo. None where they are searched for.

        Returns:
          Captions `[batch, beam_width]`, or `[batch, captions]` where they are drawn, str, best first, and their mean
          log-probability a token, float32, nats.
        """
        photos, images, uniforms = len(images), self._filled_up(images), self._filled_up(uniforms)
        with self._turn:
            if self._compiled_encoder:
                features = self._compiled_encoder(self._tensorflow.constant(images))
                captions, scores = self._call("_features", settings, uniforms, features=features)
            else:
                captions, scores = self._call("", settings, uniforms, images=images)
        return captions[:photos], scores[:photos]

    def caption_features(
        self, features: np.ndarray, settings: CaptionSettings, uniforms: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Captions features `[batch, height, width, channels]`, float16; takes and returns what `caption` does."""
        return self._call("_features", settings, uniforms, features=features)

    @property
    def decoder_parameters(self) -> int:
        """How many numbers the decoder has learned or been given."""
        return sum(variable.shape.num_elements() for variable in self._loaded.decoder_weights)

    def features(self, images: np.ndarray) -> np.ndarray:
        """The encoder's features `[batch, height, width, channels]`, float16, of photos as `caption` takes them."""
        return self._loaded.signatures["features"](images=self._tensorflow.constant(images))["features"].numpy()

    def _is_fast_in_half_precision(self, gpu: Any) -> bool:
        """Whether a GPU has units for it; those before Volta don't, and some are slower with it."""
        details = self._tensorflow.config.experimental.get_device_details(gpu)
        return details.get("compute_capability", (0, 0)) >= (7, 0)

    def _compile_encoder(self, name: str) -> Callable[[Any], Any] | None:
        """The encoder, compiled by XLA; None where that does not work, for which the uncompiled one does.

        The decoder can't be compiled: the beam width, an input, shapes what its loop computes.

        Args:
          name: the signature that is compiled.
        """
        signature = self._loaded.signatures[name]
        encode = self._tensorflow.function(lambda images: signature(images=images)["features"], jit_compile=True)
        try:
            encode(self._tensorflow.zeros((SMALLEST_BATCH, self.image_size, self.image_size, 3), "uint8"))
        except Exception as error:  # noqa: BLE001 - of the compiler, of the driver, of libraries that are missing
            reason = " ".join(str(error).split())
            _LOGGER.warning("XLA can't compile the encoder, which now runs without it: %s", reason)
            return None
        return encode

    def _filled_up(self, batch: Any) -> Any:
        """On a GPU a batch of the next size of a few, so that short ones compile and tune nothing anew."""
        if batch is None or not self._on_gpu:
            return batch
        size = max(SMALLEST_BATCH, 1 << (len(batch) - 1).bit_length())
        return np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)])

    def _call(
        self, suffix: str, settings: CaptionSettings, uniforms: np.ndarray | None, **inputs: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        signature = self._loaded.signatures[("sample" if settings.top_p else "caption") + suffix]
        given = {**inputs, **settings._asdict(), "uniforms": uniforms}
        # Signatures are strict about types.
        specs = signature.structured_input_signature[1].items()
        outputs = signature(**{name: self._tensorflow.constant(given[name], spec.dtype) for name, spec in specs})
        return np.char.decode(outputs["captions"].numpy().astype("S"), "utf-8"), outputs["scores"].numpy()


def draws(names: Sequence[str], settings: CaptionSettings, captions: int, longest: int) -> np.ndarray | None:
    """The randomness of drawing captions, which depends on the seed and on each photo's name alone.

    A photo's captions are thus the same in any batch, shard and run.

    Args:
      names: of the photos of a batch.
      settings: whether to draw at all, and the seed.
      captions: how many to draw for each photo.
      longest: most words that a caption of the model can have.

    Returns:
      `[batch, captions, longest + 1]`, float32, in [0, 1); None where captions are searched for.
    """
    if not settings.top_p:
        return None
    digests = [hashlib.sha256(f"{settings.seed} {name}".encode(errors="surrogatepass")).digest() for name in names]
    generators = [np.random.default_rng(int.from_bytes(digest, "little")) for digest in digests]
    return np.stack([g.random((captions, longest + 1), np.float32) for g in generators])


def is_bundle(path: str) -> bool:
    """Whether a path is that of a bundle's folder."""
    return (Path(path) / DESCRIPTION).is_file()


def restore(folder: Path, encoder: Any = None, decoder: Any = None) -> None:
    """Gives models the weights of a bundle of models of the same shape.

    Raises:
      UserError: it is no bundle, it is damaged, or its models have other shapes.
    """
    from beamscribe.model import saved_model

    describe(folder)
    saved_model.restore(folder / "saved_model", encoder, decoder)


def describe(folder: Path) -> Description:
    """Reads what a bundle says of itself, and checks that its files are those that were written.

    Raises:
      UserError: it is no bundle, or a file of it is missing or changed.
    """
    try:
        description = parse((folder / DESCRIPTION).read_bytes(), str(folder))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is not a model bundle: it has no {DESCRIPTION}") from None
    if _fingerprint(folder) != description.fingerprint:
        raise UserError(f"the bundle {folder} is damaged: its files are not those that it was made of; get it again")
    return description


def parse(data: bytes, folder: str) -> Description:
    """Reads the content of `bundle.json`, which lies in a folder.

    Raises:
      UserError: it is damaged.
    """
    try:
        fields = json.loads(data)
        return Description(**{**fields, "settings": CaptionSettings(**fields["settings"])})
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{folder}/{DESCRIPTION} is damaged; get the bundle again") from None


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
        from beamscribe.model import saved_model

        saved_model.save(self.path / "saved_model", encoder, decoder, vocabulary)
        vocabulary.save(self.path / VOCABULARY)
        (self.path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        description = Description(
            fingerprint=_fingerprint(self.path),
            name=recipe.name,
            image_size=recipe.encoder.image_size,
            longest=recipe.words.max_words,
            settings=CaptionSettings(**recipe.search.model_dump()),
        )
        fields = {**description._asdict(), "settings": description.settings._asdict()}
        self._write_json(DESCRIPTION, fields)

    def add_metrics(self, metrics: dict[str, Any], card: str) -> None:
        """Writes how well the model does, and its card."""
        self._write_json("metrics.json", metrics)
        (self.path / "MODEL_CARD.md").write_text(card, encoding="utf-8")

    def _write_json(self, name: str, content: Any) -> None:
        (self.path / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

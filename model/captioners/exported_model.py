"""A bundle's SavedModel, loaded and ready to caption. Imports TensorFlow only when a model is loaded."""

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from beamscribe.model import bundle, safe_loading
from beamscribe.model.caption_settings import CaptionSettings
from beamscribe.model.captioners import gpu
from beamscribe.model.errors import BeamscribeError
from beamscribe.model.quiet import quiet_imports

# Whether this process has loaded a model, and whether the one that it was forked from had.
_has_loaded = _parent_had_loaded = False


class CaptionModel:
    """A bundle's model, ready to caption.

    Attributes:
      image_size: height and width of the photos that it takes, pixels.
      longest: most words that a caption can have.

    Args:
      folder: of the bundle.
      on_gpu: whether to do what pays on GPUs; None for where TensorFlow sees one.

    Raises:
      BeamscribeError: the folder is no bundle, a file of the bundle is missing or changed, its model does not fit its
        description, or this process was forked from one that had loaded a model.
    """

    def __init__(self, folder: Path, on_gpu: bool | None = None):
        global _has_loaded
        check_process()
        _has_loaded = True
        with quiet_imports():
            import tensorflow as tf

        description = bundle.describe(folder)
        self.image_size, self.longest = description.image_size, description.longest
        self._constant = tf.constant
        gpus = gpu.found()
        self._on_gpu = bool(gpus) if on_gpu is None else on_gpu
        # The signatures live only as long as the object that was loaded.
        self._loaded = safe_loading.load(folder / bundle.SAVED_MODEL)
        if problem := _unlike(description, self._loaded.signatures):
            raise BeamscribeError(f"the model of the bundle {folder} can't caption: {problem}; get the bundle again")
        self._compiled_encoder = None
        if self._on_gpu:
            encoder = self._loaded.signatures[gpu.encoder_signature(self._loaded.signatures, gpus)]
            self._compiled_encoder = gpu.compiled_encoder(encoder, self.image_size)
        # A GPU's memory is for one batch, however many shards a worker has in hand.
        self._turn: Any = threading.Lock() if self._on_gpu else contextlib.nullcontext()

    def caption(
        self, images: np.ndarray, settings: CaptionSettings, uniforms: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Captions photos.

        Args:
          images: `[batch, size, size, 3]`, uint8, RGB.
          settings: of beam search, or of drawing where `top_p` is above 0.
          uniforms: the randomness of drawing, `[batch, captions, longest + 1]`, float32, in [0, 1), as
            `caption_settings.draws` makes it; says how many captions to draw for each photo. None where they are
            searched for.

        Returns:
          Captions `[batch, beam_width]`, or `[batch, captions]` where they are drawn, str, best first, and their mean
          log-probability a token, float32, nats.
        """
        photos = len(images)
        if self._on_gpu:
            images, uniforms = gpu.padded(images), None if uniforms is None else gpu.padded(uniforms)
        with self._turn:
            if self._compiled_encoder:
                features = self._compiled_encoder(self._constant(images))
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
    def engine(self) -> str:
        """What runs the model."""
        return "tensorflow-gpu" if self._on_gpu else "tensorflow"

    @property
    def decoder_parameters(self) -> int:
        """How many numbers the decoder has learned or been given."""
        return sum(variable.shape.num_elements() for variable in self._loaded.decoder_weights)

    def features(self, images: np.ndarray) -> np.ndarray:
        """The encoder's features `[batch, height, width, channels]`, float16, of photos as `caption` takes them."""
        return self._loaded.signatures["features"](images=self._constant(images))["features"].numpy()

    def _call(
        self, suffix: str, settings: CaptionSettings, uniforms: np.ndarray | None, **inputs: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Runs a signature.

        Args:
          suffix: of its name: `_features` where it takes features, nothing where it takes photos.
          settings: as for `caption`; they say whether captions are searched for or drawn.
          uniforms: as for `caption`.
          inputs: `images` or `features`.

        Returns:
          What `caption` does.
        """
        signature = self._loaded.signatures[("sample" if settings.top_p else "caption") + suffix]
        given = {**inputs, **settings._asdict(), "uniforms": uniforms}
        # Signatures are strict about types.
        specs = signature.structured_input_signature[1].items()
        outputs = signature(**{name: self._constant(given[name], spec.dtype) for name, spec in specs})
        return np.char.decode(outputs["captions"].numpy().astype("S"), "utf-8"), outputs["scores"].numpy()


def _unlike(description: bundle.Description, signatures: Any) -> str | None:
    """In what a model is unlike the description of its bundle; None where they fit."""
    size = description.image_size
    shapes = {"images": [None, size, size, 3], "uniforms": [None, None, description.longest + 1]}
    for name in ("caption", "sample"):
        if name not in signatures:
            return f"it has no signature {name}"
        specs = signatures[name].structured_input_signature[1]
        if "images" not in specs or set(specs) - {*shapes, *CaptionSettings._fields}:
            return f"its signature {name} takes {', '.join(sorted(specs))}"
        for given, shape in shapes.items():
            if given in specs and specs[given].shape.as_list() != shape:
                return f"its signature {name} takes {given} of the shape {specs[given].shape}, not {shape}"
    return None


def check_process() -> None:
    """Checks that models can run in this process.

    Raises:
      BeamscribeError: this process was forked from one that had loaded a model.
    """
    if _parent_had_loaded:
        remedy = 'start processes by `multiprocessing.get_context("spawn")`, or load models only in them'
        raise BeamscribeError(
            f"process {os.getpid()} was forked after a model was loaded, and TensorFlow would hang in it; {remedy}"
        )


def _note_fork() -> None:
    global _parent_had_loaded
    _parent_had_loaded = _has_loaded


# The threads of TensorFlow do not run in a process that was forked.
os.register_at_fork(after_in_child=_note_fork)

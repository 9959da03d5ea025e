"""What several tests share: a tiny model with random weights, and photos made on the spot."""

import contextlib
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

TINY_RECIPE = """
name: tiny
description: A model small enough to be made in a test.
encoder: {name: efficientnet_lite0, image_size: 64}
words: {min_count: 1, max_words: 8}
decoder: {name: transformer, width: 32, heads: 4, feed_forward: 64, encoder_layers: 1, decoder_layers: 1}
cross_entropy:
  epochs: 2
  photos_per_step: 4
  learning_rate: 0.003
  final_learning_rate: 0.1
  weight_decay: 0.0
  dropout: 0.0
  label_smoothing: 0.1
  mirror: true
  patience: 2
self_critical:
  epochs: 1
  photos_per_step: 4
  samples: 3
  references: 1
  reference_share: 0.2
  learning_rate: 0.001
  final_learning_rate: 0.1
  weight_decay: 0.0
  dropout: 0.0
  mirror: true
  patience: 1
search: {beam_width: 2, max_length: 6}
"""


@pytest.fixture(autouse=True)
def working_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty working folder for each test: no process that a test starts finds the checkout's modules by it."""
    folder = tmp_path_factory.mktemp("working_folder")
    with contextlib.chdir(folder):
        yield folder


@pytest.fixture(autouse=True)
def levels_of_logging() -> Iterator[None]:
    """Puts back the levels that the command gives to loggers."""
    loggers = [logging.getLogger(name) for name in (None, "beamscribe", "beamscribe.pipelines")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    """A bundle whose model has random weights."""
    import keras

    from beamscribe.model import bundle, decoders, encoders, recipe
    from beamscribe.model.words.vocabulary import SPECIALS, Vocabulary

    keras.utils.set_random_seed(1)
    tiny = recipe.parse(TINY_RECIPE, "tiny")
    vocabulary = Vocabulary([*SPECIALS, *["a", "the", "dog", "cat", "man", "runs", "sits", "in", "grass", "water"]])
    decoder = decoders.build(tiny, len(vocabulary), encoders.feature_shape(tiny.encoder))
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    with bundle.BundleWriter(folder) as writer:
        writer.add_model(tiny, encoders.build(tiny.encoder), decoder, vocabulary)
        writer.add_metrics({}, "A model for tests.\n")
    return folder


@pytest.fixture
def make_photo() -> Callable[..., Path]:
    """Writes a photo of noise: another one for each name."""

    def make(path: Path, width: int = 40, height: int = 30, **options) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(zlib.crc32(path.name.encode()))
        Image.fromarray(noise.integers(0, 256, (height, width, 3), np.uint8)).save(path, **options)
        return path

    return make


def run_eagerly(path: Path, transform: Callable) -> list:
    """Runs a function from a pipeline's root to a PCollection, and returns its elements."""
    import pickle

    import apache_beam as beam

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        elements = transform(pipeline) | "Gather" >> beam.combiners.ToList()
        _ = elements | "Keep" >> beam.Map(lambda found: path.write_bytes(pickle.dumps(found)) and None)
    return pickle.loads(path.read_bytes())

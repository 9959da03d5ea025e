"""Trains a recipe from prepared data: phases of epochs, validated, checkpointed and resumable."""

import collections
import functools
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import keras
import numpy as np

from beamscribe.model import bundle, decoders, encoders
from beamscribe.model.decoders.base import Decoder
from beamscribe.model.errors import BeamscribeError, InputError
from beamscribe.model.recipe import CrossEntropy, Phase, Recipe
from beamscribe.model.search import Rules, Sampler
from beamscribe.model.training import cross_entropy, losses, optimizers, self_critical
from beamscribe.model.training.checkpoints import Checkpoints, TrainingState
from beamscribe.model.training.cider import CiderD
from beamscribe.model.training.dataset import Dataset, encoded
from beamscribe.model.training.devices import Devices
from beamscribe.model.training.phase import Batches, PhaseTraining
from beamscribe.model.training.photo_decoder import PhotoDecoder
from beamscribe.model.training.targets import training_targets
from beamscribe.model.training.validation import Validation
from beamscribe.model.words import embeddings
from beamscribe.model.words.vocabulary import Vocabulary

_LOGGER = logging.getLogger(__name__)


class Trainer:
    """Trains one recipe on one dataset, in a folder of checkpoints from which the same call goes on.

    Attributes:
      vocabulary: the words that the decoder learns.

    Args:
      recipe: what to train.
      training, validation: prepared splits.
      folder: of checkpoints and TensorBoard logs; made where it is not there.
      start: bundle whose weights and words to start from, instead of random ones and the words of the captions.
      devices: what to train on; one GPU where there is one.

    Raises:
      InputError: `start` is no bundle, or there is no file with the word vectors that the recipe names.
      BeamscribeError: there are no words to learn, or the word vectors can't be read.
    """

    def __init__(
        self,
        recipe: Recipe,
        training: Dataset,
        validation: Dataset,
        folder: Path,
        start: Path | None = None,
        devices: Devices | None = None,
    ):
        self._recipe, self._training, self._validation, self._folder = recipe, training, validation, folder
        self._start, self._devices = start, devices or Devices()
        self._began = bundle.describe(start).fingerprint if start else ""
        tokens = training.tokens()
        counts = collections.Counter(word for captions in tokens for caption in captions for word in caption)
        self.vocabulary = self._words(counts)
        self._vectors = self._word_vectors(counts)
        self._targets = training_targets(tokens, self.vocabulary, recipe.words.max_words)
        self._judge = CiderD(validation.tokens())

    def run(self) -> tuple[keras.Model, Decoder]:
        """Trains all phases, or what is left of them; returns the encoder, and the decoder with the best weights.

        Raises:
          InputError: a phase's steps don't fit the data or the devices, the folder holds another training, or there is
            no file with the encoder's weights.
          BeamscribeError: the folder can't be used, the encoder's weights can't be read, or no epoch's captions are
            varied enough to be kept.
        """
        phases = self._recipe.phases
        for name, phase in phases.items():
            self._check_steps(name, phase)
        checkpoints = Checkpoints(self._folder)
        state = self._first_state(checkpoints)
        # Built before the training, so that weights that can't be read end it before it has begun.
        frozen = None if self._training.store == "images" else encoders.build(self._recipe.encoder)
        names = list(phases)
        for name in names[names.index(state.phase) if state.phase in names else 0 :]:
            if name != state.phase:
                state = state.in_phase(name)
            state = self._prepared(phases[name], state, checkpoints).run(state)
        return self._best(state, checkpoints, frozen)

    def _words(self, counts: Mapping[str, int]) -> Vocabulary:
        """The words of the bundle to start from, or else those that the captions have often enough."""
        if self._start:
            words = Vocabulary.load(self._start / bundle.VOCABULARY)
        else:
            words = Vocabulary.from_counts(counts, self._recipe.words.min_count)
        if not words.written():
            raise BeamscribeError(
                f"no word occurs {self._recipe.words.min_count} times in the captions of {self._training.folder}: "
                "give more captions, or lower words.min_count; words must be separated by spaces"
            )
        return words

    def _word_vectors(self, counts: Mapping[str, int]) -> np.ndarray | None:
        """The pretrained vectors of the vocabulary; None where the recipe has them learned."""
        if self._recipe.words.embedding == "learned":
            return None
        vectors = embeddings.load(self._recipe.words.embedding, self.vocabulary.words, self._recipe.seed)
        written = {word: counts[word] for word in self.vocabulary.written()}
        _LOGGER.info("%s", embeddings.coverage(vectors, written))
        return vectors.matrix

    def _check_steps(self, name: str, phase: Phase) -> None:
        if len(self._training.photos) < phase.photos_per_step:
            raise InputError(
                f"{self._training.folder} has {len(self._training.photos)} photos, "
                f"fewer than {name}.photos_per_step, {phase.photos_per_step}"
            )
        if phase.photos_per_step % self._devices.count:
            raise InputError(
                f"{name}.photos_per_step is {phase.photos_per_step}: "
                f"it must be a multiple of the devices, {self._devices.count}"
            )

    def _first_state(self, checkpoints: Checkpoints) -> TrainingState:
        """The state of the training that the folder holds, or of a new one."""
        data = self._digest()
        state = checkpoints.restore(self._recipe, data)
        if state is None:
            return TrainingState(phase="cross_entropy", recipe=self._recipe.model_dump(), data=data)
        _LOGGER.info("going on after epoch %d of %s", state.epoch, state.phase)
        return state

    def _digest(self) -> str:
        """A digest of all that the training depends on beside its recipe."""
        splits = ((data.photos, data.captions) for data in (self._training, self._validation))
        return hashlib.sha256(json.dumps([self._began, self.vocabulary.words, *splits]).encode()).hexdigest()[:16]

    def _prepared(self, phase: Phase, state: TrainingState, checkpoints: Checkpoints) -> PhaseTraining:
        """A phase, its network with the weights of a state."""
        steps = len(self._training.photos) // phase.photos_per_step
        with self._devices.scope():
            network = self._network(phase.dropout)
            if state.best_weights:
                checkpoints.load(network, state.best_weights)
            trained, training, validation = self._trained_part(network, phase)
            trained.compile(optimizer=optimizers.of(phase, steps, trained), loss=losses.of(phase))
        self._devices.share_steps(trained)
        if state.weights:
            trained.optimizer.build(trained.trainable_variables)
            checkpoints.load(network, state.weights)
        max_words = self._recipe.words.max_words
        return PhaseTraining(
            phase=phase,
            seed=self._recipe.seed,
            steps=steps,
            network=network,
            trained=trained,
            batches=self._batches(phase, training, trained),
            validation=Validation(trained, validation, self._judge, self.vocabulary, max_words),
            checkpoints=checkpoints,
        )

    def _network(self, dropout: float) -> Decoder:
        """The recipe's network with the weights that training starts from."""
        keras.utils.set_random_seed(self._recipe.seed)
        encoder = encoders.build(self._recipe.encoder) if self._training.store == "images" else None
        grid = encoder.output_shape[1:] if encoder else self._training.shape
        decoder = decoders.build(self._recipe, len(self.vocabulary), grid, dropout, self._vectors)
        if self._start:
            bundle.restore(self._start, encoder, decoder)
        return PhotoDecoder(encoder, decoder) if encoder else decoder

    def _trained_part(self, network: Decoder, phase: Phase) -> tuple[Decoder, Dataset, Dataset]:
        """What a phase trains, and the data for it: where it leaves the encoder alone, photos are encoded only once."""
        if not isinstance(network, PhotoDecoder):
            return network, self._training, self._validation
        encoder = network.photo_encoder
        if phase.encoder_learning_rate:
            assert self._recipe.encoder.trained_from is not None
            encoders.train_last_layers(encoder, self._recipe.encoder.trained_from)
            return network, self._training, self._validation
        training = encoded(self._training, encoder, self._folder / "features" / "training", phase.mirror)
        validation = encoded(self._validation, encoder, self._folder / "features" / "validation", mirror=False)
        return network.caption_decoder, training, validation

    def _batches(self, phase: Phase, data: Dataset, trained: Decoder) -> Batches:
        """What a phase trains on; depends on nothing but the recipe's seed, the epoch, the step and the network."""
        seed = self._recipe.seed
        learn: Callable[..., Iterator[tuple]]
        if isinstance(phase, CrossEntropy):
            learn = functools.partial(cross_entropy.batches, targets=self._targets, phase=phase)
        else:
            with self._devices.scope():
                sampler = Sampler(trained, Rules(self._recipe.words.max_words))
            self._devices.share_steps(sampler)
            reward = CiderD(self_critical.References(self._targets))
            learn = functools.partial(
                self_critical.batches, sampler=sampler, targets=self._targets, reward=reward, phase=phase
            )

        def batches(epoch: int, start: int) -> Iterator[tuple]:
            examples = data.examples(phase.photos_per_step, phase.mirror, seed * 1000 + epoch).skip(start)
            generators = (np.random.default_rng((seed, epoch, step)) for step in itertools.count(start))
            return learn(examples.as_numpy_iterator(), generators=generators)

        return batches

    def _best(
        self, state: TrainingState, checkpoints: Checkpoints, frozen: keras.Model | None
    ) -> tuple[keras.Model, Decoder]:
        """The encoder, and the decoder with the best weights; `frozen` is the encoder where it was not trained."""
        if not state.best_weights:
            raise BeamscribeError(
                "no epoch's captions are varied enough to be kept; train longer or lower least_distinct"
            )
        network = self._network(dropout=0.0)
        checkpoints.load(network, state.best_weights)
        if isinstance(network, PhotoDecoder):
            network.photo_encoder.trainable = False
            return network.photo_encoder, network.caption_decoder
        assert frozen is not None
        return frozen, network

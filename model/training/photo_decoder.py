"""An encoder and a decoder as one network, for training both."""

from typing import Any, Self

import keras

from beamscribe.model.decoders.base import PACKAGE, Decoder, State
from beamscribe.model.tensors import Tensor


@keras.saving.register_keras_serializable(PACKAGE)
class PhotoDecoder(Decoder):
    """A decoder whose features are photos: `[batch, size, size, 3]`, uint8.

    All that works on a decoder (training, search, sampling) works on it, and reaches the encoder, too.

    Attributes:
      photo_encoder, caption_decoder: the arguments.

    Args:
      encoder: from photos to the features that the decoder takes.
      decoder: of the same grid.
      name: of the Keras model.
      model: the other arguments of `keras.Model`: `trainable` and `dtype`.
    """

    def __init__(self, encoder: keras.Model, decoder: Decoder, *, name: str = "captioner", **model: Any):
        super().__init__(
            vocabulary_size=decoder.vocabulary_size,
            grid=encoder.input_shape[1:],
            slots=decoder.slots,
            dropout=decoder.dropout,
            name=name,
            **model,
        )
        self.photo_encoder, self.caption_decoder = encoder, decoder
        self.create_variables()

    def get_config(self) -> dict[str, Any]:
        """The configs of the two networks, nested: they say all that a decoder's own would."""
        networks = {"encoder": self.photo_encoder, "decoder": self.caption_decoder}
        nested = {name: keras.saving.serialize_keras_object(network) for name, network in networks.items()}
        return {**super(Decoder, self).get_config(), **nested}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Makes both networks and their pair; `config` and `custom_objects` as for `keras.Model`."""
        networks = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects) for name in ("encoder", "decoder")
        }
        return cls(**{**config, **networks})

    def call(self, inputs: tuple[Tensor, Tensor], training: bool = False) -> Tensor:
        """As the base class says, of photos."""
        photos, tokens = inputs
        return self.caption_decoder((self.photo_encoder(photos, training=training), tokens), training=training)

    def initial_state(self, features: Tensor, beams: Tensor) -> State:
        """As the base class says, of photos."""
        return self.caption_decoder.initial_state(self.photo_encoder(features, training=False), beams)

    def step(self, tokens: Tensor, position: Tensor, state: State) -> tuple[Tensor, State]:
        """As the base class says."""
        return self.caption_decoder.step(tokens, position, state)

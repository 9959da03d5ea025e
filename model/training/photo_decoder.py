"""An encoder and a decoder as one network, for training both."""

import keras

from beamscribe.model.decoders.base import Decoder, State


class PhotoDecoder(Decoder):
    """A decoder whose features are photos: `[batch, size, size, 3]`, uint8.

    All that works on a decoder (training, search, sampling) works on it, and reaches the encoder, too.

    Args:
      encoder: from photos to the features that the decoder takes.
      decoder: of the same grid.
    """

    def __init__(self, encoder: keras.Model, decoder: Decoder):
        super().__init__(name="captioner")
        self.photo_encoder, self.caption_decoder = encoder, decoder
        self.vocabulary_size, self.slots = decoder.vocabulary_size, decoder.slots
        self.create_variables(encoder.input_shape[1:])

    def call(self, inputs, training=False):
        """As the base class says, of photos."""
        photos, tokens = inputs
        return self.caption_decoder((self.photo_encoder(photos, training=training), tokens), training=training)

    def initial_state(self, features, beams) -> State:
        """As the base class says, of photos."""
        return self.caption_decoder.initial_state(self.photo_encoder(features, training=False), beams)

    def step(self, tokens, position, state: State):
        """As the base class says."""
        return self.caption_decoder.step(tokens, position, state)

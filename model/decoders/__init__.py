"""Decoders by name, each behind the interface of `beamscribe.model.decoders.base`."""

import numpy as np

from beamscribe.model.decoders.attention_lstm import AttentionDecoder
from beamscribe.model.decoders.base import Decoder
from beamscribe.model.decoders.bidirectional import BidirectionalMergeDecoder
from beamscribe.model.decoders.image_first import ImageFirstDecoder
from beamscribe.model.decoders.merge import MergeDecoder
from beamscribe.model.decoders.transformer import TransformerDecoder
from beamscribe.model.recipe import Recipe

_DECODERS: dict[str, type[Decoder]] = {
    "transformer": TransformerDecoder,
    "merge": MergeDecoder,
    "bidirectional_merge": BidirectionalMergeDecoder,
    "image_first": ImageFirstDecoder,
    "attention": AttentionDecoder,
}


def build(
    recipe: Recipe,
    vocabulary_size: int,
    grid: tuple[int, int, int],
    dropout: float = 0.0,
    vectors: np.ndarray | None = None,
) -> Decoder:
    """Builds a recipe's decoder with random weights.

    Args:
      recipe: names the decoder and its sizes.
      vocabulary_size: number of ids, specials included.
      grid: (height, width, channels) of the feature grid.
      dropout: share of activations dropped in training.
      vectors: pretrained word vectors to start from, `[vocabulary_size, size]`, float32, where the recipe names some.
    """
    sizes = recipe.decoder.model_dump(exclude={"name"})
    # One position more than words, for the end.
    slots = recipe.words.max_words + 1
    if recipe.words.embedding != "learned":
        sizes |= {"vectors": vectors, "freeze_vectors": recipe.words.frozen}
    return _DECODERS[recipe.decoder.name](
        vocabulary_size=vocabulary_size, grid=grid, slots=slots, dropout=dropout, **sizes
    )

"""Decoders by name."""

from model.recipe import Recipe
from model.transformer import TransformerDecoder


def build(recipe: Recipe, vocabulary_size: int, grid: tuple[int, int, int], dropout: float = 0.0) -> TransformerDecoder:
    """Builds a recipe's decoder with random weights.

    Args:
      recipe: names the decoder and its sizes.
      vocabulary_size: number of ids, specials included.
      grid: (height, width, channels) of the feature grid.
      dropout: share of activations dropped in training.
    """
    sizes = recipe.decoder.model_dump(exclude={"name"})
    # One position more than words, for the end.
    slots = recipe.words.max_words + 1
    return TransformerDecoder(vocabulary_size, grid, slots, dropout=dropout, **sizes)

"""The model card of a bundle (Mitchell et al. 2019, arXiv:1810.03993)."""

import string
from collections.abc import Mapping

from beamscribe.model.encoders import efficientnet_lite
from beamscribe.model.recipe import Encoder, Recipe
from beamscribe.model.training.dataset import Dataset

_CARD = string.Template("""\
# $name

$description

## What it does

Takes RGB photos of any size, squashed to $size × $size pixels, and writes captions of at most
$longest lower-case words, by beam search. It knows $vocabulary words.

It describes what the photos that it learned from show, in the words of their captions; those of the bundled model
are of people, dogs and outdoor sport. On other photos it still writes a fluent caption, which may be wrong. It must
not be used to identify people or to decide about them: it guesses age, sex and activity from appearance, with the
biases of its data.

## What it was trained on

$training photos with $captions captions; chosen on $validation other photos. The bundled model's data are those
of Flickr8k (Hodosh, Young and Hockenmaier 2013), which its authors give **for research and education only**:
whoever uses a model that was trained on it should keep to that. $encoder

## How

The recipe is in `recipe.yaml`, whole. Phases: $phases. The weights are stored as float16.

## How well

On the validation photos, beam width $beam_width, scored by $scorer (all but the last five × 100):

| figure | |
| --- | --- |
$figures
""")


def render(recipe: Recipe, training: Dataset, validation: Dataset, words: int, metrics: Mapping[str, object]) -> str:
    """Writes the card.

    Args:
      recipe: what was trained.
      training, validation: the data.
      words: size of the vocabulary, without specials.
      metrics: the content of `metrics.json`.
    """
    phases = [f"cross-entropy, at most {recipe.cross_entropy.epochs} epochs"]
    if recipe.self_critical:
        phases.append(f"self-critical training with CIDEr-D, at most {recipe.self_critical.epochs} epochs")
    figures = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return _CARD.substitute(
        name=recipe.name,
        description=recipe.description,
        size=recipe.encoder.image_size,
        longest=recipe.words.max_words,
        vocabulary=f"{words:,}",
        training=f"{len(training.photos):,}",
        captions=f"{sum(map(len, training.captions)):,}",
        validation=f"{len(validation.photos):,}",
        encoder=_encoder(recipe.encoder),
        phases="; ".join(phases),
        beam_width=recipe.search.beam_width,
        scorer=metrics["scorer"],
        figures="\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items()),
    )


def _encoder(encoder: Encoder) -> str:
    """Where the encoder's weights come from."""
    origin = {
        "imagenet": "was trained on ImageNet",
        "none": "has random weights",
    }.get(encoder.weights, f"has the weights of {encoder.weights}")
    if encoder.name in efficientnet_lite.VARIANTS and encoder.weights == "imagenet":
        origin += " (weights under the Apache License 2.0)"
    trained = f";\nits layers from `{encoder.trained_from}` on were then trained with the captions"
    return f"The encoder, {encoder.name},\n{origin}{trained if encoder.trained_from else ''}."

"""How well an exported model does on the validation split: the content of a bundle's `metrics.json`."""

import logging
from typing import Any

from beamscribe.model import evaluation
from beamscribe.model.caption_settings import CaptionSettings
from beamscribe.model.captioners.exported_model import CaptionModel
from beamscribe.model.recipe import Recipe
from beamscribe.model.training.cider import CiderD
from beamscribe.model.training.dataset import Dataset
from beamscribe.model.words.vocabulary import tokenize

_LOGGER = logging.getLogger(__name__)

_BATCH_SIZE = 50


def measure(model: CaptionModel, recipe: Recipe, training: Dataset, validation: Dataset) -> dict[str, Any]:
    """Captions the validation split with the recipe's settings, and scores the captions.

    Args:
      model: exported.
      recipe: what it was trained by.
      training: whose captions it has learned from.
      validation: photos, or their features, and their captions.

    Returns:
      Figures by name, `scorer` among them: `pycocoevalcap`, or `beamscribe` where that or Java is missing, which has
      no other score than CIDEr-D.
    """
    settings = CaptionSettings(**recipe.search.model_dump())
    caption = model.caption if validation.store == "images" else model.caption_features
    captions = [
        str(written)
        for batch in validation.features(_BATCH_SIZE).as_numpy_iterator()
        for written in caption(batch, settings)[0][:, 0]
    ]
    learned = [written for of_photo in training.captions for written in of_photo]
    try:
        scores = evaluation.evaluate(
            dict(zip(validation.photos, captions, strict=True)),
            dict(zip(validation.photos, validation.captions, strict=True)),
            learned,
        )
        return {"scorer": "pycocoevalcap", **scores}
    except evaluation.EvaluationError as error:
        _LOGGER.warning("the figures of the bundle have CIDEr-D alone: %s", error)
        # Training needs no Java: without it, the figure that was trained for has to do.
        cider = 100 * CiderD(validation.tokens()).mean([tokenize(written) for written in captions])
        figures = evaluation.originality(captions, learned)
        return {"scorer": "beamscribe", "cider": cider, **figures, "photos": len(captions)}

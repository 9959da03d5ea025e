"""Recipes: everything about a model and its training that is not a path, as YAML."""

import difflib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml

from model.errors import UserError

Share = Annotated[float, pydantic.Field(ge=0, lt=1)]
Count = Annotated[int, pydantic.Field(ge=1)]
Positive = Annotated[float, pydantic.Field(gt=0)]

RECIPES = resources.files("model") / "recipes"


class RecipeError(UserError):
    """A recipe that can't be used; the message is one line for the user."""


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class Encoder(_Section):
    """The CNN that turns a photo into a feature grid."""

    name: Literal["efficientnet_lite0", "efficientnet_lite2"]
    image_size: Annotated[int, pydantic.Field(ge=32)]


class Words(_Section):
    """Which words the decoder knows, and the longest caption that it can write."""

    min_count: Count
    max_words: Count


class Decoder(_Section):
    """The network that writes the caption; its sizes are those of `model.transformer.TransformerDecoder`."""

    name: Literal["transformer"]
    width: Count
    heads: Count
    feed_forward: Count
    encoder_layers: Annotated[int, pydantic.Field(ge=0)]
    decoder_layers: Count

    @pydantic.field_validator("heads")
    @classmethod
    def _divides_width(cls, heads: int, info: pydantic.ValidationInfo) -> int:
        width = info.data.get("width", heads)
        if width % heads:
            raise ValueError(f"must divide the width, {width}")
        return heads


class _Phase(_Section):
    epochs: Annotated[int, pydantic.Field(ge=0)]
    photos_per_step: Count
    learning_rate: Positive
    warmup_steps: Annotated[int, pydantic.Field(ge=0)] = 0
    final_learning_rate: Share  # share of `learning_rate` that is left at the end
    weight_decay: Annotated[float, pydantic.Field(ge=0)]
    clip_norm: Positive = 1.0
    dropout: Share
    # Momentum of the exponential moving average of the weights, which is what is validated and exported.
    weight_average: Share = 0.0
    mirror: bool  # show the photo or its mirror image, at random; needs data prepared with --flip
    patience: Count  # epochs without a better validation CIDEr before the phase stops
    # An epoch counts as better only where at least this share of its captions is distinct.
    least_distinct: Share = 0.0


class CrossEntropy(_Phase):
    """The first phase: each next word of the reference captions."""

    label_smoothing: Share


class SelfCritical(_Phase):
    """The second phase: CIDEr-D of sampled captions as the reward (Rennie et al. 2017, arXiv:1612.00563)."""

    samples: Annotated[int, pydantic.Field(ge=2)]
    # Reference captions trained on beside the samples, and their share of the loss.
    references: Annotated[int, pydantic.Field(ge=0)]
    reference_share: Share


class Search(_Section):
    """The caption settings that the bundle offers as defaults."""

    beam_width: Count
    max_length: Count


class Recipe(_Section):
    """A model and its training."""

    name: str
    description: str
    encoder: Encoder
    words: Words
    decoder: Decoder
    cross_entropy: CrossEntropy
    self_critical: SelfCritical | None = None
    search: Search
    seed: int = 0

    @pydantic.field_validator("search")
    @classmethod
    def _fits_words(cls, search: Search, info: pydantic.ValidationInfo) -> Search:
        if "words" in info.data and search.max_length > info.data["words"].max_words:
            raise ValueError(f"max_length must be at most words.max_words, {info.data['words'].max_words}")
        return search

    def to_yaml(self) -> str:
        """The recipe as a file that `load` reads."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


def names() -> list[str]:
    """The recipes in the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in RECIPES.iterdir() if entry.name.endswith(".yaml"))


def load(name_or_path: str) -> Recipe:
    """Reads a recipe of the package by its name, or a YAML file.

    Raises:
      RecipeError: there is none, it is no YAML, or a field is missing, unknown or out of range.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        path: Any = Path(name_or_path)
        if not path.is_file():
            raise RecipeError(f"no recipe file {name_or_path}")
    else:
        path = RECIPES / f"{name_or_path}.yaml"
        if not path.is_file():
            known = ", ".join(names())
            raise RecipeError(f"no recipe {name_or_path!r}: the package has {known}, or give a path that ends in .yaml")
    return parse(path.read_text(encoding="utf-8"), name_or_path)


def parse(text: str, source: str) -> Recipe:
    """Reads a recipe from YAML text; `source` names it in errors.

    Raises:
      RecipeError: as for `load`.
    """
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict):
        raise RecipeError(f"{source} is not a recipe: expected fields such as encoder and decoder")
    try:
        return Recipe.model_validate(fields)
    except pydantic.ValidationError as error:
        raise RecipeError(f"{source}: {'; '.join(_explain(fault) for fault in error.errors())}") from None


def _explain(fault: Any) -> str:
    """One clause about one fault, with the nearest right name for a misspelt field."""
    place = [str(part) for part in fault["loc"]]
    field = ".".join(place)
    if fault["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(place[-1], _fields_at(place[:-1]), n=1, cutoff=0)
        return f"unknown field {field}" + (f" (did you mean {nearest[0]}?)" if nearest else "")
    if fault["type"] == "missing":
        return f"the field {field} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{field}: {message[0].lower()}{message[1:]}, found {fault['input']!r}"


def _fields_at(place: list[str]) -> list[str]:
    section: Any = Recipe
    for part in place:
        annotation = section.model_fields[part].annotation
        # `X | None` holds the section as its first argument.
        section = getattr(annotation, "__args__", (annotation,))[0]
    return list(section.model_fields)

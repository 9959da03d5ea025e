"""Recipes: everything about a model and its training that is not a path, as YAML."""

import difflib
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic
import yaml

from beamscribe.model.caption_settings import MOST_CAPTIONS
from beamscribe.model.errors import InputError, one_line
from beamscribe.model.image_sizes import IMAGE_SIZES

Share = Annotated[float, pydantic.Field(ge=0, lt=1)]
Count = Annotated[int, pydantic.Field(ge=1)]
Positive = Annotated[float, pydantic.Field(gt=0)]
# Sizes that a worker's memory holds: who made a bundle may have written any.
ImageSize = Annotated[int, pydantic.Field(ge=32, le=2048)]
CaptionLength = Annotated[int, pydantic.Field(ge=1, le=1000)]

RECIPES = resources.files("beamscribe.model") / "recipes"


class RecipeError(InputError):
    """A recipe that can't be used; the message is one line for the user."""


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class Encoder(_Section):
    """The CNN that turns a photo into a feature grid."""

    name: str
    image_size: ImageSize  # the CNN's own where the recipe names none
    weights: str = "imagenet"  # or `none`, for random ones, or a path: a weights file, or a bundle's encoder
    # First layer that training changes, with all after it; batch normalisation keeps its statistics. Needs data
    # prepared with images instead of features.
    trained_from: str | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _own_size(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("image_size") is None and fields.get("name") in IMAGE_SIZES:
            return {**fields, "image_size": IMAGE_SIZES[fields["name"]]}
        return fields

    @pydantic.field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in IMAGE_SIZES:
            nearest = difflib.get_close_matches(name, IMAGE_SIZES, n=1, cutoff=0)[0]
            raise ValueError(f"there is no such encoder (did you mean {nearest}?)")
        return name


class Words(_Section):
    """Which words the decoder knows, where their vectors come from, and the longest caption that it can write."""

    min_count: Count
    max_words: CaptionLength
    embedding: str = "learned"  # or `glove`, `bert`, or a path to a GloVe text file or to a BERT's safetensors
    frozen: bool = False  # keep pretrained vectors as they are


class Transformer(_Section):
    """Sizes of `TransformerDecoder`, whose word vectors are its output layer, too."""

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


class _WordVectors(_Section):
    word_size: Count | None = None  # of learned word vectors; pretrained ones have their own


class Merge(_WordVectors):
    """Sizes of `MergeDecoder`."""

    name: Literal["merge"]
    image: Literal["pooled", "flattened"]
    image_layers: Annotated[list[Count], pydantic.Field(min_length=1)]
    units: Count
    merge: Literal["add", "concatenate"]
    hidden: Count


class BidirectionalMerge(_WordVectors):
    """Sizes of `BidirectionalMergeDecoder`."""

    name: Literal["bidirectional_merge"]
    image: Literal["pooled", "flattened"]
    image_layers: Annotated[list[Count], pydantic.Field(min_length=1)]
    bidirectional_units: Count
    units: Count
    merge: Literal["add", "concatenate"]
    hidden: Count


class ImageFirst(_WordVectors):
    """Sizes of `ImageFirstDecoder`."""

    name: Literal["image_first"]
    units: Count


class Attention(_WordVectors):
    """Sizes of `AttentionDecoder`."""

    name: Literal["attention"]
    units: Count
    attention: Count
    doubly_stochastic: Annotated[float, pydantic.Field(ge=0)]  # weight of the regularisation, λ


class _Phase(_Section):
    epochs: Annotated[int, pydantic.Field(ge=0)]
    photos_per_step: Count
    learning_rate: Positive
    # For the layers of the encoder that are trained; 0 leaves the encoder alone.
    encoder_learning_rate: Annotated[float, pydantic.Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, pydantic.Field(ge=0)] = 0
    final_learning_rate: Share  # share of `learning_rate` that is left at the end
    weight_decay: Annotated[float, pydantic.Field(ge=0)]
    clip_norm: Positive = 1.0
    dropout: Share
    # Momentum of the exponential moving average of the weights, which is what is validated and exported.
    weight_average: Share = 0.0
    mirror: bool  # show the photo or its mirror image, at random; needs the features of both
    patience: Count  # epochs without a better validation CIDEr before the phase stops
    # An epoch counts as better only where at least this share of its captions is distinct.
    least_distinct: Share = 0.0


class CrossEntropy(_Phase):
    """The first phase: each next word of the reference captions."""

    captions: Count | None = None  # of each photo in one step, drawn at random; all where it is not given
    label_smoothing: Share


class SelfCritical(_Phase):
    """The second phase: CIDEr-D of sampled captions as the reward (Rennie et al. 2017, arXiv:1612.00563)."""

    samples: Annotated[int, pydantic.Field(ge=2)]
    # Reference captions trained on beside the samples, and their share of the loss.
    references: Annotated[int, pydantic.Field(ge=0)]
    reference_share: Share


Phase = CrossEntropy | SelfCritical


class Search(_Section):
    """The caption settings that the bundle offers as defaults: fields of `CaptionSettings`."""

    beam_width: Annotated[int, pydantic.Field(ge=1, le=MOST_CAPTIONS)]
    max_length: Count
    min_length: Count = 1
    length_penalty: Annotated[float, pydantic.Field(ge=0, le=10)] = 1.0
    no_repeat_ngram: Annotated[int, pydantic.Field(ge=0, le=5)] = 0


class Recipe(_Section):
    """A model and its training."""

    name: str
    description: str
    encoder: Encoder
    words: Words
    decoder: Annotated[
        Transformer | Merge | BidirectionalMerge | ImageFirst | Attention, pydantic.Field(discriminator="name")
    ]
    cross_entropy: CrossEntropy
    self_critical: SelfCritical | None = None
    search: Search
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**32)] = 0

    @property
    def phases(self) -> dict[str, Phase]:
        """The phases of training by name, in their order."""
        phases = {"cross_entropy": self.cross_entropy, "self_critical": self.self_critical}
        return {name: phase for name, phase in phases.items() if phase is not None and phase.epochs}

    @pydantic.field_validator("search")
    @classmethod
    def _fits_words(cls, search: Search, info: pydantic.ValidationInfo) -> Search:
        if "words" in info.data and search.max_length > info.data["words"].max_words:
            raise ValueError(f"max_length must be at most words.max_words, {info.data['words'].max_words}")
        if search.min_length > search.max_length:
            raise ValueError(f"min_length must be at most max_length, {search.max_length}")
        if "words" in info.data and search.no_repeat_ngram > info.data["words"].max_words:
            raise ValueError(f"no_repeat_ngram must be at most words.max_words, {info.data['words'].max_words}")
        return search

    @pydantic.model_validator(mode="after")
    def _fits_embedding(self) -> "Recipe":
        sized = getattr(self.decoder, "word_size", None) is not None
        if self.words.embedding != "learned" and self.decoder.name == "transformer":
            raise ValueError("the transformer learns its word vectors: words.embedding must be learned")
        if self.decoder.name != "transformer" and sized != (self.words.embedding == "learned"):
            what = "learned word vectors need" if not sized else "pretrained word vectors have a size: leave out"
            raise ValueError(f"{what} decoder.word_size")
        if any(phase.encoder_learning_rate for phase in self.phases.values()) and not self.encoder.trained_from:
            raise ValueError("encoder_learning_rate needs encoder.trained_from, the first layer to train")
        return self

    def to_yaml(self) -> str:
        """The recipe as a file that `load` reads."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


def names() -> list[str]:
    """The recipes in the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in RECIPES.iterdir() if entry.name.endswith(".yaml"))


def figures() -> dict[str, Any]:
    """How well each recipe of the package does, by name: what `benchmarks.models_table` measured."""
    path = RECIPES / "figures.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def load(name_or_path: str, changes: Sequence[str] = ()) -> Recipe:
    """Reads a recipe of the package by its name, or a YAML file.

    Args:
      name_or_path: a path where it ends in `.yaml` or `.yml`.
      changes: fields to set to something else, each `section.field=value`, the value in YAML.

    Raises:
      RecipeError: there is none, it is no YAML, or a field is missing, unknown or out of range.
    """
    return parse(text_of(name_or_path), name_or_path, changes)


def text_of(name_or_path: str) -> str:
    """The recipe's YAML as it is written, comments and all.

    Raises:
      RecipeError: there is none.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        path: Any = Path(name_or_path)
        if not path.is_file():
            raise RecipeError(f"no recipe file {name_or_path}")
    else:
        path = RECIPES / f"{name_or_path}.yaml"
        if not path.is_file():
            nearest = difflib.get_close_matches(name_or_path, names(), n=1, cutoff=0)[0]
            raise RecipeError(
                f"no recipe {name_or_path!r} (did you mean {nearest}?): `beamscribe recipes` lists them, "
                "or give a path that ends in .yaml"
            )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecipeError(f"can't read {name_or_path}: it is not UTF-8") from None
    except OSError as error:
        raise RecipeError(f"can't read {name_or_path}: {one_line(error)}") from None


def parse(text: str, source: str, changes: Sequence[str] = ()) -> Recipe:
    """Reads a recipe from YAML text; `source` names it in errors, `changes` are those of `load`.

    Raises:
      RecipeError: as for `load`.
    """
    fields = _read(text, source)
    if not isinstance(fields, dict):
        raise RecipeError(f"{source} is not a recipe: expected fields such as encoder and decoder")
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise RecipeError(f"{change!r} sets nothing: write section.field=value")
        *sections, field = name.split(".")
        place = fields
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise RecipeError(f"{change!r}: {section} has no fields")
        place[field] = _read(value, repr(change))
    try:
        return Recipe.model_validate(fields)
    except pydantic.ValidationError as error:
        raise RecipeError(f"{source}: {'; '.join(_explain(fault) for fault in error.errors())}") from None


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-4` is a number, as in YAML 1.2, for PyYAML a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), [*"-+0123456789"]
)


def _read(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is not valid YAML: {one_line(error)}") from None


def _explain(fault: Any) -> str:
    """One clause about one fault, with the nearest right name for a misspelt field."""
    message = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return message
    place = [str(part) for part in fault["loc"]]
    section = Recipe
    path = []
    for part in place[:-1]:
        section, is_field = _section(section, part)
        path += [part] * is_field
    field = ".".join([*path, place[-1]])
    if fault["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(place[-1], section.model_fields, n=1, cutoff=0)
        return f"unknown field {field}" + (f" (did you mean {nearest[0]}?)" if nearest else "")
    if fault["type"] in ("missing", "union_tag_not_found"):
        return f"the field {field} is missing" if fault["type"] == "missing" else f"the field {field}.name is missing"
    if fault["type"] == "union_tag_invalid":
        tag, expected = fault["ctx"]["tag"], fault["ctx"]["expected_tags"].replace("'", "")
        return f"{field}.name: must be one of {expected}, found {tag!r}"
    return f"{field}: {message[0].lower()}{message[1:]}, found {fault['input']!r}"


def _section(section: Any, part: str) -> tuple[Any, bool]:
    """The section below another, and whether `part` is its field; if not, it is the name that chose it of several."""
    if isinstance(section, tuple):
        return next(kind for kind in section if part in get_args(kind.model_fields["name"].annotation)), False
    annotation = section.model_fields[part].annotation
    kinds = tuple(kind for kind in get_args(annotation) or (annotation,) if kind is not type(None))
    return (kinds if len(kinds) > 1 else kinds[0]), True

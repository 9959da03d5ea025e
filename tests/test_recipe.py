import pytest
import yaml

from model import recipe
from model.recipe import RecipeError
from tests.conftest import TINY_RECIPE


def changed(**changes):
    """`TINY_RECIPE` with other values, such as `cross_entropy__epochs=3`; None takes a field away."""
    fields = yaml.safe_load(TINY_RECIPE)
    for place, value in changes.items():
        *sections, name = place.split("__")
        section = fields
        for part in sections:
            section = section[part]
        if value is None:
            del section[name]
        else:
            section[name] = value
    return yaml.safe_dump(fields, allow_unicode=True)


def test_reads_all_fields():
    tiny = recipe.parse(TINY_RECIPE, "tiny.yaml")
    assert tiny.encoder == recipe.Encoder(name="efficientnet_lite0", image_size=64)
    assert tiny.cross_entropy.learning_rate == 0.003
    assert tiny.self_critical.samples == 3
    # Defaults.
    assert (tiny.seed, tiny.cross_entropy.warmup_steps, tiny.cross_entropy.clip_norm) == (0, 0, 1.0)


def test_what_a_recipe_writes_is_the_same_recipe():
    tiny = recipe.parse(changed(description="Décrit."), "tiny.yaml")
    assert "Décrit." in tiny.to_yaml()
    assert recipe.parse(tiny.to_yaml(), "again") == tiny
    short = recipe.parse(changed(self_critical=None), "short.yaml")
    assert short.self_critical is None
    assert recipe.parse(short.to_yaml(), "again") == short != tiny


@pytest.mark.parametrize("name", recipe.names())
def test_recipes_of_the_package_are_right(name):
    packaged = recipe.load(name)
    assert packaged.name == name
    assert packaged.search.max_length <= packaged.words.max_words
    assert packaged.decoder.width % packaged.decoder.heads == 0


def test_loads_by_name_or_path(tmp_path):
    assert "transformer" in recipe.names()
    path = tmp_path / "mine.yaml"
    path.write_text(TINY_RECIPE, encoding="utf-8")
    assert recipe.load(str(path)) == recipe.parse(TINY_RECIPE, "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", r"no recipe 'absent': the package has .*transformer.*\.yaml"),
        ("absent.yaml", r"no recipe file absent\.yaml"),
        ("absent.yml", r"no recipe file absent\.yml"),
    ],
)
def test_says_that_there_is_no_such_recipe(name, message):
    with pytest.raises(RecipeError, match=message):
        recipe.load(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("just words", "not a recipe"),
        ("", "not a recipe"),
        (changed(encoder=None), "the field encoder is missing"),
        (changed(cross_entropy__patience=None), r"the field cross_entropy\.patience is missing"),
        (changed(decoder__widht=32), r"unknown field decoder\.widht \(did you mean width\?\)"),
        (changed(self_critical__sample=32), r"unknown field self_critical\.sample \(did you mean samples\?\)"),
        (changed(serach=3), r"unknown field serach \(did you mean search\?\)"),
        (changed(encoder__name="resnet"), r"encoder\.name: .*efficientnet_lite0.*found 'resnet'"),
        (changed(encoder__image_size=16), r"encoder\.image_size: .*32, found 16"),
        (changed(cross_entropy__dropout=1), r"cross_entropy\.dropout: .*less than 1, found 1"),
        (changed(cross_entropy__learning_rate=0), r"learning_rate: .*greater than 0, found 0"),
        (changed(cross_entropy__epochs="3"), r"cross_entropy\.epochs: .*valid integer, found '3'"),
        (changed(cross_entropy__epochs=2.5), r"cross_entropy\.epochs: .*integer, found 2\.5"),
        (changed(cross_entropy__mirror="yes please"), r"cross_entropy\.mirror: .*found 'yes please'"),
        (changed(self_critical__samples=1), r"self_critical\.samples: .*2, found 1"),
        (changed(decoder__heads=5), r"decoder\.heads: must divide the width, 32, found 5"),
        (changed(search__max_length=9), r"search: max_length must be at most words\.max_words, 8, found"),
        (changed(decoder=3), r"decoder: .*found 3"),
        (changed(words__min_count=0, search__beam_width=0), r"words\.min_count: .*; search\.beam_width: "),
    ],
)
def test_says_in_one_line_what_is_wrong(text, message):
    with pytest.raises(RecipeError, match=message) as error:
        recipe.parse(text, "my.yaml")
    assert str(error.value).startswith("my.yaml")
    assert "\n" not in str(error.value)

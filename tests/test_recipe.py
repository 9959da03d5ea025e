import pytest
import yaml

from beamscribe.jobs import cli
from beamscribe.model import recipe
from beamscribe.model.recipe import RecipeError
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


MERGE = {
    "name": "merge",
    "image": "pooled",
    "image_layers": [8],
    "units": 8,
    "merge": "add",
    "hidden": 8,
}


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
    # What it writes, such as into a bundle, is what it was.
    assert recipe.parse(packaged.to_yaml(), "again") == packaged


def test_loads_by_name_or_path(tmp_path):
    assert "transformer" in recipe.names()
    path = tmp_path / "mine.yaml"
    path.write_text(TINY_RECIPE, encoding="utf-8")
    assert recipe.load(str(path)) == recipe.parse(TINY_RECIPE, "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("transfomer", r"no recipe 'transfomer' \(did you mean transformer\?\): `beamscribe recipes` lists .*\.yaml"),
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
        (changed(encoder__name="resnet50"), r"encoder\.name: .*did you mean ResNet50\?\), found 'resnet50'"),
        (changed(decoder__name="merg"), r"decoder\.name: must be one of transformer, merge, .*, found 'merg'"),
        (changed(decoder__name=None), r"the field decoder\.name is missing"),
        (changed(decoder={"name": "merge", "unit": 3}), r"unknown field decoder\.unit \(did you mean units\?\)"),
        (
            changed(decoder={"name": "merge", "image": "pool"}),
            r"decoder\.image: .*'pooled' or 'flattened', found 'pool'",
        ),
        (changed(words__embedding="glove"), r"words\.embedding must be learned"),
        (changed(decoder=MERGE), r"learned word vectors need decoder\.word_size"),
        (
            changed(decoder={**MERGE, "word_size": 3}, words__embedding="glove"),
            r"pretrained word vectors have a size: leave out decoder\.word_size",
        ),
        (changed(cross_entropy__encoder_learning_rate=0.1), r"needs encoder\.trained_from"),
        (changed(encoder__image_size=16), r"encoder\.image_size: .*32, found 16"),
        (changed(encoder__image_size=4096), r"encoder\.image_size: .*2048, found 4096"),
        (changed(words__max_words=1001), r"words\.max_words: .*1000, found 1001"),
        (changed(cross_entropy__dropout=1), r"cross_entropy\.dropout: .*less than 1, found 1"),
        (changed(cross_entropy__learning_rate=0), r"learning_rate: .*greater than 0, found 0"),
        (changed(cross_entropy__epochs="3"), r"cross_entropy\.epochs: .*valid integer, found '3'"),
        (changed(cross_entropy__epochs=2.5), r"cross_entropy\.epochs: .*integer, found 2\.5"),
        (changed(cross_entropy__mirror="yes please"), r"cross_entropy\.mirror: .*found 'yes please'"),
        (changed(self_critical__samples=1), r"self_critical\.samples: .*2, found 1"),
        (changed(decoder__heads=5), r"decoder\.heads: must divide the width, 32, found 5"),
        (changed(search__max_length=9), r"search: max_length must be at most words\.max_words, 8, found"),
        (changed(search__min_length=9), r"search: min_length must be at most max_length, 6, found"),
        (changed(search__beam_width=101), r"search\.beam_width: .*100, found 101"),
        (changed(words__max_words=2, search__max_length=2, search__no_repeat_ngram=3), r"at most words\.max_words, 2"),
        (changed(search__length_penalty=-1.0), r"search\.length_penalty: .*0, found -1"),
        (changed(seed=-1), r"seed: .*0, found -1"),
        (changed(decoder=3), r"decoder: .*found 3"),
        (changed(words__min_count=0, search__beam_width=0), r"words\.min_count: .*; search\.beam_width: "),
    ],
)
def test_says_in_one_line_what_is_wrong(text, message):
    with pytest.raises(RecipeError, match=message) as error:
        recipe.parse(text, "my.yaml")
    assert str(error.value).startswith("my.yaml")
    assert "\n" not in str(error.value)


def test_fields_are_changed_by_name():
    changes = ["cross_entropy.epochs=7", "encoder={name: ResNet50}", "self_critical=null", "seed=3", "name=a=b"]
    found = recipe.parse(TINY_RECIPE, "tiny", changes)
    assert (found.cross_entropy.epochs, found.self_critical, found.seed, found.name) == (7, None, 3, "a=b")
    assert found.encoder.name == "ResNet50"
    assert found.decoder == recipe.parse(TINY_RECIPE, "tiny").decoder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs", "'epochs' sets nothing: write section.field=value"),
        ("cross_entropy.epoch=3", r"unknown field cross_entropy\.epoch \(did you mean epochs\?\)"),
        ("name.first=3", "name has no fields"),
        ("seed=[", r"'seed=\[' is not valid YAML"),
    ],
)
def test_says_what_is_wrong_with_a_change(change, message):
    with pytest.raises(RecipeError, match=message) as error:
        recipe.parse(TINY_RECIPE, "tiny", [change])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "value"), [("7e-4", 7e-4), ("1E-3", 1e-3), ("2.5e+1", 25.0), ("5.0e-2", 0.05)])
def test_numbers_are_read_as_people_write_them(text, value):
    found = recipe.parse(TINY_RECIPE, "tiny", [f"cross_entropy.learning_rate={text}"])
    assert found.cross_entropy.learning_rate == value


@pytest.mark.parametrize(("name", "size"), [("efficientnet_lite2", 260), ("InceptionV3", 299), ("MobileNetV2", 224)])
def test_an_encoder_has_a_size_of_its_own(name, size):
    assert recipe.Encoder.model_validate({"name": name}).image_size == size
    assert recipe.Encoder.model_validate({"name": name, "image_size": 96}).image_size == 96


def test_lists_and_shows_recipes(capsys, monkeypatch):
    figures = {"transformer": {"parameters": 5_123_456, "beam_3": {"cider": 56.78, "bleu_4": 23.45}}}
    figures["transformer"]["beam_3"]["captions_per_second"] = 31.4
    monkeypatch.setattr(recipe, "figures", lambda: figures)
    assert cli.main(["recipes"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert set(recipe.names()) < set(lines)
    expected = ["efficientnet_lite2", "transformer", "5,123,456", "56.8", "23.4", "31.4"]
    assert lines["transformer"][1:] == expected
    assert lines["merge_add"][1:] == ["Xception", "merge", "-", "-", "-", "-"]

    assert cli.main(["recipes", "show", "transformer"]) == 0
    shown = capsys.readouterr().out
    assert recipe.parse(shown, "shown") == recipe.load("transformer")
    assert "#" in shown
    assert cli.main(["recipes", "show", "transfomer"]) == 2
    error = capsys.readouterr().err
    assert "did you mean transformer?" in error and error.count("\n") == 1

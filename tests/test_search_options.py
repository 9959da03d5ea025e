"""The options that say how captions are written, and what `beamscribe evaluate` makes of them."""

import argparse
import shutil

import pytest

from beamscribe.jobs import command_line
from beamscribe.jobs.commands import evaluate
from beamscribe.jobs.options import search_options
from beamscribe.model import bundle, caption_settings
from beamscribe.model.bundle import Description
from beamscribe.model.caption_settings import CaptionSettings
from beamscribe.model.captioners.exported_model import CaptionModel
from beamscribe.model.errors import InputError
from beamscribe.pipelines.images import to_pixels

MODEL = Description(
    fingerprint="0123456789abcdef",
    name="model",
    image_size=64,
    longest=20,
    settings=CaptionSettings(3, 18, min_length=2, length_penalty=0.5),
)


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    search_options.add_arguments(parser)
    search_options.add_rare_arguments(parser)
    return parser.parse_args(arguments)


def chosen(*arguments: str) -> CaptionSettings:
    return caption_settings.chosen(search_options.given(parsed(*arguments)), MODEL.settings, MODEL.longest)


def test_every_setting_has_its_option():
    assert {*vars(parsed())} == {*CaptionSettings._fields, "bundle"}


def test_what_is_not_given_stays_as_the_bundle_has_it():
    assert chosen() == MODEL.settings
    found = chosen("--min-length", "5", "--no-repeat-ngram", "3")
    assert found == MODEL.settings._replace(min_length=5, no_repeat_ngram=3)


def test_what_is_given_is_taken():
    found = chosen("--beam-width", "5", "--length-penalty", "2", "--max-length", "20", "--min-length", "20")
    assert found == MODEL.settings._replace(beam_width=5, length_penalty=2.0, max_length=20, min_length=20)
    found = chosen("--top-p", "1", "--temperature", "0.5", "--seed", "7")
    assert found == MODEL.settings._replace(top_p=1.0, temperature=0.5, seed=7)
    # However a number is typed, its type is the setting's, and so the fingerprint the same.
    assert found.fingerprint == CaptionSettings(3, 18, 2, 0.5, 0, 1.0, 0.5, 7).fingerprint


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--beam-width", "0"], "--beam-width 0: must be from 1 to 100"),
        (["--max-length", "0"], "--max-length 0: must be at least 1"),
        (["--max-length", "99"], "--max-length 99: the model writes at most 20 words"),
        (["--min-length", "0"], "--min-length 0: must be at least 1"),
        (["--min-length", "19"], "--min-length 19: must be at most --max-length, 18"),
        (["--min-length", "5", "--max-length", "4"], "--min-length 5: must be at most --max-length, 4"),
        (["--length-penalty", "-1"], "--length-penalty -1.0: must be from 0 to 10"),
        (["--length-penalty", "nan"], "--length-penalty nan: must be from 0 to 10"),
        (["--no-repeat-ngram", "-1"], "--no-repeat-ngram -1: must be at least 0"),
        (["--no-repeat-ngram", "21"], "--no-repeat-ngram 21: the model writes at most 20 words"),
        (["--top-p", "0"], "--top-p 0.0: must be above 0, up to 1"),
        (["--top-p", "1.1"], "--top-p 1.1: must be above 0, up to 1"),
        (["--top-p", "0.9", "--temperature", "0"], "--temperature 0.0: must be from 0.01 to 100"),
        (["--top-p", "0.9", "--temperature", "inf"], "--temperature inf: must be from 0.01 to 100"),
        (["--top-p", "0.9", "--seed", "-1"], "--seed -1: must be at least 0"),
        (["--temperature", "2"], "--temperature has no effect without --top-p; give --top-p, too"),
        (["--seed", "2"], "--seed has no effect without --top-p; give --top-p, too"),
        (["--top-p", "0.9", "--beam-width", "2"], "--beam-width has no effect with --top-p; leave out one of the two"),
        # The other one may be the bundle's.
        (["--max-length", "1"], "--min-length 2: must be at most --max-length, 1"),
        (
            ["--top-p", "0.9", "--length-penalty", "1"],
            "--length-penalty has no effect with --top-p; leave out one of the two",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(arguments, complaint):
    with pytest.raises(InputError) as error:
        chosen(*arguments)
    assert command_line.text_of(error.value) == complaint


@pytest.fixture
def images(tmp_path, make_photo):
    for index in range(40):
        make_photo(tmp_path / "images" / f"{index}.jpg")
    return tmp_path / "images"


def evaluated(images, folder, *arguments):
    """The captions that `beamscribe evaluate` scores, by file name."""
    options = parsed(*arguments)
    options.images, options.bundle = str(images), str(folder)
    return evaluate._caption(options, sorted(path.name for path in images.iterdir()))[0]


def test_evaluate_captions_as_its_options_ask(images, tiny_bundle):
    pixels = to_pixels.convert((images / "7.jpg").read_bytes(), 64).pixels
    settings = bundle.describe(tiny_bundle).settings
    free = evaluated(images, tiny_bundle, "--length-penalty", "0")
    assert len(free) == 40
    expected, _ = CaptionModel(tiny_bundle).caption(pixels[None], settings._replace(length_penalty=0.0))
    assert free["7.jpg"] == expected[0, 0]
    bound = evaluated(images, tiny_bundle, "--min-length", "5", "--no-repeat-ngram", "1", "--beam-width", "4")
    assert any(len(caption.split()) < 5 for caption in free.values())
    assert all(len(caption.split()) == len(set(caption.split())) >= 5 for caption in bound.values())


def test_evaluate_draws_the_same_wherever_the_photos_lie(images, tmp_path, tiny_bundle):
    drawing = ("--top-p", "0.95", "--temperature", "2")
    drawn = evaluated(images, tiny_bundle, *drawing)
    assert len(set(drawn.values())) > 30
    shutil.copytree(images, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "0.jpg").unlink()
    del drawn["0.jpg"]
    assert evaluated(tmp_path / "elsewhere", tiny_bundle, *drawing) == drawn
    other = evaluated(images, tiny_bundle, *drawing, "--seed", "1")
    assert sum(other[photo] == caption for photo, caption in drawn.items()) < 10

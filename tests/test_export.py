"""From a decoder in memory to a bundle on disk, and back to captions."""

import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from model import bundle, decoders, encoders, recipe, search
from model.bundle import BundleWriter, CaptionModel, CaptionSettings
from model.errors import UserError
from model.vocabulary import SPECIALS, Vocabulary
from tests.conftest import TINY_RECIPE

SAMPLES = Path(__file__).parent.parent / "samples"
WORDS = ["a", "dog", "'s", "caf\u00e9", "t-shirt", "runs", "in", "grass"]
LONGEST = 8


class Exported:
    """A bundle with random weights, and the same model in Python with the weights that a bundle can hold."""

    def __init__(self, folder):
        self.folder = folder
        self.recipe = recipe.parse(TINY_RECIPE, "tiny")
        self.vocabulary = Vocabulary([*SPECIALS, *WORDS])
        self.encoder = encoders.build(self.recipe.encoder)
        shape = encoders.feature_shape(self.recipe.encoder)
        keras.utils.set_random_seed(0)
        self.decoder = decoders.build(self.recipe, len(self.vocabulary), shape)
        # First weights write much the same for all photos; these write five captions, and none that are nearly as good.
        noise = np.random.default_rng(89)
        self.decoder.set_weights([array + noise.normal(0, 0.2, array.shape) for array in self.decoder.get_weights()])
        positions = self.decoder.word_positions.embeddings
        positions.assign(noise.normal(0, 2.0, positions.shape))
        with BundleWriter(folder) as writer:
            writer.add_model(self.recipe, self.encoder, self.decoder, self.vocabulary)
            writer.add_metrics({"cider": 1.5}, "# Card\n")
        self.parameters = self.encoder.count_params() + self.decoder.count_params()
        for model in (self.encoder, self.decoder):
            model.set_weights([array.astype("float16").astype("float32") for array in model.get_weights()])
        self.model = CaptionModel(folder)

    def expected(self, images, settings):
        """Captions and scores in Python."""
        ids, scores = search.beam_search(self.decoder, self.encoder(images), *settings)
        captions = [[self.text(row) for row in rows] for rows in np.asarray(ids)]
        return captions, np.asarray(scores)

    def text(self, row):
        return re.sub(" '", "'", " ".join(self.vocabulary.decode(row)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return Exported(tmp_path_factory.mktemp("bundles") / "new" / "tiny")


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the bundle that may be damaged."""
    return shutil.copytree(exported.folder, tmp_path / "copied")


@pytest.fixture(scope="module")
def images():
    names = ("astronaut", "bridge", "coffee", "lake", "skyline")
    photos = [Image.open(SAMPLES / f"{name}.jpg").resize((64, 64)) for name in names]
    return np.stack([np.asarray(photo) for photo in photos])


@pytest.mark.parametrize("length", [1, LONGEST])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_bundle_writes_what_the_model_in_python_does(exported, images, width, length):
    settings = CaptionSettings(width, length)
    captions, scores = exported.model.caption(images, settings)
    assert captions.shape == scores.shape == (5, width)
    assert captions.dtype.kind == "U" and scores.dtype == np.float32
    expected_captions, expected_scores = exported.expected(images, settings)
    assert captions.tolist() == expected_captions
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-3, atol=1e-4)


def test_the_captions_say_something(exported, images):
    captions, _ = exported.model.caption(images, CaptionSettings(4, LONGEST))
    assert len(set(captions[:, 0])) == 5
    assert all(len(set(beams)) == 4 for beams in captions.tolist())
    assert any("caf\u00e9" in caption for caption in captions.flat)
    assert not any("<" in caption for caption in captions.flat)


def test_clitics_are_joined_to_the_word_before(exported, images):
    captions, _ = exported.model.caption(images, CaptionSettings(4, LONGEST))
    assert any(re.search(r"\w's\b", caption) for caption in captions.flat)
    assert not any(" '" in caption or caption != caption.strip() for caption in captions.flat)


def test_a_photo_alone_gets_the_caption_that_it_gets_among_others(exported, images):
    settings = CaptionSettings(2, LONGEST)
    captions, scores = exported.model.caption(images, settings)
    for place in range(len(images)):
        alone, score = exported.model.caption(images[place : place + 1], settings)
        assert alone.tolist() == [captions[place].tolist()]
        np.testing.assert_allclose(score[0], scores[place], rtol=1e-3)


def test_stored_features_get_the_captions_of_their_photos(exported, images):
    settings = CaptionSettings(2, LONGEST)
    features = exported.model.features(images)
    assert features.shape == (5, 2, 2, 1280) and features.dtype == np.float16
    np.testing.assert_allclose(features.astype("float32"), exported.encoder(images), atol=0.01)
    captions, scores = exported.model.caption_features(features, settings)
    expected, expected_scores = exported.model.caption(images, settings)
    assert captions.tolist() == expected.tolist()
    np.testing.assert_allclose(scores, expected_scores, rtol=0.01)


def test_features_are_those_that_prepare_stores(exported, images):
    prepared = encoders.FeatureExtractor(exported.recipe.encoder)(images).astype("float32")
    difference = exported.model.features(images).astype("float32") - prepared
    # Weights of half precision move features a little.
    assert np.linalg.norm(difference) / np.linalg.norm(prepared) < 0.01


def test_weights_are_stored_once_and_in_half_precision(exported):
    variables = exported.folder / "saved_model" / "variables"
    stored = [
        tf.dtypes.as_dtype(dtype)
        for dtype in tf.train.load_checkpoint(str(variables / "variables")).get_variable_to_dtype_map().values()
    ]
    assert set(stored) <= {tf.float16, tf.string}
    size = sum(path.stat().st_size for path in variables.iterdir())
    assert 2 * exported.parameters <= size < 2.1 * exported.parameters
    # Nor are they in the graph, as constants.
    assert (exported.folder / "saved_model" / "saved_model.pb").stat().st_size < exported.parameters


def test_a_bundle_describes_itself(exported):
    description = bundle.describe(exported.folder)
    assert (description.name, description.image_size, description.longest) == ("tiny", 64, LONGEST)
    assert description.settings == CaptionSettings(beam_width=2, max_length=6)
    assert re.fullmatch("[0-9a-f]{16}", description.fingerprint)
    assert recipe.load(str(exported.folder / "recipe.yaml")) == exported.recipe
    assert Vocabulary.load(exported.folder / "vocabulary.txt").words == exported.vocabulary.words
    assert json.loads((exported.folder / "metrics.json").read_text()) == {"cider": 1.5}
    assert (exported.folder / "MODEL_CARD.md").read_text() == "# Card\n"
    assert exported.model.image_size == 64


def test_settings_have_a_fingerprint_of_their_own():
    fingerprints = {CaptionSettings(*values).fingerprint for values in [(1, 20), (2, 20), (1, 12), (12, 0)]}
    assert len(fingerprints) == 4
    assert CaptionSettings(3, 20).fingerprint == CaptionSettings(max_length=20, beam_width=3).fingerprint


def test_a_changed_byte_is_seen_in_every_file_that_captions_depend_on(copied):
    before = bundle.describe(copied)
    files = [path for path in (copied / "saved_model").rglob("*") if path.is_file()]
    assert {"saved_model.pb", "variables.index"} < {path.name for path in files}
    for path in [*files, copied / "recipe.yaml", copied / "vocabulary.txt"]:
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        with pytest.raises(UserError, match="copied is damaged"):
            bundle.describe(copied)
        with pytest.raises(UserError, match="damaged"):
            CaptionModel(copied)
        path.write_bytes(content)
    assert bundle.describe(copied) == before


@pytest.mark.parametrize(
    "name", ["saved_model/saved_model.pb", "saved_model/variables/variables.index", "recipe.yaml", "vocabulary.txt"]
)
def test_a_missing_file_is_seen(copied, name):
    (copied / name).unlink()
    with pytest.raises(UserError, match="copied is damaged"):
        bundle.describe(copied)


def test_figures_and_card_may_be_changed(copied):
    before = bundle.describe(copied)
    (copied / "metrics.json").unlink()
    (copied / "MODEL_CARD.md").write_text("Another.")
    assert bundle.describe(copied) == before


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint": "0", "colour": 1, "settings": {}}'])
def test_says_that_the_description_is_damaged(copied, content):
    (copied / "bundle.json").write_text(content)
    with pytest.raises(UserError, match=r"bundle\.json is damaged"):
        bundle.describe(copied)


def test_says_what_is_no_bundle(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(UserError, match=r"is not a model bundle: it has no bundle\.json") as error:
            bundle.describe(folder)
        assert str(folder) in str(error.value)


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(InterruptedError), BundleWriter(tmp_path / "bundle") as writer:
        writer.add_metrics({}, "")
        assert any(writer.path.iterdir())
        assert not (tmp_path / "bundle").exists()
        raise InterruptedError
    assert not list(tmp_path.iterdir())


def test_a_writer_refuses_a_place_that_is_taken(tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine").write_text("kept")
    with pytest.raises(UserError, match="bundle is there already"), BundleWriter(tmp_path / "bundle"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "mine"]


def test_a_written_bundle_is_all_that_is_left(exported):
    assert [path.name for path in exported.folder.parent.iterdir()] == ["tiny"]
    expected = {"saved_model", "recipe.yaml", "vocabulary.txt", "bundle.json", "metrics.json", "MODEL_CARD.md"}
    assert {path.name for path in exported.folder.iterdir()} == expected

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

from beamscribe.model import bundle, decoders, encoders, recipe, search
from beamscribe.model.bundle import BundleWriter
from beamscribe.model.caption_settings import CaptionSettings, draws
from beamscribe.model.captioners.exported_model import CaptionModel
from beamscribe.model.errors import BeamscribeError
from beamscribe.model.search import Rules
from beamscribe.model.words.vocabulary import SPECIALS, Vocabulary
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
        self.decoder = decoders.build(self.recipe, len(self.vocabulary), shape, dropout=0.3)
        # First weights write much the same for all photos; these write five captions, and none that are nearly as good.
        noise = np.random.default_rng(35)
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

    def expected(self, images, settings, uniforms=None):
        """Captions and scores in Python."""
        rules = Rules(settings.max_length, settings.min_length, settings.no_repeat_ngram)
        features = self.encoder(images)
        if uniforms is None:
            found = search.beam_search(self.decoder, features, settings.beam_width, rules, settings.length_penalty)
        else:
            found = search.sample(self.decoder, features, uniforms, rules, settings.top_p, settings.temperature)
        ids, scores = map(np.asarray, found)
        best_first = (
            np.argsort(-scores, axis=-1, kind="stable") if uniforms is not None else np.indices(scores.shape)[1]
        )
        ids, scores = np.take_along_axis(ids, best_first[..., None], 1), np.take_along_axis(scores, best_first, 1)
        return [[self.text(row) for row in rows] for rows in ids], scores

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


SETTINGS = [
    CaptionSettings(1, LONGEST),
    CaptionSettings(2, 1),
    CaptionSettings(4, LONGEST),
    CaptionSettings(4, LONGEST, length_penalty=0.0),
    CaptionSettings(3, LONGEST, min_length=LONGEST, length_penalty=2.5),
    CaptionSettings(3, LONGEST, no_repeat_ngram=1),
    CaptionSettings(3, 7, min_length=6, no_repeat_ngram=2),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_bundle_writes_what_the_model_in_python_does(exported, images, settings):
    captions, scores = exported.model.caption(images, settings)
    assert captions.shape == scores.shape == (5, settings.beam_width)
    assert captions.dtype.kind == "U" and scores.dtype == np.float32
    expected_captions, expected_scores = exported.expected(images, settings)
    assert captions.tolist() == expected_captions
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-3, atol=1e-4)


def test_every_setting_of_the_search_matters(exported, images):
    assert len({str(exported.model.caption(images, settings)[0].tolist()) for settings in SETTINGS}) == len(SETTINGS)


DRAWN = CaptionSettings(1, LONGEST, top_p=0.9)
DRAWING = [
    DRAWN,
    DRAWN._replace(top_p=0.3),
    DRAWN._replace(temperature=3.0),
    DRAWN._replace(max_length=3),
    DRAWN._replace(min_length=7, no_repeat_ngram=1),
]


@pytest.mark.parametrize("settings", DRAWING)
def test_a_bundle_draws_what_the_model_in_python_does(exported, images, settings):
    uniforms = draws("abcde", settings, 6, LONGEST)
    captions, scores = exported.model.caption(images, settings, uniforms)
    assert captions.shape == scores.shape == (5, 6)
    assert (np.diff(scores, axis=-1) <= 0).all()
    expected_captions, expected_scores = exported.expected(images, settings, uniforms)
    assert captions.tolist() == expected_captions
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-3, atol=1e-4)


def test_every_setting_of_the_drawing_matters(exported, images):
    def drawn(settings):
        return str(exported.model.caption(images, settings, draws("abcde", settings, 6, LONGEST))[0].tolist())

    assert len({drawn(settings) for settings in [*DRAWING, DRAWN._replace(seed=1)]}) == len(DRAWING) + 1
    # Those of the search do not.
    assert drawn(DRAWN) == drawn(DRAWN._replace(beam_width=3, length_penalty=0.0))


def test_a_photo_is_drawn_the_same_captions_in_any_batch(exported, images):
    def drawn(places, captions=4):
        names = [f"{place}.jpg" for place in places]
        return exported.model.caption(images[places], DRAWN, draws(names, DRAWN, captions, LONGEST))[0].tolist()

    together = drawn([0, 1, 2, 3, 4])
    assert drawn([2]) == together[2:3]
    assert drawn([4, 1, 0]) == [together[4], together[1], together[0]]
    # More of them are the same and others.
    assert all(set(few) <= set(many) for few, many in zip(together, drawn([0, 1, 2, 3, 4], 8), strict=True))


def test_draws_depend_on_the_seed_and_the_name_alone():
    names = ["/photos/a.jpg", "/photos/b.jpg", "/photos/\udcff.jpg", "gs://photos/\u00e9.jpg"]
    made = draws(names, DRAWN, 3, LONGEST)
    assert made.shape == (4, 3, LONGEST + 1) and made.dtype == np.float32
    assert made.min() >= 0 and made.max() < 1
    assert len(np.unique(made)) == made.size
    assert made.mean() == pytest.approx(0.5, abs=5 / np.sqrt(12 * made.size))
    np.testing.assert_array_equal(draws(names, DRAWN._replace(beam_width=7, top_p=0.1), 3, LONGEST), made)
    np.testing.assert_array_equal(draws(names[::-1], DRAWN, 3, LONGEST), made[::-1])
    np.testing.assert_array_equal(draws(names[1:2], DRAWN, 2, LONGEST), made[1:2, :2])
    assert not (draws(names, DRAWN._replace(seed=1), 3, LONGEST) == made).any()
    # The same numbers in every process.
    np.testing.assert_allclose(made[0, 0, :3], [0.7557298, 0.9239282, 0.0544485], rtol=1e-5)


def test_nothing_is_drawn_where_captions_are_searched_for():
    assert draws(["a.jpg"], CaptionSettings(2, 6), 3, LONGEST) is None


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
    uniforms = draws("abcde", DRAWN, 2, LONGEST)
    captions, scores = exported.model.caption_features(features, DRAWN, uniforms)
    expected, expected_scores = exported.model.caption(images, DRAWN, uniforms)
    assert captions.tolist() == expected.tolist()
    np.testing.assert_allclose(scores, expected_scores, rtol=0.01)


def test_features_are_those_that_prepare_stores(exported, images):
    prepared = encoders.FeatureExtractor(exported.recipe.encoder)(images).astype("float32")
    difference = exported.model.features(images).astype("float32") - prepared
    # Weights of half precision move features a little.
    assert np.linalg.norm(difference) / np.linalg.norm(prepared) < 0.01


def test_features_in_half_precision_are_nearly_those_in_float32(exported, images):
    signatures = exported.model._loaded.signatures
    half, full = (
        signatures[name](images=tf.constant(images))["features"].numpy() for name in ("features_half", "features")
    )
    assert half.dtype == full.dtype == np.float16 and half.shape == full.shape
    difference = np.linalg.norm(half.astype("float32") - full) / np.linalg.norm(full.astype("float32"))
    assert 0 < difference < 0.02
    # The model in memory is as it was.
    assert {layer.compute_dtype for layer in exported.encoder.layers} == {"float32"}


def test_only_one_signature_computes_in_half_precision(exported):
    signatures = exported.model._loaded.signatures
    assert {name: convolved_in(signature) for name, signature in signatures.items()} == {
        "features": {"float32"},
        "features_half": {"float16"},
        "caption": {"float32"},
        "caption_features": set(),
        "sample": {"float32"},
        "sample_features": set(),
    }


def convolved_in(signature):
    """The types that the convolutions of a signature, and of all that it calls, compute in."""
    functions = {function.signature.name: function for function in signature.graph.as_graph_def().library.function}
    wanted, found = [signature.graph.as_graph_def().node], set()
    while wanted:
        for node in wanted.pop():
            if "Conv2D" in node.op:
                found.add(tf.dtypes.as_dtype(node.attr["T"].type).name)
            called = node.attr["f"].func.name if "f" in node.attr else ""
            if called in functions:
                wanted.append(functions.pop(called).node_def)
    return found


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
    assert (exported.folder / "saved_model" / "saved_model.pb").stat().st_size < 2 * exported.parameters


def test_a_bundle_describes_itself(exported):
    description = bundle.describe(exported.folder)
    assert (description.name, description.image_size, description.longest) == ("tiny", 64, LONGEST)
    assert description.settings == CaptionSettings(beam_width=2, max_length=6)
    assert re.fullmatch("[0-9a-f]{16}", description.fingerprint)
    assert recipe.load(str(exported.folder / "recipe.yaml")) == exported.recipe
    assert Vocabulary.load(exported.folder / "vocabulary.txt").words == exported.vocabulary.words
    assert json.loads((exported.folder / "metrics.json").read_text()) == {"cider": 1.5}
    assert (exported.folder / "MODEL_CARD.md").read_text() == "# Card\n"
    assert (exported.model.image_size, exported.model.longest) == (64, LONGEST)


def test_settings_have_a_fingerprint_of_their_own():
    settings = [*SETTINGS, *DRAWING, CaptionSettings(1, 20), CaptionSettings(12, 0), DRAWN._replace(seed=1)]
    assert len({one.fingerprint for one in settings}) == len(settings)
    assert CaptionSettings(3, 20).fingerprint == CaptionSettings(max_length=20, beam_width=3).fingerprint


def test_a_fingerprint_leaves_out_what_changes_no_caption():
    searched = CaptionSettings(3, 20)
    assert searched._replace(temperature=2.0, seed=5).fingerprint == searched.fingerprint
    drawn = searched._replace(top_p=0.9)
    assert drawn._replace(beam_width=5, length_penalty=0.0).fingerprint == drawn.fingerprint
    for name, value in {"max_length": 9, "min_length": 2, "no_repeat_ngram": 3}.items():
        for one in (searched, drawn):
            assert one._replace(**{name: value}).fingerprint != one.fingerprint


@pytest.fixture
def blank(exported):
    """Models of the bundle's shapes, with weights of their own."""
    encoder = encoders.build(exported.recipe.encoder.model_copy(update={"weights": "none"}))
    decoder = decoders.build(exported.recipe, len(exported.vocabulary), encoder.output_shape[1:], dropout=0.1)
    return encoder, decoder


def weights_are_equal(model, other):
    return all(np.array_equal(one, two) for one, two in zip(model.get_weights(), other.get_weights(), strict=True))


def test_weights_come_back_from_a_bundle(exported, blank, images):
    encoder, decoder = blank
    # Which weights training may change is no matter of the bundle.
    encoders.train_last_layers(encoder, encoder.layers[len(encoder.layers) // 2].name)
    before = decoder.get_weights()
    bundle.restore(exported.folder, encoder=encoder)
    assert weights_are_equal(encoder, exported.encoder)
    assert all(np.array_equal(*pair) for pair in zip(before, decoder.get_weights(), strict=True))
    bundle.restore(exported.folder, encoder, decoder)
    # The weights in Python were rounded to half precision, as the bundle's are.
    assert weights_are_equal(decoder, exported.decoder)
    np.testing.assert_array_equal(encoder(images), exported.encoder(images))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["decoder.width=16"], r"the decoder in .*tiny: .* is \(1280, 32\), the recipe's \(1280, 16\)"),
        (["decoder.decoder_layers=2"], r"the decoder in .*tiny has \d+ weights, the recipe's has \d+"),
    ],
)
def test_a_bundle_of_other_shapes_is_refused(exported, changes, complaint):
    other = recipe.parse(TINY_RECIPE, "tiny", changes)
    decoder = decoders.build(other, len(exported.vocabulary), encoders.feature_shape(other.encoder))
    with pytest.raises(BeamscribeError, match=complaint) as error:
        bundle.restore(exported.folder, decoder=decoder)
    assert "\n" not in str(error.value)


def test_only_whole_bundles_are_restored(exported, blank, copied, tmp_path):
    encoder, decoder = blank
    with pytest.raises(BeamscribeError, match="is not a model bundle"):
        bundle.restore(tmp_path, encoder, decoder)
    (copied / "vocabulary.txt").write_text("")
    with pytest.raises(BeamscribeError, match="is damaged"):
        bundle.restore(copied, encoder, decoder)
    assert bundle.is_bundle(str(exported.folder))
    assert not bundle.is_bundle(str(tmp_path)) and not bundle.is_bundle("imagenet")


def test_a_changed_byte_is_seen_in_every_file_that_captions_depend_on(copied):
    before = bundle.describe(copied)
    files = [path for path in (copied / "saved_model").rglob("*") if path.is_file()]
    assert {"saved_model.pb", "variables.index"} < {path.name for path in files}
    for path in [*files, copied / "recipe.yaml", copied / "vocabulary.txt"]:
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        with pytest.raises(BeamscribeError, match="copied is damaged"):
            bundle.describe(copied)
        with pytest.raises(BeamscribeError, match="damaged"):
            CaptionModel(copied)
        path.write_bytes(content)
    assert bundle.describe(copied) == before


@pytest.mark.parametrize(
    "name", ["saved_model/saved_model.pb", "saved_model/variables/variables.index", "recipe.yaml", "vocabulary.txt"]
)
def test_a_missing_file_is_seen(copied, name):
    (copied / name).unlink()
    with pytest.raises(BeamscribeError, match="copied is damaged"):
        bundle.describe(copied)


def test_figures_and_card_may_be_changed(copied):
    before = bundle.describe(copied)
    (copied / "metrics.json").unlink()
    (copied / "MODEL_CARD.md").write_text("Another.")
    assert bundle.describe(copied) == before


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint": "0", "colour": 1, "settings": {}}'])
def test_says_that_the_description_is_damaged(copied, content):
    (copied / "bundle.json").write_text(content)
    with pytest.raises(BeamscribeError, match=r"bundle\.json is damaged"):
        bundle.describe(copied)


def test_the_description_is_a_file_of_a_known_form(exported):
    """Its keys are those of version 0.1.0, the version, and the digest of the files; the settings are one object."""
    fields = json.loads((exported.folder / "bundle.json").read_text())
    assert list(fields) == ["format_version", "fingerprint", "name", "image_size", "longest", "settings", "files"]
    assert fields["format_version"] == 2
    assert fields["settings"] == CaptionSettings(beam_width=2, max_length=6)._asdict()


def test_a_bundle_of_a_newer_version_is_refused(copied):
    fields = json.loads((copied / "bundle.json").read_text())
    (copied / "bundle.json").write_text(json.dumps(fields | {"format_version": 3}))
    with pytest.raises(BeamscribeError, match=r"bundle\.json was written by a newer version of Beamscribe .*; upgrade"):
        bundle.describe(copied)


def test_a_description_without_a_digest_of_files_does_not_hide_a_change(copied):
    fields = json.loads((copied / "bundle.json").read_text())
    for other in ({"files": None}, {"files": ""}, {"files": fields["files"][:16]}, {"files": "0" * 64}):
        (copied / "bundle.json").write_text(json.dumps(fields | other))
        with pytest.raises(BeamscribeError, match="copied is damaged"):
            bundle.describe(copied)


def written(folder, recipe, encoder, decoder, vocabulary, **options):
    with BundleWriter(folder) as writer:
        writer.add_model(recipe, encoder, decoder, vocabulary, **options)
    return bundle.describe(folder).fingerprint


def test_the_fingerprint_is_of_weights_recipe_and_vocabulary_and_not_of_the_export(exported, blank, tmp_path):
    """So that another export of the same model does not make the rows of an archive outdated."""
    encoder, decoder = blank
    bundle.restore(exported.folder, encoder, decoder)
    parts = {"recipe": exported.recipe, "encoder": encoder, "decoder": decoder, "vocabulary": exported.vocabulary}
    again = written(tmp_path / "again", **parts)
    assert again == bundle.describe(exported.folder).fingerprint
    # The files are others, and so is what a pin is compared with.
    assert bundle.digest(tmp_path / "again") != bundle.digest(exported.folder)
    assert written(tmp_path / "kept", **parts, fingerprint="0123456789abcdef") == "0123456789abcdef"

    words = exported.vocabulary.words
    other = written(tmp_path / "words", **parts | {"vocabulary": Vocabulary([*words[:-1], "lawn"])})
    named = written(tmp_path / "named", **parts | {"recipe": exported.recipe.model_copy(update={"name": "other"})})
    first, *rest = decoder.get_weights()
    decoder.set_weights([first + 1, *rest])
    assert len({again, other, named, written(tmp_path / "weights", **parts)}) == 4


def test_what_a_process_has_left_that_was_killed_while_it_wrote_goes_with_the_next(tmp_path):
    place = tmp_path / "new"
    (tmp_path / f".new.{'a' * 32}" / "saved_model").mkdir(parents=True)
    others = [tmp_path / ".new.notes", tmp_path / f".newer.{'a' * 32}", tmp_path / f"new.{'a' * 32}"]
    for other in others:
        other.mkdir()
    with BundleWriter(place) as busy:
        with BundleWriter(place) as writer:
            assert {*tmp_path.iterdir()} == {*others, busy.path, writer.path}
        shutil.rmtree(place)
    assert {*tmp_path.iterdir()} == {*others, place}


def test_the_bundled_model_has_the_fingerprint_of_the_rows_of_earlier_versions():
    assert bundle.describe(bundle.DEFAULT).fingerprint == "4949407f1413234b"


def test_the_digest_is_of_all_that_is_loaded(copied):
    before = bundle.digest(copied)
    assert re.fullmatch("[0-9a-f]{64}", before)
    (copied / "MODEL_CARD.md").write_text("Another.")
    (copied / "notes").mkdir()
    (copied / "notes" / "a.txt").write_text("new")
    assert bundle.digest(copied) == before
    loaded = [path for path in copied.rglob("*") if path.is_file() and path.parent.name != "notes"]
    loaded = [path for path in loaded if path.name not in ("MODEL_CARD.md", "metrics.json")]
    assert len(loaded) == 7
    for path in [*loaded, copied / "saved_model" / "new"]:
        content = path.read_bytes() if path.exists() else b""
        path.write_bytes(content + b"x")
        assert bundle.digest(copied) != before
        path.write_bytes(content) if content else path.unlink()
    assert bundle.digest(copied) == before


def test_says_what_is_no_bundle(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(BeamscribeError, match=r"is not a model bundle: it has no bundle\.json") as error:
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
    with pytest.raises(BeamscribeError, match="bundle is there already"), BundleWriter(tmp_path / "bundle"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "mine"]


def test_a_written_bundle_is_all_that_is_left(exported):
    assert [path.name for path in exported.folder.parent.iterdir()] == ["tiny"]
    expected = {"saved_model", "recipe.yaml", "vocabulary.txt", "bundle.json", "metrics.json", "MODEL_CARD.md"}
    assert {path.name for path in exported.folder.iterdir()} == expected

"""Every recipe of the package, from photos to rows of captions, by the commands that a user gives."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beamscribe.jobs import cli
from beamscribe.model import bundle, decoders, encoders, evaluation, recipe
from beamscribe.model.search import BeamSearch, Rules
from beamscribe.model.words.vocabulary import Vocabulary

CAPTIONS = ["A dog runs in the grass .", "A man sits by the water .", "Two dogs play .", "A boy jumps into a lake ."]
PHOTOS = 6
# Networks as they are, on photos of the smallest size that they take, with random weights and two steps of training;
# but for the layers of a Transformer, which are alike and take long to build.
SIZES = {"Xception": 71}
CHANGES = [
    "words.min_count=1",
    "words.max_words=8",
    "search.max_length=8",
    "cross_entropy.epochs=1",
    "cross_entropy.photos_per_step=3",
    "cross_entropy.warmup_steps=0",
]
SELF_CRITICAL = ["self_critical.epochs=1", "self_critical.photos_per_step=3", "self_critical.least_distinct=0.0"]


def changes_of(name):
    chosen = recipe.load(name)
    size = SIZES.get(chosen.encoder.name, 64)
    changes = [*CHANGES, f"encoder.image_size={size}", "encoder.weights=none"]
    changes += ["decoder.decoder_layers=1"] if chosen.decoder.name == "transformer" else []
    return changes + (SELF_CRITICAL if chosen.self_critical else [])


def run(command, name, **options):
    arguments = [part for option, value in options.items() for part in (f"--{option}", str(value))]
    arguments += [part for change in changes_of(name) for part in ("--set", change)]
    assert cli.main([command, "--recipe", name, *arguments]) == 0


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    (folder / "images").mkdir()
    lines = ["image,caption"]
    for index in range(PHOTOS):
        noise = np.random.default_rng(index).integers(0, 256, (5, 5, 3), np.uint8)
        Image.fromarray(noise).resize((90, 80)).save(folder / "images" / f"{index}.png")
        lines += [f"{index}.png,{CAPTIONS[index % 4]}", f"{index}.png,{CAPTIONS[(index + 1) % 4]}"]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    (folder / "split.txt").write_text("\n".join(f"{i}.png" for i in range(PHOTOS)))
    return folder


def train(name, archive, folder, **options):
    """Prepares the photos for a recipe, trains it, and returns its bundle."""
    photos = {"images": archive / "images", "captions": archive / "captions.txt", "split": archive / "split.txt"}
    store = "images" if recipe.load(name).encoder.trained_from else "features"
    run("prepare", name, **photos, output=folder / "data", store=store)
    mirror = {f"{phase}.mirror": "false" for phase in recipe.load(name).phases}
    arguments = [part for field, value in mirror.items() for part in ("--set", f"{field}={value}")]
    arguments += [part for option, value in options.items() for part in (f"--{option}", str(value))]
    arguments += [part for change in changes_of(name) for part in ("--set", change)]
    data = ["--data", str(folder / "data"), "--validation", str(folder / "data")]
    with pytest.MonkeyPatch.context() as patch:
        # METEOR takes longer to begin than such a training to end.
        patch.setattr(evaluation, "java_available", lambda: False)
        assert cli.main(["train", "--recipe", name, *data, *arguments, "--output", str(folder / "bundle")]) == 0
    return folder / "bundle"


@pytest.fixture(scope="module")
def transformer(archive, tmp_path_factory):
    return train("transformer", archive, tmp_path_factory.mktemp("transformer"))


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_is_trained_and_captions_an_archive(name, archive, tmp_path, request):
    if name == "transformer":
        folder = request.getfixturevalue("transformer")
    elif name == "transformer_finetuned":
        folder = train(name, archive, tmp_path, init=request.getfixturevalue("transformer"))
    else:
        folder = train(name, archive, tmp_path)

    options = ["--input", str(archive / "images"), "--output", str(tmp_path / "captions"), "--bundle", str(folder)]
    assert cli.main(["caption", *options, "--alternatives", "2"]) == 0
    files = list((tmp_path / "captions" / "captions").rglob("*.parquet"))
    rows = {row["photo"].rsplit("/", 1)[-1]: row for file in files for row in pq.read_table(file).to_pylist()}
    assert sorted(rows) == [f"{index}.png" for index in range(PHOTOS)]
    assert {row["status"] for row in rows.values()} == {"captioned"}

    expected = captions_of(folder, archive, rows)
    for photo, captions in expected.items():
        found = [rows[photo]["caption"], *(other["caption"] for other in rows[photo]["alternatives"])]
        assert found == [caption for caption, _ in captions]
        assert rows[photo]["score"] == pytest.approx(captions[0][1], abs=1e-4)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["scorer"] == "beamscribe" and 1 <= metrics["distinct_captions"] <= PHOTOS


def captions_of(folder, archive, photos):
    """What the bundle's networks, built from its recipe in Python, write."""
    chosen = recipe.load(str(folder / "recipe.yaml"))
    vocabulary = Vocabulary.load(folder / "vocabulary.txt")
    encoder = encoders.build(chosen.encoder)
    vectors = None
    if chosen.words.embedding != "learned":
        from beamscribe.model.words import embeddings

        vectors = embeddings.load(chosen.words.embedding, vocabulary.words).matrix
    decoder = decoders.build(chosen, len(vocabulary), encoder.output_shape[1:], vectors=vectors)
    bundle.restore(folder, encoder, decoder)
    size = chosen.encoder.image_size
    images = [Image.open(archive / "images" / photo).convert("RGB") for photo in photos]
    pixels = np.stack([np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) for image in images])
    settings = chosen.search
    rules = Rules(settings.max_length, settings.min_length, settings.no_repeat_ngram)
    search = BeamSearch(decoder, settings.beam_width, rules, settings.length_penalty)
    ids, scores = search.predict_on_batch(encoder.predict_on_batch(pixels))
    texts = [[" ".join(vocabulary.decode(row)) for row in rows] for rows in ids]
    return {
        photo: list(zip(captions, values, strict=True))
        for photo, captions, values in zip(photos, texts, scores.tolist(), strict=True)
    }

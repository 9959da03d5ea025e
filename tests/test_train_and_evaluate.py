"""From photos and captions to a bundle and its figures, by the commands that a user gives."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beamscribe.jobs import cli
from beamscribe.model import bundle, evaluation, recipe
from beamscribe.model.captioners.exported_model import CaptionModel
from tests.conftest import TINY_RECIPE

CAPTIONS = ["A dog runs in the grass .", "A man sits by the water .", "Two dogs play .", "A boy jumps into a lake ."]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with photos, captions, splits, prepared data and a bundle that was trained on it."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("flickr")
    (folder / "images").mkdir()
    lines = ["image,caption"]
    for index in range(12):
        Image.new("RGB", (40, 30), (20 * index, 90, 255 - 20 * index)).save(folder / "images" / f"{index}.jpg")
        lines += [f"{index}.jpg,{CAPTIONS[index % 4]}", f"{index}.jpg,{CAPTIONS[(index + 1) % 4]}"]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    (folder / "train.txt").write_text("\n".join(f"{i}.jpg" for i in range(8)))
    (folder / "dev.txt").write_text("\n".join(f"{i}.jpg" for i in range(8, 12)))
    (folder / "tiny.yaml").write_text(TINY_RECIPE)
    for split, options in (("train", ["--flip"]), ("dev", [])):
        named = {"recipe": "tiny.yaml", "images": "images", "captions": "captions.txt", "split": f"{split}.txt"}
        arguments = [part for name, value in named.items() for part in (f"--{name}", str(folder / value))]
        assert not cli.main(["prepare", *arguments, "--output", str(folder / split), *options])
    assert train(folder) == 0
    return folder


def train(folder, *options):
    arguments = ["--data", str(folder / "train"), "--validation", str(folder / "dev")]
    named = ["--recipe", str(folder / "tiny.yaml"), "--output", str(folder / "bundle")]
    return cli.main(["train", *arguments, *named, *options])


def evaluate(folder, *options):
    named = ["--captions", str(folder / "captions.txt"), "--split", str(folder / "dev.txt")]
    return cli.main(["evaluate", *named, *options])


def test_the_bundle_is_whole(trained):
    folder = trained / "bundle"
    names = {"saved_model", "recipe.yaml", "vocabulary.txt", "metrics.json", "MODEL_CARD.md", "bundle.json"}
    assert {path.name for path in folder.iterdir()} == names
    description = bundle.describe(folder)
    assert (description.name, description.image_size, description.longest) == ("tiny", 64, 8)
    assert recipe.load(str(folder / "recipe.yaml")) == recipe.parse(TINY_RECIPE, "tiny")
    # Words of the training captions alone, as they are seen at least once.
    words = "a dog runs in the grass man sits by water two dogs play boy jumps into lake"
    assert sorted((folder / "vocabulary.txt").read_text().split()[4:]) == sorted(words.split())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["photos"] == 4 and metrics["cider"] >= 0
    card = (folder / "MODEL_CARD.md").read_text()
    assert "8 photos with 16 captions" in card and "research" in card and f"{metrics['cider']:.4g}" in card
    assert (trained / "bundle.training" / "logs" / "self_critical").is_dir()


def test_training_needs_no_java(trained, monkeypatch, caplog):
    from beamscribe.model.training import dataset, metrics

    monkeypatch.setattr(evaluation, "java_available", lambda: False)
    chosen = recipe.parse(TINY_RECIPE, "tiny")
    data, validation = (dataset.load(trained / split, chosen.encoder, False) for split in ("train", "dev"))
    figures = metrics.measure(CaptionModel(trained / "bundle"), chosen, data, validation)
    assert figures["scorer"] == "beamscribe" and figures["cider"] >= 0 and figures["distinct_captions"] >= 1
    (told,) = [record for record in caplog.records if record.name.startswith("beamscribe.")]
    assert told.levelname == "WARNING" and "CIDEr-D alone: scoring captions needs a Java runtime" in told.getMessage()


def test_the_figures_are_flat_json(trained, capsys):
    output = trained / "metrics.json"
    options = ["--bundle", str(trained / "bundle"), "--images", str(trained / "images")]
    assert evaluate(trained, *options, "--train-split", str(trained / "train.txt"), "--output", str(output)) == 0
    metrics = json.loads(output.read_text())
    scores = "bleu_1 bleu_2 bleu_3 bleu_4 meteor rouge_l cider"
    assert list(metrics) == f"{scores} copied_share distinct_captions vocabulary mean_length photos".split()
    assert metrics["photos"] == 4 and 0 <= metrics["copied_share"] <= 1
    assert "cider" in capsys.readouterr().out
    # The figures of the bundle are those of the same model on the same photos, from features in float16.
    kept = json.loads((trained / "bundle" / "metrics.json").read_text())
    assert kept["bleu_1"] == pytest.approx(metrics["bleu_1"], abs=1)
    assert evaluate(trained, *options, "--output", str(output)) == 0
    assert json.loads(output.read_text())["copied_share"] is None


def test_photos_without_captions_are_told(trained, tmp_path, monkeypatch, caplog, capsys):
    (tmp_path / "images").mkdir()
    for index in (8, 9, 10):
        (tmp_path / "images" / f"{index}.jpg").write_bytes((trained / "images" / f"{index}.jpg").read_bytes())
    monkeypatch.setattr(evaluation, "evaluate", lambda captions, *_: {"photos": len(captions)})
    options = ["--bundle", str(trained / "bundle"), "--images", str(tmp_path / "images")]
    assert evaluate(trained, *options) == 0
    assert "photos             3\n" in capsys.readouterr().out
    assert "captioned 3 and failed 1 of 4 photos" in caplog.text
    assert "no caption, scored as empty: 11.jpg: not_found: " in caplog.text

    def broken(*_):
        raise TypeError("no number")

    monkeypatch.setattr(CaptionModel, "caption", broken)
    assert evaluate(trained, *options) == 1
    said = "a fault of Beamscribe itself failed 3 photos, 8.jpg among them: TypeError: no number"
    assert said in capsys.readouterr().err


def test_captions_made_before_are_matched_by_file_name(trained, tmp_path, caplog):
    few = tmp_path / "few"
    few.mkdir()
    for index in (8, 9, 10):
        (few / f"{index}.jpg").write_bytes((trained / "images" / f"{index}.jpg").read_bytes())
    caption = ["caption", "--input", str(few), "--output", str(tmp_path / "out"), "--bundle", str(trained / "bundle")]
    assert cli.main(caption) == 0
    output = tmp_path / "metrics.json"
    assert evaluate(trained, "--captions-from", str(tmp_path / "out"), "--output", str(output)) == 0
    assert "scored as empty: 11.jpg" in caplog.text
    assert json.loads(output.read_text())["photos"] == 4


def test_photos_in_folders_keep_their_captions(trained, tmp_path):
    for index in (8, 9):
        (tmp_path / "images" / str(index)).mkdir(parents=True)
        photo = (trained / "images" / f"{index}.jpg").read_bytes()
        (tmp_path / "images" / str(index) / "same.jpg").write_bytes(photo)
    lines = ["image,caption", *(f"{index}/same.jpg,{CAPTIONS[index % 4]}" for index in (8, 9))]
    (tmp_path / "captions.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "dev.txt").write_text("8/same.jpg\n9/same.jpg\n")
    images, output = str(tmp_path / "images"), tmp_path / "metrics.json"
    of_images = ["--images", images, "--bundle", str(trained / "bundle"), "--output", str(output)]
    caption = ["caption", "--input", images, "--output", str(tmp_path / "out"), "--bundle", str(trained / "bundle")]
    assert evaluate(tmp_path, *of_images) == 0
    expected = json.loads(output.read_text())
    assert cli.main(caption) == 0
    assert evaluate(tmp_path, "--captions-from", str(tmp_path / "out"), "--output", str(output)) == 0
    assert json.loads(output.read_text()) == expected and expected["photos"] == 2 and expected["mean_length"] > 0


def test_captions_made_by_others_are_scored(trained, tmp_path):
    made = {"photo": [f"/elsewhere/{i}.jpg" for i in range(8, 12)], "caption": [CAPTIONS[i % 4] for i in range(4)]}
    pq.write_table(pa.table(made), tmp_path / "theirs.parquet")
    output = tmp_path / "metrics.json"
    assert evaluate(trained, "--captions-from", str(tmp_path), "--output", str(output)) == 0
    assert json.loads(output.read_text())["bleu_4"] == pytest.approx(100)


def test_mistakes_are_one_clear_line(trained, capfd):
    cases = [
        (2, lambda: train(trained), "is there already"),
        (2, lambda: train(trained, "--output", str(trained / "new"), "--data", "/no/where"), "not a prepared dataset"),
        (2, lambda: train(trained, "--output", str(trained / "new"), "--recipe", "nope"), "no recipe 'nope'"),
        (2, lambda: train(trained, "--output", str(trained / "new"), "--data", str(trained / "dev")), "with --flip"),
        (2, lambda: train(trained, "--output", str(trained / "new"), "--recipe", "transformer"), "efficientnet_lite2"),
        (
            2,
            lambda: train(trained, "--output", "gs://bucket/model"),
            "--output: training needs folders of this machine",
        ),
        (1, lambda: train(trained, "--output", str(trained / "dev.txt" / "new")), "--output: can't make the folder"),
        (2, lambda: train(trained, "--output", str(trained / "new"), "--gpus", "0"), "--gpus 0: give 1 or more"),
        (2, lambda: train(trained, "--output", str(trained / "new"), "--seed", "-1"), "seed: input should be greater"),
        (2, lambda: evaluate(trained), "give --images"),
        (2, lambda: evaluate(trained, "--captions-from", "/x", "--images", "/y"), "leave out --images"),
        (2, lambda: evaluate(trained, "--captions-from", "/x", "--beam-width", "5"), "how to write captions"),
        (2, lambda: evaluate(trained, "--images", "/no/where"), "--images: there is no folder /no/where"),
        (2, lambda: evaluate(trained, "--captions-from", "/no/where"), "--captions-from: /no/where holds no captions"),
        (
            1,
            lambda: evaluate(trained, "--captions-from", "/x", "--split", str(trained / "tiny.yaml")),
            "no captions in",
        ),
    ]
    for status, call, complaint in cases:
        assert call() == status, complaint
        error = capfd.readouterr().err
        assert complaint in error and error.count("\n") == 1, error

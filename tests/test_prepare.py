import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from beamscribe.jobs import cli
from beamscribe.model import encoders, recipe
from beamscribe.model.training.dataset_description import examples_file
from beamscribe.pipelines.images import to_pixels
from beamscribe.pipelines.prepare_dataset import ExampleHandler, PrepareOptions, photos_written
from tests.conftest import TINY_RECIPE


@pytest.fixture
def photos(tmp_path, make_photo):
    """Photos, captions and a split in the formats of Flickr8k, and a recipe."""
    for index in range(5):
        make_photo(tmp_path / "images" / f"{index}.jpg")
    captions = "".join(f'{i}.jpg,A dog number {i} .\n{i}.jpg,"Dogs, say {i}"\n' for i in range(5))
    (tmp_path / "captions.txt").write_text(f"image,caption\n{captions}")
    (tmp_path / "split.txt").write_text("3.jpg\n0.jpg\n4.jpg\n")
    (tmp_path / "tiny.yaml").write_text(TINY_RECIPE)
    return tmp_path


def prepared(folder, *options):
    arguments = {"recipe": "tiny.yaml", "images": "images", "captions": "captions.txt", "split": "split.txt"}
    named = [part for name, value in arguments.items() for part in (f"--{name}", str(folder / value))]
    return cli.main(["prepare", *named, "--output", str(folder / "data"), *options])


def examples_in(folder):
    files = sorted(map(str, folder.glob("data/examples-*.tfrecord.gz")))
    return [
        tf.train.Example.FromString(record.numpy()).features.feature
        for record in tf.data.TFRecordDataset(files, "GZIP")
    ]


def test_one_example_a_photo_of_the_split(photos, capsys):
    assert prepared(photos, "--flip") == 0
    assert capsys.readouterr().out == f"3 photos with 6 captions in {photos / 'data'}\n"
    examples = examples_in(photos)
    assert [e["photo"].bytes_list.value[0] for e in examples] == [b"3.jpg", b"0.jpg", b"4.jpg"]
    assert list(examples[0]["captions"].bytes_list.value) == [b"A dog number 3 .", b"Dogs, say 3"]

    encoder = recipe.load(str(photos / "tiny.yaml")).encoder
    pixels = to_pixels.convert((photos / "images" / "3.jpg").read_bytes(), 64).pixels
    model = encoders.FeatureExtractor(encoder)
    for name, view in (("features", pixels), ("features_flipped", pixels[:, ::-1])):
        stored = np.frombuffer(examples[0][name].bytes_list.value[0], "<f2").reshape(2, 2, 1280)
        np.testing.assert_allclose(stored, model(view[None])[0], rtol=2e-2, atol=2e-3)

    dataset = json.loads((photos / "data" / "dataset.json").read_text())
    assert (dataset["photos"], dataset["captions"], dataset["store"], dataset["flip"]) == (3, 6, "features", True)
    assert dataset["features"] == {
        "shape": [2, 2, 1280],
        "dtype": "<f2",
        "encoder": "efficientnet_lite0",
        "fingerprint": encoders.fingerprint(encoder),
    }
    assert 'name: "features_flipped"' in (photos / "data" / "schema.pbtxt").read_text()


def test_images_are_stored_as_the_encoder_takes_them(photos, capsys):
    assert prepared(photos, "--store", "images", "--quiet") == 0
    assert capsys.readouterr().out == ""
    (example, *_) = examples_in(photos)
    pixels = np.frombuffer(example["image"].bytes_list.value[0], np.uint8).reshape(64, 64, 3)
    np.testing.assert_array_equal(pixels, to_pixels.convert((photos / "images" / "3.jpg").read_bytes(), 64).pixels)
    assert "features" not in example


def test_a_broken_photo_is_left_out_and_told(photos, caplog):
    (photos / "images" / "0.jpg").write_bytes(b"")
    (photos / "images" / "4.jpg").unlink()
    assert prepared(photos) == 0
    assert len(examples_in(photos)) == 1
    dataset = json.loads((photos / "data" / "dataset.json").read_text())
    assert {f["photo"]: f["error"] for f in dataset["failures"]} == {"0.jpg": "empty", "4.jpg": "not_found"}
    assert (dataset["photos"], dataset["captions"]) == (1, 2)
    told = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.getMessage()[:17] for record in told] == ["left out: 0.jpg: ", "left out: 4.jpg: "]
    assert "prepared 1 and failed 2 of 3 photos" in caplog.text


def test_a_name_can_not_command_the_terminal(photos, caplog):
    (photos / "split.txt").write_text("3.jpg\nno\x1b[31m.jpg\n")
    with open(photos / "captions.txt", "a") as file:
        file.write("no\x1b[31m.jpg,A dog\n")
    assert prepared(photos, "--store", "images") == 0
    assert "left out: no\\x1b[31m.jpg: not_found: " in caplog.text and "\x1b" not in caplog.text


@pytest.mark.parametrize("failing", ["0.jpg", ""])
def test_a_fault_of_beamscribe_ends_in_an_error(photos, monkeypatch, capsys, failing):
    make, wanted = ExampleHandler._stored, str(photos / "images" / failing)

    def broken(self, model):
        stored = make(self, model)

        def store(images, names):
            if any(name.startswith(wanted) for name in names):
                raise TypeError("no number")
            return stored(images, names)

        return store

    monkeypatch.setattr(ExampleHandler, "_stored", broken)
    assert prepared(photos) == 1
    count = "1 photo, 0.jpg" if failing else "3 photos, 3.jpg"
    said = f"a fault of Beamscribe itself failed {count} among them: TypeError: no number"
    assert said in capsys.readouterr().err
    # What could be prepared stays; where that is nothing, the next command finds no dataset.
    assert (photos / "data" / "dataset.json").exists() == bool(failing)


def test_the_files_that_are_written_say_how_far_it_is(tmp_path):
    names = [f"{n}.jpg" for n in range(150)]
    encoder = recipe.parse(TINY_RECIPE, "tiny").encoder
    options = PrepareOptions("", {name: ["A dog"] for name in names}, names, str(tmp_path), encoder)
    assert photos_written(options) == 0
    for index, photos in ((2, 22), (0, 86), (1, 150)):
        (tmp_path / examples_file(index)).touch()
        assert photos_written(options) == photos


def test_mistakes_are_one_clear_line(photos, capfd):
    (photos / "more.txt").write_text("9.jpg\n")
    cases = {
        ("--recipe", "nope"): (2, "no recipe 'nope'"),
        ("--set", "encoder.weights=/no/weights"): (2, "encoder.weights: no file /no/weights"),
        ("--images", "/no/where"): (2, "--images: there is no folder /no/where"),
        ("--images", str(photos)): (1, "--images: none of the photos of "),
        ("--captions", "/no/where"): (2, "/no/where"),
        ("--split", str(photos / "more.txt")): (1, "9.jpg"),
    }
    for options, (status, complaint) in cases.items():
        assert prepared(photos, *options) == status
        error = capfd.readouterr().err
        assert complaint in error and error.count("\n") == 1
    # A run that fails leaves nothing behind, not even the folder that it made.
    assert not (photos / "data").exists()
    Image.new("RGB", (9, 9)).save(photos / "images" / "9.jpg")
    assert prepared(photos) == 0
    assert prepared(photos) == 2
    assert "holds a dataset already" in capfd.readouterr().err
    (photos / "file").write_text("")
    for output, status in ((str(photos / "file" / "data"), 1), ("gs://", 2), ("", 2)):
        assert prepared(photos, "--output", output) == status
        error = capfd.readouterr().err
        assert error.startswith("beamscribe prepare: ") and error.count("\n") == 1, error


def test_photos_in_folders_and_what_an_interrupted_job_left(photos):
    (photos / "images" / "train").mkdir()
    (photos / "images" / "3.jpg").rename(photos / "images" / "train" / "3.jpg")
    (photos / "captions.txt").write_text("image,caption\ntrain/3.jpg,A dog\n")
    (photos / "split.txt").write_text("train/3.jpg\n")
    (photos / "data").mkdir()
    (photos / "data" / "examples-00007.tfrecord.gz").write_bytes(b"half")
    assert prepared(photos) == 0
    (example,) = examples_in(photos)
    assert example["photo"].bytes_list.value[0] == b"train/3.jpg"
    assert example["captions"].bytes_list.value[0] == b"A dog"

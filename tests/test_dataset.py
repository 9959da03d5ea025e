import json

import numpy as np
import pyarrow as pa
import pytest

from beamscribe.model import encoders
from beamscribe.model.errors import BeamscribeError, InputError
from beamscribe.model.recipe import Encoder
from beamscribe.model.training import dataset
from beamscribe.model.training.dataset_description import DATASET, FEATURE_DTYPE, examples_file
from beamscribe.model.training.targets import shift_right, training_targets
from beamscribe.model.words.vocabulary import END, PAD, SPECIALS, START, UNKNOWN, Vocabulary
from beamscribe.pipelines import prepare_dataset, tf_examples

ENCODER = Encoder(name="efficientnet_lite0", image_size=64)
TRAINED = Encoder(name="efficientnet_lite0", image_size=64, trained_from="blocks.15.expand_conv")
SHAPE = (2, 2, 1280)
FILES, PHOTOS = 3, 20


def write_split(folder, features, captions, flip=True, changes=None):
    """Writes a split as `prepare` does, with given features; the mirror image is the photo's features, negative.

    Args:
      folder: where to write it.
      features: `[photos, *SHAPE]`.
      captions: of each photo.
      flip: whether to write mirror images.
      changes: other values for fields of `dataset.json`.
    """
    names = [f"{index:02d}.jpg" for index in range(len(features))]
    records = []
    for name, photo, written in zip(names, features.astype(FEATURE_DTYPE), captions, strict=True):
        record = {"photo": name, "captions": list(written), "features": photo.tobytes()}
        records.append(record | ({"features_flipped": (-photo).tobytes()} if flip else {}))
    folder.mkdir(parents=True)
    for index in range(FILES):
        path = folder / examples_file(index)
        path.write_bytes(tf_examples.tfrecord(pa.Table.from_pylist(records[index::FILES])))
    options = prepare_dataset.PrepareOptions(
        images="", captions=dict(zip(names, captions, strict=True)), photos=names, output=str(folder), encoder=ENCODER
    )
    prepare_dataset.write_dataset([prepare_dataset.PreparedShard(0, len(names), ())], options)
    description = json.loads((folder / DATASET).read_text())
    description |= {"flip": flip, **(changes or {})}
    (folder / DATASET).write_text(json.dumps(description))


def random_features(count):
    """Features that tell photos apart: the first value of each is its number, from 1."""
    features = np.random.default_rng(0).uniform(0, 6, (count, *SHAPE))
    features[:, 0, 0, 0] = np.arange(1, count + 1)
    return features


CAPTIONS = [[f"A dog number{index} runs .", "The dog 's ball"][: 1 + index % 2] for index in range(PHOTOS)]


@pytest.fixture
def folder(tmp_path):
    write_split(tmp_path / "train", random_features(PHOTOS), CAPTIONS)
    return tmp_path / "train"


def test_loads_photos_and_captions(folder):
    data = dataset.load(folder, ENCODER, mirror=True)
    assert data.shape == SHAPE
    assert data.flip
    assert sorted(data.photos) == [f"{index:02d}.jpg" for index in range(PHOTOS)]
    for name, captions in zip(data.photos, data.captions, strict=True):
        assert list(captions) == CAPTIONS[int(name[:2])]
    assert data.tokens()[data.photos.index("03.jpg")] == [["a", "dog", "number3", "runs"], ["the", "dog", "'s", "ball"]]


def test_features_come_in_the_order_of_the_photos(folder):
    data = dataset.load(folder, ENCODER, mirror=False)
    batches = data.features(8)
    assert batches.cardinality() == 3
    arrays = list(batches.as_numpy_iterator())
    assert [len(array) for array in arrays] == [8, 8, 4]
    features = np.concatenate(arrays)
    assert features.dtype == np.float16
    order = [int(name[:2]) for name in data.photos]
    np.testing.assert_array_equal(features, random_features(PHOTOS)[order].astype("float16"))


def read_epoch(data, mirror=False, seed=0, batch_size=4):
    """The photos' numbers, negative where mirrored, and the places, of one epoch."""
    batches = list(data.examples(batch_size, mirror, seed).as_numpy_iterator())
    features, places = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    assert features.dtype == np.float16 and features.shape[1:] == SHAPE
    assert {len(places) for _, places in batches} == {batch_size}
    return features[:, 0, 0, 0].astype(int), places


@pytest.mark.parametrize("mirror", [False, True])
def test_examples_have_their_own_photos_places(folder, mirror):
    data = dataset.load(folder, ENCODER, mirror)
    numbers, places = read_epoch(data, mirror)
    assert [data.photos[place] for place in places] == [f"{abs(number) - 1:02d}.jpg" for number in numbers]
    assert sorted(places) == list(range(PHOTOS))


def test_a_short_last_batch_is_left_out(folder):
    data = dataset.load(folder, ENCODER, mirror=False)
    _, places = read_epoch(data, batch_size=8)
    assert len(places) == len(set(places)) == 16


def test_a_seed_names_an_order(folder):
    data = dataset.load(folder, ENCODER, mirror=True)
    first, again, other = (read_epoch(data, mirror=True, seed=seed)[0].tolist() for seed in (1, 1, 2))
    assert first == again
    assert [abs(number) for number in first] != [abs(number) for number in other]
    assert sorted(map(abs, first)) == sorted(map(abs, other))
    assert [abs(number) for number in first] != sorted(map(abs, first))


def test_half_of_the_photos_are_mirrored(folder):
    data = dataset.load(folder, ENCODER, mirror=True)
    epochs = np.array([np.sort(read_epoch(data, mirror=True, seed=seed)[0]) for seed in range(10)])
    assert (epochs < 0).mean() == pytest.approx(0.5, abs=0.15)
    # Neither always the same ones nor always as many, and never where no mirror images are asked for.
    assert len({tuple(sorted(epoch[epoch < 0])) for epoch in epochs}) > 5
    assert len({(epoch < 0).sum() for epoch in epochs}) > 2
    assert min(read_epoch(data, mirror=False)[0]) > 0


def test_refuses_a_folder_that_is_no_dataset(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(
            BeamscribeError, match=r"not a prepared dataset.*dataset\.json.*beamscribe prepare"
        ) as error:
            dataset.load(folder, ENCODER, mirror=False)
        assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"name": "efficientnet_lite2"}, "efficientnet_lite0 at 64 px, the recipe has efficientnet_lite2 at 64 px"),
        ({"image_size": 96}, "efficientnet_lite0 at 64 px, the recipe has efficientnet_lite0 at 96 px"),
    ],
)
def test_refuses_the_features_of_another_encoder(folder, encoder, message):
    with pytest.raises(BeamscribeError, match=message) as error:
        dataset.load(folder, ENCODER.model_copy(update=encoder), mirror=False)
    assert str(folder) in str(error.value)


def test_refuses_the_features_of_other_weights(folder, monkeypatch):
    monkeypatch.setattr(encoders, "fingerprint", lambda encoder: "0123456789abcdef")
    with pytest.raises(BeamscribeError, match="another efficientnet_lite0 at 64 px: its weights differ") as error:
        dataset.load(folder, ENCODER, mirror=False)
    assert str(folder) in str(error.value)


@pytest.fixture
def images(tmp_path):
    """A split of images: the red of a photo is its number, on the left half alone."""
    photos = np.zeros((PHOTOS, 64, 64, 3), np.uint8)
    photos[:, :, :32, 0] = np.arange(1, PHOTOS + 1)[:, None, None]
    folder = tmp_path / "images"
    write_split(folder, photos, CAPTIONS, changes={"store": "images", "features": None, "flip": False})
    records = [
        {"photo": f"{index:02d}.jpg", "captions": CAPTIONS[index], "image": photo.tobytes()}
        for index, photo in enumerate(photos)
    ]
    for index in range(FILES):
        path = folder / examples_file(index)
        path.write_bytes(tf_examples.tfrecord(pa.Table.from_pylist(records[index::FILES])))
    return folder


def test_images_stand_for_features_where_the_encoder_is_trained(images):
    data = dataset.load(images, TRAINED, mirror=True)
    assert (data.store, data.shape) == ("images", (64, 64, 3))
    photos = np.concatenate(list(data.features(8).as_numpy_iterator()))
    assert photos.dtype == np.uint8
    assert photos[:, 0, 0, 0].tolist() == [int(name[:2]) + 1 for name in data.photos]
    mirrored = []
    for seed in range(5):
        for batch, places in data.examples(4, True, seed).as_numpy_iterator():
            assert batch.dtype == np.uint8
            red = batch[:, 5, :, 0].astype(int)
            for row, place in zip(red, places, strict=True):
                assert row.max() == int(data.photos[place][:2]) + 1
                assert (row[:32] == 0).all() != (row[32:] == 0).all()
                mirrored.append(row[0] == 0)
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.15)
    plain = np.concatenate([batch for batch, _ in data.examples(4, False, 0).as_numpy_iterator()])
    assert (plain[:, :, 32:] == 0).all()


def test_a_trained_encoder_needs_images_of_its_size(folder, images):
    with pytest.raises(
        InputError, match=r"train holds features; .*trained and needs data prepared with `store` images"
    ):
        dataset.load(folder, TRAINED, mirror=False)
    with pytest.raises(BeamscribeError, match=r"images of 64 px, the recipe has 96; prepare it again"):
        dataset.load(images, TRAINED.model_copy(update={"image_size": 96}), mirror=False)


def test_refuses_images(tmp_path):
    write_split(tmp_path / "images", random_features(3), CAPTIONS[:3], changes={"store": "images", "features": None})
    with pytest.raises(InputError, match=r"images holds images; .*`store` features"):
        dataset.load(tmp_path / "images", ENCODER, mirror=False)


def test_refuses_missing_mirror_images_only_where_they_are_needed(tmp_path):
    write_split(tmp_path / "plain", random_features(4), CAPTIONS[:4], flip=False)
    with pytest.raises(InputError, match=r"mirror images, which .*plain lacks; prepare it with `flip`"):
        dataset.load(tmp_path / "plain", ENCODER, mirror=True)
    data = dataset.load(tmp_path / "plain", ENCODER, mirror=False)
    assert not data.flip
    assert sorted(read_epoch(data)[0]) == [1, 2, 3, 4]


def test_a_description_of_version_0_1_0_is_read(folder):
    """It names no version, and stays as it was otherwise."""
    description = json.loads((folder / DATASET).read_text())
    assert description.pop("format_version") == 1
    fields = ["photos", "captions", "store", "flip", "image_size", "features", "failures"]
    assert list(description) == fields
    assert list(description["features"]) == ["shape", "dtype", "encoder", "fingerprint"]
    description["failures"] = [{"photo": "a.jpg", "error": "corrupt", "message": "it is cut off"}]
    (folder / DATASET).write_text(json.dumps(description))
    assert len(dataset.load(folder, ENCODER, mirror=False).photos) == PHOTOS


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"photos": "many"}, r"dataset\.json is damaged: photos: .*; prepare the dataset again"),
        ({"features": None}, r"dataset\.json is damaged: .*features must be there where store is features"),
        ({"store": "pictures"}, r"dataset\.json is damaged: store: "),
        ({"format_version": 2}, r"dataset\.json was written by a newer version of Beamscribe .*; upgrade Beamscribe"),
    ],
)
def test_says_what_is_wrong_with_the_description(folder, changes, complaint):
    description = json.loads((folder / DATASET).read_text()) | changes
    (folder / DATASET).write_text(json.dumps(description))
    with pytest.raises(BeamscribeError, match=complaint) as error:
        dataset.load(folder, ENCODER, mirror=False)
    assert "\n" not in str(error.value)


def test_says_that_the_description_is_damaged(folder):
    (folder / DATASET).write_text("{")
    with pytest.raises(BeamscribeError, match=r"dataset\.json is damaged"):
        dataset.load(folder, ENCODER, mirror=False)


@pytest.mark.parametrize("lost", [1, FILES])
def test_refuses_a_dataset_that_lost_photos(folder, lost):
    for path in sorted(folder.glob("examples-*"))[:lost]:
        path.unlink()
    with pytest.raises(BeamscribeError, match=r"train has (0|13) of its 20 photos; prepare it again"):
        dataset.load(folder, ENCODER, mirror=False)


def test_inputs_start_and_targets_end():
    vocabulary = Vocabulary([*SPECIALS, "a", "dog", "runs"])
    captions = [[["a", "dog"], ["a", "zebra", "runs"]], [["dog"]], [[], ["a", "dog", "runs", "a", "dog"]]]
    targets = training_targets(captions, vocabulary, max_words=3)
    inputs = shift_right(targets)
    assert inputs.shape == targets.shape == (3, 2, 4)
    assert inputs.dtype == targets.dtype == np.int32
    assert targets.tolist() == [
        [[4, 5, END, PAD], [4, UNKNOWN, 6, END]],
        [[5, END, PAD, PAD], [PAD, PAD, PAD, PAD]],
        # Too long: no end.
        [[END, PAD, PAD, PAD], [4, 5, 6, 4]],
    ]
    assert inputs.tolist() == [
        [[START, 4, 5, PAD], [START, 4, UNKNOWN, 6]],
        [[START, 5, PAD, PAD], [START, PAD, PAD, PAD]],
        [[START, PAD, PAD, PAD], [START, 4, 5, 6]],
    ]


def test_shifting_leaves_the_targets_alone():
    targets = np.array([[4, 5, END, PAD], [4, 5, 6, 4]], "int32")
    before = targets.copy()
    assert shift_right(targets).tolist() == [[START, 4, 5, PAD], [START, 4, 5, 6]]
    np.testing.assert_array_equal(targets, before)

import json

import keras
import numpy as np
import pytest
import yaml

from model import dataset, recipe, training
from model.errors import UserError
from model.training import Trainer
from tests.conftest import TINY_RECIPE
from tests.test_dataset import CAPTIONS, ENCODER, PHOTOS, SHAPE, random_features, write_split

WHO = ["a dog", "a brown cat", "the man", "two women", "a girl in red"]
WHAT = ["runs", "sits on grass", "jumps", "swims"]
LEARNABLE = [[f"{WHO[i % 5]} {WHAT[i % 4]}", f"{WHO[i % 5]} {WHAT[i % 4]} there"] for i in range(PHOTOS)]


def learnable_features():
    """Who and what a photo shows, as one channel each."""
    features = np.zeros((PHOTOS, *SHAPE))
    photos = np.arange(PHOTOS)
    features[photos, ..., photos % len(WHO)] = 6
    features[photos, ..., len(WHO) + photos % len(WHAT)] = 6
    return features


def tiny(cross_entropy=None, self_critical=None):
    """The tiny recipe with other values for some fields of its phases."""
    fields = yaml.safe_load(TINY_RECIPE)
    fields["cross_entropy"] |= {"mirror": False, **(cross_entropy or {})}
    fields["self_critical"] |= {"mirror": False, **(self_critical or {})}
    return recipe.parse(yaml.safe_dump(fields), "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Photos of noise, whose captions can only be learned by heart."""
    folder = tmp_path_factory.mktemp("data") / "train"
    write_split(folder, learnable_features(), LEARNABLE)
    return dataset.load(folder, ENCODER, mirror=True)


def state_of(folder):
    return json.loads((folder / "state.json").read_text())

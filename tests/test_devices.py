import os
import subprocess
import sys
from pathlib import Path

import pytest

from beamscribe.model.errors import InputError
from beamscribe.model.training.devices import Devices

# In a process of its own, since TensorFlow's devices can't be changed once they are used.
TRAINING = """
import sys
from pathlib import Path
import tensorflow as tf
cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)

import numpy as np
from beamscribe.model.training import dataset
from beamscribe.model.training.devices import Devices
from beamscribe.model.training.trainer import Trainer
from tests.test_dataset import ENCODER
from tests.test_training import tiny

data = dataset.load(Path(sys.argv[1]), ENCODER, mirror=True)
# Clipping is done by each device, on its own part's gradients.
changes = {"epochs": 1, "clip_norm": 1e6, "learning_rate": 1e-3, "weight_average": 0.5}
weights = []
for count in (1, 2):
    devices = Devices(count, kind="CPU")
    assert devices.count == count
    trainer = Trainer(tiny(changes, changes), data, data, Path(sys.argv[2]) / str(count), devices=devices)
    weights.append(trainer.run()[1].get_weights())
for one, other in zip(*weights, strict=True):
    # Sums of floats in another order; Adam divides tiny gradients by tiny ones.
    np.testing.assert_allclose(one, other, atol=2e-4)
    assert np.abs(one - other).mean() < 2e-6
print("equal")
"""


def test_two_devices_train_what_one_would(tmp_path):
    from tests.test_training import LEARNABLE, learnable_features, write_split

    write_split(tmp_path / "data", learnable_features(), LEARNABLE)
    command = [sys.executable, "-c", TRAINING, str(tmp_path / "data"), str(tmp_path / "folders")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("equal\n"), done.stderr[-3000:]


def test_refuses_gpus_that_are_not_there():
    with pytest.raises(InputError, match=r"`gpus` 99: TensorFlow sees (no|[1-9]) GPUs? on this machine"):
        Devices(99)

"""Private parts of libraries that Beamscribe uses: each test fails where a new version changes one of them."""

import argparse
import subprocess
import sys

import apache_beam as beam
import google.auth
import keras
import numpy as np
import pytest
import requests
import tensorflow as tf
from apache_beam.internal.gcp import auth
from apache_beam.options.pipeline_options import PipelineOptions
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from keras import ops

from beamscribe.jobs import argparse_internals
from beamscribe.jobs.runners import beam_internals, worker_internals
from beamscribe.model import keras_internals
from beamscribe.model.errors import InputError
from beamscribe.model.image_sizes import KERAS_APPLICATIONS
from beamscribe.pipelines.stores import gcs_internals

# Of Beam and argparse, in jobs/runners/beam_internals.py and jobs/runners/worker_internals.py.


def test_beam_has_a_list_of_options():
    names = beam_internals.option_names()
    assert {"--runner", "--direct_num_workers", "--extra_package", "--no_auth", "--flink_master"} <= names
    assert "--direct_num_wrokers" not in names


def test_beam_has_a_place_for_the_module_that_measures_memory():
    from apache_beam.ml.inference import base

    from beamscribe.pipelines import inference

    assert inference.inference_internals.base is base and base.resource is not None
    assert base._get_current_process_memory_in_bytes() > 0


def test_argparse_has_a_list_of_options():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-a", "--all")
    parser.add_argument_group("more").add_argument("--most", "-m", required=True)
    parser.add_argument("position")
    assert argparse_internals.names_in(parser) == {"-a", "--all", "--most", "-m"}
    assert argparse_internals.required_in(parser) == {"--most", "-m"}


def test_the_direct_runner_starts_workers_by_a_command_and_says_that_they_died():
    died = []
    runner = worker_internals.runner_with_processes("exec sh -c 'exit 3'", died.append)
    with pytest.raises(RuntimeError, match="a worker process ended with status 3"):
        (beam.Pipeline(runner=runner) | beam.Create([1])).pipeline.run()
    assert died == ["a worker process ended with status 3"]


def test_beam_logs_what_it_raises_in_a_step_by_a_known_logger(caplog):
    def fail(_):
        raise OSError("the disk is full")

    def run():
        with pytest.raises(OSError, match="the disk is full"), beam.Pipeline("FnApiRunner") as pipeline:
            _ = pipeline | "Job" >> (beam.Create([1]) | beam.Map(fail))

    with beam_internals.steps_tell_once("Other"):
        run()
    assert "while running 'Job/Map(fail)'" in caplog.text
    caplog.clear()
    with beam_internals.steps_tell_once("Job"):
        run()
    assert caplog.text == ""


def test_beam_parses_options_that_somebody_has_made_when_it_needs_them(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x"])
    beam_internals.check_values(PipelineOptions())
    with pytest.raises(InputError, match="--direct_num_workers x: must be a whole number"):
        beam_internals.check_values(PipelineOptions(["--direct_num_workers=x"]))
    monkeypatch.setattr(sys, "argv", ["x", "--direct_running_mode", "x"])
    with pytest.raises(InputError, match="--direct_running_mode x: must be one of in_memory, multi_threading, multi_"):
        beam_internals.check_values(PipelineOptions())


def test_beam_can_be_kept_from_looking_for_credentials(monkeypatch):
    monkeypatch.setattr(auth._Credentials, "_credentials_init", False)
    monkeypatch.setattr(google.auth, "default", lambda *_, **__: pytest.fail("looks for credentials"))
    beam_internals.look_for_no_credentials()
    assert auth.get_service_credentials(PipelineOptions()) is None


def test_flink_has_names_for_a_cluster_of_its_own():
    assert beam_internals.flink_url("[local]") is None and beam_internals.flink_url("[auto]") is None
    assert beam_internals.flink_url("manager:8081") == "http://manager:8081"
    assert beam_internals.flink_url("https://manager:8081/") == "https://manager:8081"


def test_a_process_becomes_a_worker_by_what_the_environment_says():
    script = "from beamscribe.jobs.runners import worker_internals\nworker_internals.become_worker()\n"
    # The descriptors come first of all that it reads.
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode and "CONTROL_API_SERVICE_DESCRIPTOR" in done.stderr


# Of google-cloud-storage, in pipelines/stores/gcs_internals.py.


def test_the_client_tells_which_errors_may_pass():
    assert gcs_internals.is_transient(exceptions.ServiceUnavailable("busy"))
    assert gcs_internals.is_transient(exceptions.TooManyRequests("busy"))
    assert gcs_internals.is_transient(requests.exceptions.ConnectionError("reset"))
    assert not gcs_internals.is_transient(exceptions.NotFound("none"))


def test_the_client_keeps_as_many_connections_as_it_is_told_to():
    client = storage.Client(project="p", credentials=AnonymousCredentials())
    gcs_internals.keep_connections(client, 77)
    adapter = client._http.get_adapter("https://storage.googleapis.com")
    assert adapter._pool_maxsize == 77
    # Its requests go through this session.
    assert client._connection.http is client._http


# Of Keras, in model/keras_internals.py.


def test_an_optimizer_has_one_key_for_a_variable_and_for_what_it_updates():
    kept, other = keras.Variable(np.zeros(2)), keras.Variable(np.zeros(2))
    updated = []

    class Recording(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            updated.append((variable, keras_internals.variable_key(self, variable)))
            super().update_step(gradient, variable, learning_rate)

    optimizer = Recording(1.0)
    keys = [keras_internals.variable_key(optimizer, variable) for variable in (kept, other)]
    assert len(set(keys)) == 2
    optimizer.apply([ops.ones(2)] * 2, [kept, other])
    assert [key for _, key in updated] == keys
    # So it is for what a compiled function updates.
    updated.clear()
    tf.function(lambda: optimizer.apply([ops.ones(2)] * 2, [kept, other]))()
    assert [key for _, key in updated] == keys
    # They are the backend's variables, which the documented interface can't tell apart.
    assert not any(isinstance(variable, keras.Variable) for variable, _ in updated)


def test_a_model_that_is_never_compiled_by_xla_keeps_those_that_hold_it_from_it():
    inner = keras.Sequential([keras.layers.Dense(2)])
    free, bound = (keras.Sequential([inner]), keras.Sequential([keras.Sequential([keras.layers.Dense(2)])]))
    keras_internals.never_compile_by_xla(bound.layers[0])
    free.jit_compile = True
    assert free.jit_compile
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        bound.jit_compile = True
    assert not bound.jit_compile


@pytest.mark.parametrize("name", KERAS_APPLICATIONS)
def test_a_classifier_has_its_preprocessing_beside_it(name):
    classifier = getattr(keras.applications, name)
    preprocess = keras_internals.preprocessing_of(classifier)
    # Where a documented module has the classifier, the preprocessing is that module's.
    modules = [value for value in vars(keras.applications).values() if getattr(value, name, None) is classifier]
    assert all(module.preprocess_input is preprocess for module in modules)
    assert modules or preprocess is keras.applications.mobilenet_v3.preprocess_input

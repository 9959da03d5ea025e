"""Which errors are a photo's, which are Beamscribe's, and what is logged of them."""

import ast
import threading

import pytest

from beamscribe.pipelines import batches, failures, stores
from beamscribe.pipelines.failures import ErrorCode, Stage
from beamscribe.pipelines.images import formats
from beamscribe.pipelines.images.pictures import Picture
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import damage, reading
from beamscribe.pipelines.sources.photo_reader import Photo
from beamscribe.pipelines.stores import gcs, local
from beamscribe.pipelines.stores.base import NoCredentialsError, StoreError, as_os_errors


@pytest.fixture(autouse=True)
def nothing_logged(monkeypatch):
    monkeypatch.setattr(failures, "_logged", set())


def caught(function, *arguments):
    """The error that a function raises, with its traceback."""
    try:
        function(*arguments)
    except Exception as error:  # noqa: BLE001 - any error will do
        return error
    raise AssertionError("it raised nothing")


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError(2, "No such file"), ErrorCode.NOT_FOUND),
        (PermissionError(13, "Permission denied"), ErrorCode.PERMISSION),
        (OSError(5, "Input/output error"), ErrorCode.UNREADABLE),
        (ValueError("embedded null byte"), ErrorCode.UNREADABLE),
        (TypeError("no such argument"), ErrorCode.INTERNAL_ERROR),
        (AttributeError("no such attribute"), ErrorCode.INTERNAL_ERROR),
        (NameError("no such name"), ErrorCode.INTERNAL_ERROR),
        (ImportError("no such module"), ErrorCode.INTERNAL_ERROR),
        (KeyError("key"), ErrorCode.INTERNAL_ERROR),
        (AssertionError(), ErrorCode.INTERNAL_ERROR),
    ],
)
def test_codes_of_errors(error, code, caplog):
    failure = failures.of_error(Stage.READ, caught(fail, error))
    assert (failure.stage, failure.error) == (Stage.READ, code)
    is_fault = code == ErrorCode.INTERNAL_ERROR
    assert len(caplog.records) == is_fault
    assert failure.message.startswith(type(error).__name__) == is_fault


def test_a_fault_names_its_place_and_is_logged_once(caplog):
    first, second = caught(formats.codecs, None), caught(formats.codecs, 5)
    messages = [failures.of_error(Stage.READ, error).message for error in (first, second, first)]
    assert messages[0].startswith(
        "TypeError: 'NoneType' object is not subscriptable (pipelines/images/formats.py, line "
    )
    assert "'int' object" in messages[1]
    (record,) = caplog.records
    assert record.levelname == "ERROR" and record.exc_info[1] is first
    assert record.getMessage() == f"a fault of Beamscribe in the stage read: {messages[0]}"
    # Another place is another kind.
    failures.of_error(Stage.READ, caught(fail, TypeError("no such argument")))
    assert len(caplog.records) == 2


def test_an_error_that_was_not_raised_has_no_place():
    assert failures.of_fault(Stage.READ, TypeError()).message == "TypeError (unknown place)"


def test_threads_log_a_fault_once(caplog):
    error = caught(formats.codecs, None)
    together = threading.Barrier(8)

    def describe():
        together.wait()
        failures.of_error(Stage.READ, error)

    threads = [threading.Thread(target=describe) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caplog.records) == 1


def test_where_bytes_are_parsed_only_code_of_beamscribe_is_at_fault(caplog):
    own, library = caught(formats.codecs, None), caught(ast.parse, None)
    assert isinstance(own, TypeError) and isinstance(library, TypeError)
    assert failures.is_own_fault(own) and not failures.is_own_fault(library)
    assert not failures.is_own_fault(caught(local.LocalStore().read, "/no/such/file"))
    assert damage.failure(Stage.LIST, own).error == ErrorCode.INTERNAL_ERROR
    assert damage.failure(Stage.LIST, library).error == ErrorCode.CORRUPT
    assert len(caplog.records) == 1


def results_of(error):
    """What captioning gives for a photo on which the model fails."""

    def model(images, photos):
        raise error

    (photo,) = [Photo(PhotoRef("/a.jpg", ""), Picture("", pixels=[[[0, 0, 0]]]))]
    return [result for _, result in batches.infer([photo], model, 4)]


def test_what_the_model_can_not_compute_is_no_fault(caplog):
    import tensorflow as tf

    for error in (tf.errors.ResourceExhaustedError(None, None, "no memory"), MemoryError("no memory")):
        for _ in range(2):
            (failure,) = results_of(error)
            assert (failure.stage, failure.error, failure.message) == (
                Stage.CAPTION,
                ErrorCode.MODEL_ERROR,
                "no memory",
            )
    assert caplog.messages == [
        "the model failed on photos: ResourceExhaustedError: no memory",
        "the model failed on photos: MemoryError: no memory",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


@pytest.mark.parametrize("kind", [TypeError, ValueError, RuntimeError])
def test_anything_else_that_the_model_raises_is_a_fault(kind, caplog):
    (failure,) = results_of(kind("wrong"))
    assert failure.error == ErrorCode.INTERNAL_ERROR and failure.message.startswith(f"{kind.__name__}: wrong (")
    assert [record.exc_info[0] for record in caplog.records] == [kind]


def test_stores_turn_errors_of_their_clients_into_os_errors_and_no_faults():
    with pytest.raises(StoreError, match="gs://b/a: busy"), as_os_errors("gs://b/a"):
        raise RuntimeError("busy")
    with pytest.raises(TypeError), as_os_errors("gs://b/a"):
        raise TypeError("no such argument")


def test_a_store_that_fails_hides_nothing(monkeypatch):
    for error in (PermissionError(13, "Permission denied"), NoCredentialsError("there are none")):
        monkeypatch.setattr(local.LocalStore, "stat", lambda *_, error=error: fail(error))
        for function in (stores.stat, stores.version):
            with pytest.raises(type(error)):
                function("/a.jpg")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError(13, "Permission denied"), ErrorCode.PERMISSION),
        (OSError(5, "Input/output error"), ErrorCode.UNREADABLE),
        (None, ErrorCode.NOT_FOUND),
    ],
)
def test_a_version_that_can_not_be_had_after_reading_is_no_change(monkeypatch, error, code):
    monkeypatch.setattr(gcs.GcsStore, "read", lambda *_: b"photo")
    monkeypatch.setattr(gcs.GcsStore, "stat", lambda *_: fail(error) if error else None)
    failure = reading.read_photo(PhotoRef("gs://b/a.jpg", "1"))
    assert (failure.stage, failure.error) == (Stage.READ, code)


def test_missing_credentials_leave_the_reading_as_an_error(monkeypatch):
    monkeypatch.setattr(gcs.GcsStore, "read", lambda *_: b"photo")
    monkeypatch.setattr(gcs.GcsStore, "stat", lambda *_: fail(NoCredentialsError("there are none")))
    with pytest.raises(NoCredentialsError):
        reading.read_photo(PhotoRef("gs://b/a.jpg", "1"))
    (ref,) = [PhotoRef("gs://b/a.parquet#1", "1", container="gs://b/a.parquet", format="parquet")]
    monkeypatch.setattr(gcs.GcsStore, "open", lambda *_: fail(NoCredentialsError("there are none")))
    with pytest.raises(NoCredentialsError):
        list(reading.read_members([ref], reading.ListOptions()))

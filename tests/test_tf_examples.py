"""Tables as TFRecord files."""

import gzip
import tempfile

import pyarrow as pa
import pytest

from beamscribe.pipelines import tf_examples

TABLE = pa.table(
    {
        "photo": ["a.jpg", "é.jpg", "c.jpg"],
        "caption": ["a dog", None, ""],
        "width": pa.array([3, None, -5], pa.int64()),
        "scores": pa.array([[0.5, 1.5], [], None], pa.list_(pa.float32())),
        "bytes": [bytes(100_000), b"", b"\xff"],
    }
)


def test_tensorflow_reads_what_is_written(tmp_path, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf_examples, "_ENCODED_ROWS", 2)
    path = tmp_path / "examples.tfrecord.gz"
    path.write_bytes(tf_examples.tfrecord(TABLE))
    examples = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path), "GZIP")]
    assert len(examples) == 3
    features = [example.features.feature for example in examples]
    assert [list(of["photo"].bytes_list.value) for of in features] == [[b"a.jpg"], ["é.jpg".encode()], [b"c.jpg"]]
    assert [list(of["caption"].bytes_list.value) for of in features] == [[b"a dog"], [], [b""]]
    assert [list(of["width"].int64_list.value) for of in features] == [[3], [], [-5]]
    assert [list(of["scores"].float_list.value) for of in features] == [[0.5, 1.5], [], []]
    assert [list(of["bytes"].bytes_list.value) for of in features] == [[bytes(100_000)], [b""], [b"\xff"]]


def test_no_file_is_written_that_a_killed_process_would_leave(monkeypatch):
    def opened(*_, **__):
        pytest.fail("writes a file")

    for name in ("mkdtemp", "mkstemp", "NamedTemporaryFile", "TemporaryDirectory"):
        monkeypatch.setattr(tempfile, name, opened)
    assert gzip.decompress(tf_examples.tfrecord(TABLE))
    assert gzip.decompress(tf_examples.tfrecord(TABLE.slice(0, 0))) == b""

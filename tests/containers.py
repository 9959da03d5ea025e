"""Containers of photos, made for tests, and what listing and reading them gives."""

import contextlib
import errno
import io
import tarfile
import zipfile

from PIL import Image

from beamscribe.pipelines import listing
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import reading
from beamscribe.pipelines.sources.base import Ignored, ListOptions


def jpeg(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (16, 16), shade).save(buffer, "JPEG")
    return buffer.getvalue()


FILES = {"a.jpg": jpeg(1), "sub/b.png": jpeg(2), "notes.txt": b"text", "c": jpeg(3)}


def listed(uri, **options):
    """What listing an input gives: photos, and kinds of other files."""
    chosen = ListOptions(**options)
    found = [f for source in listing.sources([str(uri)], chosen) for f in listing.list_source(source, chosen)]
    return [f for f in found if isinstance(f, PhotoRef)], sorted(f.kind for f in found if isinstance(f, Ignored))


def names(refs, uri):
    return sorted(ref.photo.removeprefix(str(uri)).lstrip("#/") for ref in refs)


def contents(refs, **options):
    """What reading photos gives, by the last part of their names."""
    found = {}
    for container, run in reading.by_container(sorted(refs, key=lambda ref: (ref.container, ref.place))):
        read = reading.read_members(run, ListOptions(**options)) if container else map(reading.read_photo, run)
        found.update({ref.photo.rpartition("#")[2]: content for ref, content in zip(run, read, strict=True)})
    return found


def make_tar(path, files=FILES, mode="w", mtime=1000):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), mtime
            archive.addfile(member, io.BytesIO(data))
    return path


def make_zip(path, files=FILES, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def example(**features):
    import tensorflow as tf

    values = {
        name.replace("_", "/"): tf.train.Feature(bytes_list=tf.train.BytesList(value=[v]))
        for name, v in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString()


def make_records(path, examples, compression=""):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for one in examples:
            writer.write(one)
    return path


def container(tmp_path, kind):
    if kind == "zip":
        return make_zip(tmp_path / "photos.zip", compression=zipfile.ZIP_DEFLATED)
    if kind == "takeout":
        # Its name says nothing.
        return make_zip(tmp_path / "takeout-001")
    return make_tar(tmp_path / f"photos.{kind}", mode=f"w:{kind.partition('.')[2]}")


def failing(opened):
    """Opens files that can't be read beyond their first bytes."""

    @contextlib.contextmanager
    def wrapped(uri):
        with opened(uri) as file:

            class Broken(io.RawIOBase):
                readable = seekable = lambda self: True
                tell, seek = file.tell, file.seek

                def read(self, size=-1):
                    if file.tell() > 0 or size != 8:
                        raise OSError(errno.EIO, "Input/output error")
                    return file.read(size)

            yield Broken()

    return wrapped

import json
import shutil

import pytest

from beamscribe.jobs import cli
from beamscribe.model import bundle
from beamscribe.model.documents import DamagedDocumentError
from beamscribe.model.errors import BeamscribeError, InputError
from beamscribe.pipelines import bundle_cache, captioner, stores
from beamscribe.pipelines.stores import local
from beamscribe.pipelines.stores.base import FileInfo


def test_the_bundle_of_the_package_is_that_of_whoever_uses_it():
    assert bundle_cache.located(None) == ""
    described = bundle_cache.described("")
    assert bundle_cache.fetched("", described.fingerprint) == bundle.DEFAULT


def test_a_folder_is_used_where_it_is(tiny_bundle, monkeypatch):
    monkeypatch.chdir(tiny_bundle.parent)
    located = bundle_cache.located(tiny_bundle.name)
    assert located == str(tiny_bundle)
    assert bundle_cache.fetched(located, bundle_cache.described(located).fingerprint) == tiny_bundle


def test_another_bundle_than_the_one_that_was_meant(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "other")
    with pytest.raises(
        BeamscribeError,
        match=r"other is not the one that the job was started with: its fingerprint is \w{16}, not 0{16}",
    ):
        bundle_cache.fetched(str(tmp_path / "other"), "0" * 16)


def test_a_worker_that_has_another_bundle_ends_the_job_with_one_line(
    tiny_bundle, tmp_path, make_photo, monkeypatch, capsys
):
    make_photo(tmp_path / "photos" / "1.jpg")
    described = bundle_cache.described
    other = {"fingerprint": "0" * 16}
    monkeypatch.setattr(bundle_cache, "described", lambda uri: described(uri).model_copy(update=other))
    given = ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), "--bundle", str(tiny_bundle)]
    assert cli.main(["caption", *given]) == 1
    line = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert f"the bundle {tiny_bundle} is not the one that the job was started with" in line


class Objects(local.LocalStore):
    """A store of objects, whose names can be any texts."""

    is_local = False

    def __init__(self, objects):
        self.objects = objects

    def read(self, uri, most=None):
        if uri not in self.objects:
            raise FileNotFoundError(uri)
        return self.objects[uri]

    def list(self, folder, start="", end=""):
        return (FileInfo(uri) for uri in sorted(self.objects) if uri.startswith(f"{folder}/"))


@pytest.fixture
def objects(tiny_bundle, tmp_path, monkeypatch):
    """The objects of a store, by their URIs: the tiny bundle at `gs://models/tiny`."""
    files = [path for path in tiny_bundle.rglob("*") if path.is_file()]
    found = {f"gs://models/tiny/{path.relative_to(tiny_bundle)}": path.read_bytes() for path in files}
    monkeypatch.setitem(stores._STORES, "gs", Objects(found))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return found


@pytest.mark.parametrize(
    "name",
    [
        "../../../../OUTSIDE/evil.py",
        "..",
        "saved_model/../../evil",
        "saved_model/./evil",
        "/OUTSIDE/evil",
        "saved_model//evil",
        "saved_model/evil\0",
        "saved_model/e\nvil",
        "..\\evil",
    ],
)
def test_no_object_is_written_outside_of_the_cache(name, objects, tmp_path):
    objects[f"gs://models/tiny/{name.replace('OUTSIDE', str(tmp_path))}"] = b"evil"
    fingerprint = bundle_cache.described("gs://models/tiny").fingerprint
    with pytest.raises(
        BeamscribeError, match=r"^the bundle gs://models/tiny is refused: its object .* has a name that"
    ):
        bundle_cache.fetched("gs://models/tiny", fingerprint)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("fingerprint", ["../../../../evil", "", "0" * 15, "0" * 16 + "\n", "/tmp/evil", "G" * 16])
def test_a_fingerprint_names_no_folder_elsewhere(fingerprint, objects, tmp_path):
    description = json.loads(objects["gs://models/tiny/bundle.json"])
    objects["gs://models/tiny/bundle.json"] = json.dumps(description | {"fingerprint": fingerprint}).encode()
    with pytest.raises(DamagedDocumentError, match=r"tiny/bundle.json is damaged: fingerprint"):
        bundle_cache.described("gs://models/tiny")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("https://photos.invalid/model", "there is no store for https://"),
        ("hf://me/model", "there is no store for hf://"),
        ("HTTPS://photos.invalid/model", "there is no store for HTTPS://"),
        ("s3://bucket/model", ""),
        ("azfs://account/container/model", ""),
        ("hdfs://host/model", ""),
        ("gs://", "names no bucket"),
    ],
)
@pytest.mark.parametrize("command", ["caption", "plan"])
def test_a_bundle_where_none_can_be_is_one_line(command, uri, complaint, tmp_path, make_photo, capsys):
    make_photo(tmp_path / "photos" / "1.jpg")
    given = ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), "--bundle", uri]
    assert cli.main([command, *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"beamscribe {command}: --bundle: ") and uri in line and complaint in line
    with pytest.raises(InputError, match=f"`bundle`: .*{uri}"):
        captioner.load(uri)

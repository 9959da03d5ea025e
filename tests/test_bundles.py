import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import filelock
import pytest

import beamscribe
from beamscribe.jobs import cli
from beamscribe.model import bundle
from beamscribe.model.errors import BeamscribeError, InputError
from beamscribe.pipelines import bundle_cache, captioner, stores
from beamscribe.pipelines.caption_photos import CaptionPhotos
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


def pinned(objects) -> str:
    """The URI of the bundle in the store, with the digest that it has."""
    with pytest.raises(InputError) as error:
        bundle_cache.described(bundle_cache.located("gs://models/tiny"))
    return str(error.value).rpartition(" give ")[2]


def written(folder) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


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
    uri = pinned(objects)
    objects[f"gs://models/tiny/{name.replace('OUTSIDE', str(tmp_path))}"] = b"evil"
    for given in ("gs://models/tiny", uri):
        with pytest.raises(
            BeamscribeError, match=r"^the bundle gs://models/tiny is refused: its object .* has a name that"
        ):
            bundle_cache.described(bundle_cache.located(given))
        assert not written(tmp_path)


def described_with(folder, tmp_path, **fields):
    """What a copy of a bundle says of itself, with other fields in its description."""
    copied = shutil.copytree(folder, tmp_path / "copy")
    description = json.loads((copied / "bundle.json").read_text())
    (copied / "bundle.json").write_text(json.dumps({**description, **fields}))
    return bundle.describe(copied)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("image_size", 1_000_000, "image_size: Input should be less than or equal to 2048"),
        ("image_size", 31, "image_size: Input should be greater than or equal to 32"),
        ("image_size", -260, "image_size: Input should be greater"),
        ("longest", 10**9, "longest: Input should be less than or equal to 1000"),
        ("longest", 0, "longest: Input should be greater than or equal to 1"),
        ("longest", 5, "settings: `max_length` 6: the model writes at most 5 words"),
        ("settings", {"beam_width": 10**6, "max_length": 6}, "settings: `beam_width` 1000000: must be from 1 to 100"),
        ("settings", {"beam_width": 2, "max_length": -1}, "settings: `max_length` -1: must be at least 1"),
        ("settings", {"beam_width": 2, "max_length": 6, "no_repeat_ngram": 10**9}, "settings: `no_repeat_ngram`"),
        ("settings", {"beam_width": 2, "max_length": 6, "top_p": 7.0}, "settings: `top_p` 7.0: must be above 0"),
        ("settings", {"beam_width": 2}, "settings.max_length: Field required"),
    ],
)
def test_numbers_that_no_model_has_are_refused(field, value, problem, tiny_bundle, tmp_path):
    with pytest.raises(BeamscribeError) as error:
        described_with(tiny_bundle, tmp_path, **{field: value})
    assert re.match(rf"{tmp_path}/copy/bundle\.json is damaged: {problem}", str(error.value))
    assert str(error.value).endswith("; get the bundle again") and "\n" not in str(error.value)


def test_the_largest_numbers_that_a_bundle_may_have(tiny_bundle, tmp_path):
    settings = {"beam_width": 100, "max_length": 1000, "top_p": 0.5, "temperature": 2, "seed": 7}
    found = described_with(tiny_bundle, tmp_path, image_size=2048, longest=1000, settings=settings)
    assert (found.image_size, found.longest, found.settings.max_length) == (2048, 1000, 1000)
    assert found.settings.temperature == 2.0 and found.settings.seed == 7


@pytest.mark.parametrize("fingerprint", ["../../../../evil", "", "0" * 15, "0" * 16 + "\n", "/tmp/evil", "G" * 16])
def test_a_fingerprint_is_one(fingerprint, objects):
    description = json.loads(objects["gs://models/tiny/bundle.json"])
    objects["gs://models/tiny/bundle.json"] = json.dumps(description | {"fingerprint": fingerprint}).encode()
    with pytest.raises(BeamscribeError, match=r"tiny/bundle.json is damaged: fingerprint"):
        bundle_cache.described(pinned(objects))


def test_a_bundle_from_elsewhere_is_loaded_with_its_digest_alone(objects, tiny_bundle, tmp_path, capsys):
    said = (
        "gs://models/tiny is not on this machine, and a bundle from elsewhere is loaded only with its digest, which is "
        f"now {bundle.digest(tiny_bundle)}; if you trust whoever made it, give gs://models/tiny@sha256:"
    )
    (tmp_path / "photos").mkdir()
    given = ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), "--bundle", "gs://models/tiny"]
    for command in ("caption", "plan"):
        assert cli.main([command, *given]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"beamscribe {command}: --bundle: {said}{bundle.digest(tiny_bundle)}"
    for load in (captioner.load, CaptionPhotos, lambda uri: beamscribe.caption("photos", "out", bundle=uri)):
        with pytest.raises(InputError, match=f"`bundle`: {said}"):
            load("gs://models/tiny")
    assert not written(tmp_path)

    model = captioner.load(pinned(objects))
    assert model.fingerprint == bundle.describe(tiny_bundle).fingerprint
    assert CaptionPhotos(pinned(objects).upper().replace("GS://MODELS/TINY@SHA256", "gs://models/tiny@sha256"))


def test_a_bundle_that_has_changed_since_is_refused(objects, tmp_path):
    uri = pinned(objects)
    objects["gs://models/tiny/vocabulary.txt"] += b"word\n"
    now = pinned(objects)
    assert now != uri
    with pytest.raises(InputError) as error:
        bundle_cache.described(uri)
    assert str(error.value) == (
        f"`bundle`: gs://models/tiny is not the bundle whose digest was given: it has the digest {now[-64:]}, not "
        f"{uri[-64:]}; if you trust it all the same, give {now}"
    )
    assert not written(tmp_path)
    # Whoever pins it all the same is told that it does not fit together.
    with pytest.raises(BeamscribeError, match=r"^the bundle gs://models/tiny is damaged"):
        bundle_cache.described(now)


def test_what_is_not_loaded_is_not_pinned_and_not_fetched(objects, tiny_bundle, tmp_path):
    uri = pinned(objects)
    objects["gs://models/tiny/MODEL_CARD.md"] += b"more"
    objects["gs://models/tiny/notes/today.txt"] = b"new"
    folder = bundle_cache.fetched(uri, bundle_cache.described(uri).fingerprint)
    assert folder.is_relative_to(tmp_path / "cache") and bundle.digest(folder) == uri[-64:]
    assert sorted(path.name for path in folder.iterdir()) == [
        *("bundle.json", "recipe.yaml", "saved_model", "vocabulary.txt")
    ]
    # It is not asked for again.
    objects.clear()
    assert bundle_cache.fetched(uri, bundle_cache.described(uri).fingerprint) == folder


def test_a_damaged_copy_is_fetched_again(objects, tmp_path):
    uri = pinned(objects)
    folder = bundle_cache.fetched(uri, bundle_cache.described(uri).fingerprint)
    for damage in (lambda path: path.write_text("nonsense"), lambda path: path.unlink()):
        damage(folder / "vocabulary.txt")
        assert bundle_cache.fetched(uri, bundle_cache.described(uri).fingerprint) == folder
        assert bundle.digest(folder) == uri[-64:]
    # TensorFlow would look at files of other names.
    (folder / "saved_model" / "saved_model.pbtxt").write_text("")
    bundle_cache.described(uri)
    assert not (folder / "saved_model" / "saved_model.pbtxt").exists()


def test_a_local_bundle_may_be_pinned(tiny_bundle):
    uri = f"{tiny_bundle}@sha256:{bundle.digest(tiny_bundle)}"
    assert bundle_cache.located(uri) == uri
    assert bundle_cache.fetched(uri, bundle_cache.described(uri).fingerprint) == tiny_bundle
    other = f"{tiny_bundle}@sha256:{'0' * 64}"
    with pytest.raises(InputError, match=f"it has the digest {bundle.digest(tiny_bundle)}, not {'0' * 64}; if you"):
        bundle_cache.described(other)
    with pytest.raises(InputError, match="/no/bundle is not a model bundle"):
        bundle_cache.described(f"/no/bundle@sha256:{'0' * 64}")


@pytest.mark.parametrize("digest", ["", "12", "0" * 63, "0" * 65, "g" * 64, "0" * 63 + "/"])
@pytest.mark.parametrize("place", ["gs://models/tiny", "/models/tiny"])
def test_what_is_no_digest(place, digest):
    with pytest.raises(InputError, match=r"^`bundle`: '.*' is no digest: 64 hexadecimal digits come after @sha256:$"):
        bundle_cache.located(f"{place}@sha256:{digest}")


def test_the_folder_of_fetched_bundles_is_nobody_elses(objects, tmp_path):
    uri = pinned(objects)
    (tmp_path / "cache" / "beamscribe").mkdir(parents=True)
    (tmp_path / "cache" / "beamscribe").chmod(0o777)
    bundle_cache.described(uri)
    for folder in (tmp_path / "cache" / "beamscribe", tmp_path / "cache" / "beamscribe" / "bundles"):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
@pytest.mark.parametrize("name", ["beamscribe", "beamscribe/bundles"])
@pytest.mark.parametrize("link", [False, True])
def test_that_of_another_user_is_refused(name, link, objects, tmp_path):
    uri = pinned(objects)
    folder = tmp_path / "cache" / name
    folder.parent.mkdir(parents=True)
    if link:
        (tmp_path / "mine").mkdir()
        folder.symlink_to(tmp_path / "mine")
    else:
        folder.mkdir()
    os.chown(folder, 12345, 12345, follow_symlinks=False)
    with pytest.raises(BeamscribeError, match=rf"can't keep a bundle in {folder}: the folder is another user's"):
        bundle_cache.described(uri)
    assert not written(tmp_path)


def test_who_has_no_home_has_a_folder_of_temporary_files(objects, tmp_path, monkeypatch):
    def nobody(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", nobody)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    uri = pinned(objects)
    folder = bundle_cache.fetched(uri, bundle_cache.described(uri).fingerprint)
    assert folder.parent == tmp_path / "tmp" / f"beamscribe-{os.geteuid()}"
    assert folder.parent.stat().st_mode & 0o777 == 0o700


def test_what_a_process_has_left_that_was_killed_goes_with_the_next_fetch(objects, tmp_path):
    uri = pinned(objects)
    cache = tmp_path / "cache" / "beamscribe" / "bundles"
    left = [cache / f".{digest}.{'a' * 32}" for digest in (uri[-64:], "1" * 64)]
    busy = cache / f".{'2' * 64}.{'b' * 32}"
    for folder in (*left, busy):
        (folder / "saved_model").mkdir(parents=True)
    with filelock.FileLock(cache / f"{'2' * 64}.lock"):
        bundle_cache.described(uri)
    assert not any(folder.exists() for folder in left) and busy.exists()


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


@pytest.mark.parametrize("name", ["saved_model", "saved_model/variables"])
def test_what_is_behind_a_link_to_a_folder_is_in_no_digest_and_refused(tiny_bundle, tmp_path, name):
    folder, real = tmp_path / "bundle", tmp_path / "real"
    shutil.copytree(tiny_bundle, folder)
    (folder / name).rename(real)
    (folder / name).symlink_to(real)
    for read in (bundle.describe, bundle.digest):
        with pytest.raises(BeamscribeError, match=f"{name} is a link to a folder"):
            read(folder)


def test_a_bundle_may_be_found_by_a_link(tiny_bundle, tmp_path):
    (tmp_path / "latest").symlink_to(tiny_bundle)
    assert bundle.describe(tmp_path / "latest") == bundle.describe(tiny_bundle)
    assert bundle.digest(tmp_path / "latest") == bundle.digest(tiny_bundle)

import shutil

import pytest

from beamscribe.jobs import cli
from beamscribe.model import bundle
from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines import bundle_cache


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

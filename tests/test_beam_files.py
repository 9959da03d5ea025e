"""Photos on a filesystem that only Beam knows are listed, read and captioned; no captions are written there."""

import os

import pytest
from apache_beam.io.filesystem import FileMetadata, MatchResult
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.localfilesystem import LocalFileSystem

from beamscribe.jobs import cli
from beamscribe.pipelines import listing, stores
from beamscribe.pipelines.output import layout, rows
from beamscribe.pipelines.sources.base import ListOptions, Source

SCHEME = "elsewhere://"


class ElsewhereFileSystem(LocalFileSystem):
    """Local files under a scheme of their own, as a plug-in of Beam would add it."""

    @classmethod
    def scheme(cls):
        return "elsewhere"

    def join(self, base, *parts):
        return "/".join((base.rstrip("/"), *parts))

    def split(self, path):
        return tuple(path.rsplit("/", 1))

    def match(self, patterns, limits=None):
        results = super().match([pattern.removeprefix(SCHEME) for pattern in patterns], limits)
        # Of files alone, as stores of objects do.
        files = [[found for found in result.metadata_list if os.path.isfile(found.path)] for result in results]
        return [
            MatchResult(
                SCHEME + result.pattern,
                [FileMetadata(SCHEME + f.path, f.size_in_bytes, f.last_updated_in_seconds) for f in found],
            )
            for result, found in zip(results, files, strict=True)
        ]

    def open(self, path, *arguments, **options):
        return super().open(path.removeprefix(SCHEME), *arguments, **options)

    def create(self, path, *arguments, **options):
        os.makedirs(os.path.dirname(path.removeprefix(SCHEME)), exist_ok=True)
        return super().create(path.removeprefix(SCHEME), *arguments, **options)

    def exists(self, path):
        return super().exists(path.removeprefix(SCHEME))

    def delete(self, paths):
        for path in paths:
            for match in self.match([path]):
                for found in match.metadata_list:
                    os.unlink(found.path.removeprefix(SCHEME))


@pytest.fixture
def elsewhere(tmp_path):
    """URI of a folder on that filesystem."""
    assert isinstance(FileSystems.get_filesystem(SCHEME), ElsewhereFileSystem)
    return f"{SCHEME}{tmp_path}"


def test_files_are_written_read_and_found(elsewhere):
    uri = f"{elsewhere}/a/x.gz"
    stores.replace(uri, b"not packed")
    assert stores.read(uri) == b"not packed" and stores.head(uri, 3) == b"not"
    with stores.opened(uri) as file:
        file.seek(4)
        assert file.read() == b"packed"
    assert stores.stat(uri).size == 10 and stores.version(uri).startswith("10-")
    assert stores.exists(uri) and not stores.exists(f"{elsewhere}/none")
    assert stores.is_folder(f"{elsewhere}/a") and not stores.is_folder(uri)
    assert list(stores.within(f"{elsewhere}/a", "*.gz")) == [uri] == [info.uri for info in stores.below(elsewhere)]
    assert stores.folder_of(uri) == f"{elsewhere}/a"
    with pytest.raises(FileNotFoundError):
        stores.read(f"{elsewhere}/none")
    stores.delete(uri)
    assert not stores.exists(uri)


def test_photos_are_captioned_from_it_and_not_to_it(elsewhere, tmp_path, tiny_bundle, make_photo, capsys):
    for number in range(3):
        make_photo(tmp_path / "photos" / f"{number}.jpg")
    found = list(listing.list_source(Source(f"{elsewhere}/photos", "folder"), ListOptions()))
    assert sorted(ref.photo for ref in found) == [f"{elsewhere}/photos/{number}.jpg" for number in range(3)]
    given = ["--input", f"{elsewhere}/photos", "--bundle", str(tiny_bundle)]
    assert cli.main(["caption", *given, "--output", str(tmp_path / "out")]) == 0
    assert "listed 3 = skipped 0 + taken over 0 + captioned 3 + failed 0" in capsys.readouterr().out
    (path,) = layout.committed_files(str(tmp_path / "out"))
    assert sorted(rows.read_table(path)["photo"].to_pylist()) == sorted(ref.photo for ref in found)
    assert cli.main(["caption", *given, "--output", f"{elsewhere}/refused"]) == 1
    assert capsys.readouterr().err.startswith(f"beamscribe caption: {elsewhere}/refused can't hold captions: ")
    assert not (tmp_path / "refused").exists()

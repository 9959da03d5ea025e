"""What earlier versions wrote stays readable: outputs and bundles of `tests/data`."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import keras
import numpy as np
import pytest

from beamscribe.jobs import cli
from beamscribe.model import bundle, decoders, encoders, recipe, search
from beamscribe.model.caption_settings import CaptionSettings, draws
from beamscribe.model.captioners.exported_model import CaptionModel
from beamscribe.model.search import Rules
from beamscribe.model.words.vocabulary import Vocabulary

DATA = Path(__file__).parent / "data"
SAMPLES = Path(__file__).parents[1] / "samples"
# Rows hold absolute paths, and times of change as parts of etags.
ARCHIVE = Path("/tmp/beamscribe-archive")
TIME = 1_700_000_000

CAPTIONS = {
    "coffee.jpg": "a brown and white dog is sitting on a table",
    "twin.jpg": "a brown and white dog is sitting on a table",
    "pair.tar#bridge.jpg": "a man is standing on a boat in the water",
    "pair.tar#lake.jpg": "a person is standing in front of a mountain",
}


def unpacked(name: str, folder: Path) -> Path:
    with tarfile.open(DATA / name) as archive:
        archive.extractall(folder, filter="data")
    return folder / name.rpartition("/")[2].removesuffix(".tar.xz")


@pytest.fixture
def archive():
    """The photos that the outputs are of."""
    shutil.rmtree(ARCHIVE, ignore_errors=True)
    ARCHIVE.mkdir()
    for name, sample in {"coffee": "coffee", "twin": "coffee", "broken": "broken"}.items():
        shutil.copyfile(SAMPLES / f"{sample}.jpg", ARCHIVE / f"{name}.jpg")
    with tarfile.open(ARCHIVE / "pair.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("bridge.jpg", "lake.jpg"):
            data = (SAMPLES / name).read_bytes()
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), TIME
            tar.addfile(member, io.BytesIO(data))
    for path in ARCHIVE.iterdir():
        os.utime(path, (TIME, TIME))
    yield ARCHIVE
    shutil.rmtree(ARCHIVE)


@pytest.mark.parametrize("name", ["output", "compacted"])
def test_an_output_is_verified_shown_captioned_further_and_compacted(name, tmp_path, archive, capsys):
    output = unpacked(f"0.1.0/{name}.tar.xz", tmp_path)
    inputs = ["--input", str(archive), str(archive / "pair.tar")]
    assert cli.main(["verify", str(output), *inputs]) == 0
    expected = "0 without a row, 0 changed after their row was written; 0 photos with rows are not listed"
    assert expected in capsys.readouterr().out
    assert shown(output, capsys) == CAPTIONS | {"broken.jpg": None}

    shutil.copyfile(SAMPLES / "skyline.jpg", archive / "new.jpg")
    assert cli.main(["caption", *inputs, "--output", str(output)]) == 0
    assert "listed 6 = skipped 5 + taken over 0 + captioned 1 + failed 0" in capsys.readouterr().out
    assert cli.main(["verify", str(output), *inputs]) == 0
    assert cli.main(["compact", str(output)]) == 0
    assert len(list(output.glob("captions/run=*/shard-*.parquet"))) == 1
    assert cli.main(["verify", str(output), *inputs]) == 0
    capsys.readouterr()
    found = shown(output, capsys)
    assert found.pop("new.jpg") and found == CAPTIONS | {"broken.jpg": None}


def shown(output: Path, capsys) -> dict[str, str | None]:
    assert cli.main(["show", str(output), "--format", "jsonl"]) == 0
    rows = map(json.loads, capsys.readouterr().out.splitlines())
    return {row["photo"].removeprefix(f"{ARCHIVE}/"): row["caption"] for row in rows}


def test_a_bundle_writes_the_captions_that_it_wrote(tmp_path):
    folder = unpacked("0.1.0/bundle.tar.xz", tmp_path)
    expected = json.loads((DATA / "0.1.0" / "bundle_captions.json").read_text())
    assert bundle.describe(folder).fingerprint == expected["fingerprint"]
    model = CaptionModel(folder)
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    settings = CaptionSettings(beam_width=3, max_length=8)
    captions, scores = model.caption(images, settings)
    assert captions.tolist() == expected["searched"]["captions"]
    np.testing.assert_allclose(scores, expected["searched"]["scores"], rtol=1e-3)
    settings = settings._replace(top_p=0.9, seed=3)
    names = [f"{number}.jpg" for number in range(6)]
    captions, scores = model.caption(images, settings, draws(names, settings, 2, model.longest))
    assert captions.tolist() == expected["drawn"]["captions"]
    np.testing.assert_allclose(scores, expected["drawn"]["scores"], rtol=1e-3)


def test_a_bundle_gives_new_models_its_weights(tmp_path):
    folder = unpacked("0.1.0/bundle.tar.xz", tmp_path)
    expected = json.loads((DATA / "0.1.0" / "bundle_captions.json").read_text())
    chosen = recipe.load(str(folder / bundle.RECIPE))
    vocabulary = Vocabulary.load(folder / bundle.VOCABULARY)
    keras.utils.set_random_seed(5)
    encoder = encoders.build(chosen.encoder.model_copy(update={"weights": "none"}))
    decoder = decoders.build(chosen, len(vocabulary), encoder.output_shape[1:])
    bundle.restore(folder, encoder, decoder)
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    ids, scores = search.beam_search(decoder, encoder(images), 3, Rules(8), 1.0)
    captions = [[" ".join(vocabulary.decode(row)) for row in rows] for rows in np.asarray(ids)]
    assert captions == expected["searched"]["captions"]
    np.testing.assert_allclose(scores, expected["searched"]["scores"], rtol=1e-3)

"""Captions a split and scores it against what people wrote: BLEU, METEOR, ROUGE-L, CIDEr, and what those hide.

Needs Java and the `evaluate` extra. With --captions-from it scores captions that are there already, made by anyone.
"""

import argparse
import json
import os
import sys

from beamscribe.jobs.options import search_options

EXAMPLE = """beamscribe evaluate --images flickr8k/images --captions flickr8k/captions.txt \\
    --split flickr8k/Flickr_8k.devImages.txt --train-split flickr8k/Flickr_8k.trainImages.txt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    parser.add_argument(
        "--bundle", metavar="DIR", help="model bundle, local or gs://; the one in the package by default"
    )
    parser.add_argument("--images", metavar="DIR", help="folder of the photos")
    parser.add_argument("--captions", required=True, metavar="FILE", help="captions.txt or Flickr8k.token.txt")
    parser.add_argument("--split", required=True, metavar="FILE", help="file names of the photos to score, one a line")
    parser.add_argument("--train-split", metavar="FILE", help="photos trained on; gives the share of copied captions")
    parser.add_argument("--captions-from", metavar="DIR", help="score the captions in this output folder instead")
    search_options.add_arguments(parser)
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")


def run(options: argparse.Namespace, _: list[str]) -> int:
    """Scores one split."""
    from beamscribe.model import annotations, evaluation
    from beamscribe.model.errors import BeamscribeError, one_line
    from beamscribe.pipelines import stores

    evaluation.require_tools()
    references = annotations.captions_of_split(options.split, options.captions)
    learned = None
    if options.train_split:
        trained_on = annotations.captions_of_split(options.train_split, options.captions)
        learned = [caption for captions in trained_on.values() for caption in captions]

    if options.captions_from:
        if options.images or options.bundle or search_options.given(options):
            raise BeamscribeError(
                "--captions-from: these captions are written already; "
                "leave out --images, --bundle and the options that say how to write captions"
            )
        captions = _captions_of(options.captions_from, {photo.count("/") for photo in references})
    elif options.images:
        captions = _caption(options, list(references))
    else:
        raise BeamscribeError(
            "give --images, the folder of the photos, or --captions-from, a folder of captions that are written already"
        )
    absent = [photo for photo in references if photo not in captions]
    for photo in absent:
        print(f"no caption, scored as empty: {photo}", file=sys.stderr)

    metrics = evaluation.evaluate(captions, references, learned)
    for name, value in metrics.items():
        print(f"{name:18} {'-' if value is None else f'{value:.2f}' if isinstance(value, float) else value}")
    if options.output:
        try:
            stores.replace(os.path.abspath(options.output), (json.dumps(metrics, indent=2) + "\n").encode())
        except OSError as error:
            raise BeamscribeError(f"--output: can't write {options.output}: {one_line(error)}") from None
    return 0


def _caption(options: argparse.Namespace, photos: list[str]) -> dict[str, str]:
    """Captions the photos with the bundle; prints those that fail, and leaves them out."""
    import numpy as np
    from tqdm import tqdm

    from beamscribe.model.caption_settings import draws
    from beamscribe.model.captioners.exported_model import CaptionModel
    from beamscribe.model.errors import BeamscribeError
    from beamscribe.pipelines import bundle_cache, stores
    from beamscribe.pipelines.failures import Failure
    from beamscribe.pipelines.inference import PhotoStream, infer
    from beamscribe.pipelines.photos import PhotoRef, Shard

    located = bundle_cache.located(options.bundle)
    described = bundle_cache.described(located)
    settings = search_options.chosen(options, described)
    if not os.path.isdir(options.images):
        raise BeamscribeError(f"--images: no folder {options.images}")
    model = CaptionModel(bundle_cache.fetched(located, described.fingerprint))
    folder = stores.join(options.images, "")
    refs = tuple(PhotoRef(stores.join(options.images, photo), etag="") for photo in photos)
    stream = PhotoStream(Shard(0, refs)).pictures(model.image_size)

    def caption(images: np.ndarray, photos: list[str]) -> np.ndarray:
        # Figures must not depend on where the photos lie.
        names = [photo.removeprefix(folder) for photo in photos]
        return model.caption(images, settings, draws(names, settings, 1, model.longest))[0][:, 0]

    captions = {}
    for photo, result in tqdm(infer(stream, caption, batch_size=32), total=len(refs), unit="photo", desc="captioned"):
        name = photo.ref.photo.removeprefix(folder)
        if isinstance(result, Failure):
            print(f"{name}: {result.error}: {result.message}", file=sys.stderr)
        else:
            captions[name] = str(result)
    return captions


def _captions_of(folder: str, depths: set[int]) -> dict[str, str]:
    """The captions in an output folder, or in any folder of Parquet files with `photo` and `caption`, by photos' names.

    Args:
      folder: where to look.
      depths: how many folders the names have before the file's own name.
    """
    import pyarrow as pa

    from beamscribe.model.errors import BeamscribeError, one_line
    from beamscribe.pipelines import stores
    from beamscribe.pipelines.output import layout, rows

    files = layout.committed_files(folder)
    others = [] if files else sorted(stores.within(folder, "**", "*.parquet"))
    if not files and not others:
        raise BeamscribeError(f"--captions-from: {folder} holds no captions; give the --output of beamscribe caption")
    try:
        tables = rows.latest(files, ["caption"]) if files else rows.read_tables(others, ["photo", "caption"])
        return {
            # A photo of a container is `URI#member`; the name of another may have a `#`, too.
            "/".join(name.split("/")[-1 - depth :]): row["caption"]
            for table in tables
            for row in table.select(["photo", "caption"]).drop_null().to_pylist()
            for name in {row["photo"], row["photo"].rpartition("#")[2]}
            for depth in depths
        }
    except (KeyError, pa.ArrowInvalid) as error:
        raise BeamscribeError(f"--captions-from: {folder}: {one_line(error)}") from None

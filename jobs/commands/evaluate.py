"""Captions a split and scores it against what people wrote: BLEU, METEOR, ROUGE-L, CIDEr, and what those hide.

Needs Java and the `evaluate` extra. With --captions-from it scores captions that are there already, made by anyone.
"""

import argparse
import json
import logging
import os
from typing import TYPE_CHECKING

from beamscribe.jobs.options import search_options

if TYPE_CHECKING:
    from beamscribe.pipelines.failures import Failure

_LOGGER = logging.getLogger(__name__)

EXAMPLE = """beamscribe evaluate --images flickr8k/images --captions flickr8k/captions.txt \\
    --split flickr8k/Flickr_8k.devImages.txt --train-split flickr8k/Flickr_8k.trainImages.txt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    parser.add_argument("--images", metavar="DIR", help="folder of the photos")
    parser.add_argument("--captions", required=True, metavar="FILE", help="captions.txt or Flickr8k.token.txt")
    parser.add_argument(
        "--split", required=True, metavar="FILE", help="file names of the photos to score, one per line"
    )
    parser.add_argument("--train-split", metavar="FILE", help="photos trained on; gives the share of copied captions")
    parser.add_argument("--captions-from", metavar="DIR", help="score the captions in this output folder instead")
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")
    search_options.add_arguments(parser)
    search_options.add_rare_arguments(parser)


def run(options: argparse.Namespace, _: list[str]) -> int:
    """Scores one split."""
    from beamscribe.model import annotations, evaluation
    from beamscribe.model.errors import BeamscribeError, InputError, RunError, one_line
    from beamscribe.pipelines import stores

    evaluation.require_tools()
    references = annotations.captions_of_split(options.split, options.captions)
    learned = None
    if options.train_split:
        trained_on = annotations.captions_of_split(options.train_split, options.captions)
        learned = [caption for captions in trained_on.values() for caption in captions]

    failures: dict[str, Failure] = {}
    if options.captions_from:
        if options.images or options.bundle or search_options.given(options):
            raise InputError(
                "`captions_from`: these captions are written already; "
                "leave out `images`, `bundle` and the options that say how to write captions"
            )
        captions = _captions_of(options.captions_from, {photo.count("/") for photo in references})
    elif options.images:
        captions, failures = _caption(options, list(references))
    else:
        raise InputError(
            "give `images`, the folder of the photos, or `captions_from`, a folder of captions that are written already"
        )
    for photo in references:
        if photo in failures:
            failure = failures[photo]
            _LOGGER.warning("no caption, scored as empty: %s: %s: %s", photo, failure.error, failure.message)
        elif photo not in captions:
            _LOGGER.warning("no caption, scored as empty: %s", photo)

    metrics = evaluation.evaluate(captions, references, learned)
    for name, value in metrics.items():
        print(f"{name:18} {'-' if value is None else f'{value:.2f}' if isinstance(value, float) else value}")
    if options.output:
        try:
            stores.replace(os.path.abspath(options.output), (json.dumps(metrics, indent=2) + "\n").encode())
        except OSError as error:
            raise BeamscribeError(f"`output`: can't write {options.output}: {one_line(error)}") from None
    if fault := _own_fault(failures):
        raise RunError(fault)
    return 0


def _caption(options: argparse.Namespace, photos: list[str]) -> "tuple[dict[str, str], dict[str, Failure]]":
    """Captions the photos with the bundle, and shows meanwhile how far that is.

    Returns:
      The captions, and the failures of the photos that have none, by the photos' names.
    """
    import numpy as np

    from beamscribe.model import caption_settings
    from beamscribe.model.captioners.exported_model import CaptionModel
    from beamscribe.model.errors import InputError
    from beamscribe.model.progress_display import Display
    from beamscribe.pipelines import bundle_cache, stores
    from beamscribe.pipelines.batches import infer
    from beamscribe.pipelines.failures import Failure
    from beamscribe.pipelines.inference import PhotoStream
    from beamscribe.pipelines.photos import PhotoRef, Shard

    located = bundle_cache.located(options.bundle)
    described = bundle_cache.described(located)
    settings = caption_settings.chosen(search_options.given(options), described.settings, described.longest)
    if not os.path.isdir(options.images):
        raise InputError(f"`images`: there is no folder {options.images}")
    model = CaptionModel(bundle_cache.fetched(located, described.fingerprint))
    folder = stores.join(options.images, "")
    refs = tuple(PhotoRef(stores.join(options.images, photo), etag="") for photo in photos)
    stream = PhotoStream(Shard(0, refs)).pictures(model.image_size)

    def caption(images: np.ndarray, photos: list[str]) -> np.ndarray:
        # Figures must not depend on where the photos lie.
        names = [photo.removeprefix(folder) for photo in photos]
        return model.caption(images, settings, caption_settings.draws(names, settings, 1, model.longest))[0][:, 0]

    captions, failures = {}, {}
    with Display(len(refs), "photo") as display:
        for photo, result in infer(stream, caption, batch_size=32):
            name = photo.ref.photo.removeprefix(folder)
            if isinstance(result, Failure):
                failures[name] = result
            else:
                captions[name] = str(result)
            display.show(len(captions), len(failures))
    return captions, failures


def _own_fault(failures: "dict[str, Failure]") -> str | None:
    """What is said of photos that failed by a fault of Beamscribe; None if there are none."""
    from beamscribe.pipelines.control import verdict
    from beamscribe.pipelines.failures import ErrorCode

    faults = [(name, failure) for name, failure in failures.items() if failure.error == ErrorCode.INTERNAL_ERROR]
    return verdict.own_fault(len(faults), faults[0][0], faults[0][1].message) if faults else None


def _captions_of(folder: str, depths: set[int]) -> dict[str, str]:
    """The captions in an output folder, or in any folder of Parquet files with `photo` and `caption`, by photos' names.

    Args:
      folder: where to look.
      depths: how many folders the names have before the file's own name.
    """
    import pyarrow as pa

    from beamscribe.model.errors import BeamscribeError, InputError, one_line
    from beamscribe.pipelines import stores
    from beamscribe.pipelines.output import layout, rows

    files = layout.committed_files(folder)
    others = [] if files else sorted(stores.within(folder, "**", "*.parquet"))
    if not files and not others:
        raise InputError(f"`captions_from`: {folder} holds no captions; give the `output` of `beamscribe caption`")
    try:
        tables = rows.latest(files, ["photo", "caption"]) if files else rows.read_tables(others, ["photo", "caption"])
        return {
            # A photo of a container is `URI#member`; the name of another may have a `#`, too.
            "/".join(name.split("/")[-1 - depth :]): row["caption"]
            for table in tables
            for row in table.select(["photo", "caption"]).drop_null().to_pylist()
            for name in {row["photo"], row["photo"].rpartition("#")[2]}
            for depth in depths
        }
    except (KeyError, pa.ArrowInvalid) as error:
        raise BeamscribeError(f"`captions_from`: {folder}: {one_line(error)}") from None

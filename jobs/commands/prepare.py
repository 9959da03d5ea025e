"""Makes training data: sharded, gzipped TFRecord files of tf.Example, one per photo, with its captions and features.

Any option of Beam's own (--runner, --direct_num_workers, …) passes through.
"""

import argparse
import logging
import os
from typing import TYPE_CHECKING

from beamscribe.jobs.terminal import printable

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from beamscribe.model.training.dataset_description import DatasetDescription
    from beamscribe.pipelines.prepare_dataset import PrepareOptions

_LOGGER = logging.getLogger(__name__)

EXAMPLE = """beamscribe prepare --recipe transformer --images flickr8k/images \\
    --captions flickr8k/captions.txt --split flickr8k/Flickr_8k.trainImages.txt --flip --output data/train"""
TAKES_BEAM_OPTIONS = True

# What `write_dataset` writes beside `dataset.json`.
_SCHEMA = "schema.pbtxt"
# Seconds between two looks at the files that are written.
_LOOK_SECONDS = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    parser.add_argument(
        "--recipe",
        required=True,
        metavar="NAME|FILE",
        help="recipe of the package, or a YAML file, that says which encoder and which image size to use",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe; repeatable"
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of the photos; local or gs://")
    parser.add_argument(
        "--captions",
        required=True,
        metavar="FILE",
        help="captions of the photos, as in Flickr8k's captions.txt or Flickr8k.token.txt",
    )
    parser.add_argument("--split", required=True, metavar="FILE", help="names of the photos to take, one per line")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the dataset; must hold no other one")
    parser.add_argument("--flip", action="store_true", help="also store the features of each photo's mirror image")
    parser.add_argument(
        "--store",
        choices=("features", "images"),
        default="features",
        help="what to store of each photo: the encoder's features (default), or its pixels, to train the encoder, too",
    )


def run(options: argparse.Namespace, beam_arguments: list[str]) -> int:
    """Prepares one split."""
    from beamscribe.jobs.runners import beam_runner
    from beamscribe.model.errors import BeamscribeError, RunError
    from beamscribe.model.training.dataset_description import DATASET
    from beamscribe.pipelines import stores
    from beamscribe.pipelines.control import verdict
    from beamscribe.pipelines.failures import ErrorCode

    beam_options = beam_runner.pipeline_options(beam_arguments)
    prepare = _validated(options)
    dataset = _prepared(prepare, beam_options)
    faults = [failure for failure in dataset.failures if failure.error == ErrorCode.INTERNAL_ERROR]
    fault = RunError(verdict.own_fault(len(faults), faults[0].photo, faults[0].message)) if faults else None
    if not dataset.photos:
        # Else the right command would find a dataset there.
        for name in (DATASET, _SCHEMA):
            stores.delete(stores.join(prepare.output, name))
        first = dataset.failures[0]
        raise fault or BeamscribeError(
            f"`images`: none of the photos of {options.split} can be read; {first.photo}: {first.message}"
        )
    for failure in dataset.failures:
        _LOGGER.warning("left out: %s: %s: %s", printable(failure.photo), failure.error, failure.message)
    if not options.quiet:
        print(f"{dataset.photos} photos with {dataset.captions} captions in {printable(prepare.output)}")
    if fault:
        raise fault
    return 0


def _prepared(prepare: "PrepareOptions", beam_options: "PipelineOptions") -> "DatasetDescription":
    """Runs the job, and shows meanwhile how far it is.

    Raises:
      BeamscribeError: the job has failed.
    """
    from beamscribe.jobs.runners import beam_runner
    from beamscribe.model.errors import BeamscribeError, one_line
    from beamscribe.model.progress_display import Display
    from beamscribe.model.ticker import Ticker
    from beamscribe.model.training.dataset_description import DATASET, DatasetDescription
    from beamscribe.pipelines import stores
    from beamscribe.pipelines.prepare_dataset import PrepareDataset, photos_written

    def look(_: bool) -> None:
        try:
            display.show(photos_written(prepare))
        except OSError as error:
            _LOGGER.debug("can't see how far the job is: %s", one_line(error))

    path = stores.join(prepare.output, DATASET)
    with Display(len(prepare.photos), "photo", done="prepared") as display:
        try:
            with Ticker(look, _LOOK_SECONDS, "progress"):
                beam_runner.run(PrepareDataset(prepare), beam_options)
            dataset = DatasetDescription.from_json(stores.read(path), path)
        except Exception as error:
            # Each runner raises errors of its own kinds.
            _LOGGER.debug("the job stopped", exc_info=error)
            raise BeamscribeError(f"the job stopped: {beam_runner.reason(error)}") from error
        display.show(dataset.photos, len(dataset.failures))
    return dataset


def _validated(options: argparse.Namespace) -> "PrepareOptions":
    """What the options ask to prepare; deletes what an interrupted preparation has left in the output.

    Raises:
      InputError: an option is wrong, or names what is not there.
      BeamscribeError: a file can't be used, or the output can't be written to.
    """
    from beamscribe.model import annotations, recipe
    from beamscribe.model.errors import BeamscribeError, InputError, one_line, path_of
    from beamscribe.model.quiet import quiet_imports
    from beamscribe.model.training.dataset_description import DATASET, EXAMPLES
    from beamscribe.pipelines import stores, tf_examples
    from beamscribe.pipelines.prepare_dataset import PrepareOptions

    tf_examples.require("training data", "use ")
    encoder = recipe.load(options.recipe, options.set).encoder
    captions = annotations.captions_of_split(options.split, options.captions)
    if stores.is_local(options.images) and not os.path.isdir(options.images):
        raise InputError(f"`images`: there is no folder {options.images}")
    output = stores.absolute(path_of("output", options.output))
    try:
        if stores.exists(stores.join(output, DATASET)):
            raise InputError(f"`output`: {output} holds a dataset already; delete it or choose another folder")
        # The interrupted preparation may have been one of another split.
        for path in stores.within(output, EXAMPLES):
            stores.delete(path)
    except OSError as error:
        raise BeamscribeError(f"`output`: can't write to {output}: {one_line(error)}") from None

    if options.store == "features":
        with quiet_imports():
            from beamscribe.model import encoders
        # An error of weights that can't be had is one line here; a worker would bury it in a traceback.
        encoders.build(encoder)

    return PrepareOptions(
        images=options.images,
        captions=captions,
        photos=list(captions),
        output=output,
        encoder=encoder,
        store=options.store,
        flip=options.flip,
    )

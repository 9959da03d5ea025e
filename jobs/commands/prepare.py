"""Makes training data: sharded, gzipped TFRecord files of tf.Example, one per photo, with its captions and features.

Any option of Beam's own (--runner, --direct_num_workers, …) passes through.
"""

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beamscribe.pipelines.prepare_dataset import PrepareOptions

EXAMPLE = """beamscribe prepare --recipe transformer --images flickr8k/images \\
    --captions flickr8k/captions.txt --split flickr8k/Flickr_8k.trainImages.txt --flip --output data/train"""
TAKES_BEAM_OPTIONS = True


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
    from beamscribe.model.errors import BeamscribeError
    from beamscribe.model.training.dataset_description import DATASET, DatasetDescription
    from beamscribe.pipelines import stores
    from beamscribe.pipelines.prepare_dataset import PrepareDataset

    beam_options = beam_runner.pipeline_options(beam_arguments)
    prepare = _validated(options)
    description = stores.join(prepare.output, DATASET)
    try:
        beam_runner.run(PrepareDataset(prepare), beam_options)
        dataset = DatasetDescription.from_json(stores.read(description), description)
    except Exception as error:  # noqa: BLE001 - each runner raises errors of its own kinds
        raise BeamscribeError(f"the job stopped: {beam_runner.reason(error)}") from None
    if not dataset.photos:
        # Else the right command would find a dataset there.
        stores.delete(description)
        first = dataset.failures[0]
        raise BeamscribeError(
            f"--images: none of the photos of {options.split} can be read; {first.photo}: {first.message}"
        )
    for failure in dataset.failures:
        print(f"left out: {failure.photo}: {failure.error}: {failure.message}", file=sys.stderr)
    print(f"{dataset.photos} photos with {dataset.captions} captions in {prepare.output}")
    return 0


def _validated(options: argparse.Namespace) -> "PrepareOptions":
    """What the options ask to prepare; deletes what an interrupted preparation has left in the output.

    Raises:
      BeamscribeError: an option is wrong, or names what is not there.
    """
    from beamscribe.jobs.options import input_options
    from beamscribe.model import annotations, recipe
    from beamscribe.model.errors import BeamscribeError, one_line
    from beamscribe.model.quiet import quiet_imports
    from beamscribe.model.training.dataset_description import DATASET, EXAMPLES
    from beamscribe.pipelines import stores, tf_examples
    from beamscribe.pipelines.prepare_dataset import PrepareOptions

    tf_examples.require("training data", "use ")
    encoder = recipe.load(options.recipe, options.set).encoder
    captions = annotations.captions_of_split(options.split, options.captions)
    if stores.is_local(options.images) and not os.path.isdir(options.images):
        raise BeamscribeError(f"--images: there is no folder {options.images}")
    output = input_options.absolute(options.output)
    try:
        if stores.exists(stores.join(output, DATASET)):
            raise BeamscribeError(f"--output: {output} holds a dataset already; delete it or choose another folder")
        # The interrupted preparation may have been one of another split.
        for path in stores.within(output, EXAMPLES):
            stores.delete(path)
    except OSError as error:
        raise BeamscribeError(f"--output: can't write to {output}: {one_line(error)}") from None

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

"""Makes training data: sharded, gzipped TFRecord of tf.Example, one a photo, with its captions and CNN features.

Any option of Beam's own (--runner, --direct_num_workers, …) passes through.
"""

import argparse
import json
import os
import sys

EXAMPLE = """beamscribe prepare --recipe transformer --images flickr8k/images \\
    --captions flickr8k/captions.txt --split flickr8k/Flickr_8k.trainImages.txt --flip --output data/train"""
TAKES_BEAM_OPTIONS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    parser.add_argument("--recipe", required=True, help="name or YAML file; names the encoder and the image size")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe; repeatable"
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of the photos")
    parser.add_argument("--captions", required=True, metavar="FILE", help="captions.txt or Flickr8k.token.txt")
    parser.add_argument("--split", required=True, metavar="FILE", help="file names of the photos to take, one a line")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the dataset; must be new")
    parser.add_argument("--flip", action="store_true", help="store the features of each mirrored photo too")
    parser.add_argument(
        "--store",
        choices=("features", "images"),
        default="features",
        help="what to keep of each photo: the encoder's features, or its pixels, to train the encoder too",
    )


def run(options: argparse.Namespace, beam_arguments: list[str]) -> int:
    """Prepares one split."""
    from beamscribe.jobs.options import input_options
    from beamscribe.jobs.runners import beam_runner
    from beamscribe.model import annotations, recipe
    from beamscribe.model.errors import UserError
    from beamscribe.model.quiet import quiet_imports
    from beamscribe.pipelines import stores
    from beamscribe.pipelines.prepare_dataset import DATASET, PrepareDataset, PrepareOptions

    beam_options = beam_runner.pipeline_options(beam_arguments)
    encoder = recipe.load(options.recipe, options.set).encoder
    captions = annotations.captions_of_split(options.split, options.captions)
    if stores.is_local(options.images) and not os.path.isdir(options.images):
        raise UserError(f"--images: no folder {options.images}")
    output = input_options.absolute(options.output)
    try:
        if stores.exists(stores.join(output, DATASET)):
            raise UserError(f"--output: {output} holds a dataset already; delete it or choose another folder")
        # Of a preparation that was interrupted, of another split perhaps.
        for path in stores.within(output, "examples-*.tfrecord.gz"):
            stores.delete(path)
    except OSError as error:
        raise UserError(f"--output: can't write to {output}: {error.strerror or error}") from None

    if options.store == "features":
        with quiet_imports():
            from beamscribe.model import encoders
        # Weights that can't be had are told here in one line; a worker would bury it in a traceback.
        encoders.build(encoder)

    prepare = PrepareOptions(
        images=options.images,
        captions=captions,
        photos=list(captions),
        output=output,
        encoder=encoder,
        store=options.store,
        flip=options.flip,
    )
    try:
        beam_runner.run(PrepareDataset(prepare), beam_options)
        dataset = json.loads(stores.read(stores.join(output, DATASET)))
    except Exception as error:  # noqa: BLE001 - runners raise their own kinds
        raise UserError(f"the job stopped: {beam_runner.reason(error)}") from None
    if not dataset["photos"]:
        # Else the right command would find it there.
        stores.delete(stores.join(output, DATASET))
        first = dataset["failures"][0]
        raise UserError(
            f"--images: no photo of {options.split} could be read, {first['photo']} for one: {first['message']}"
        )
    for failure in dataset["failures"]:
        print(f"left out: {failure['photo']}: {failure['error']}: {failure['message']}", file=sys.stderr)
    print(f"{dataset['photos']} photos with {dataset['captions']} captions in {output}")
    return 0

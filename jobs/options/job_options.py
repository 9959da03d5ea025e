"""The options of a captioning job, for every command that makes one."""

import argparse
from typing import Any

from beamscribe.jobs.options import input_options, search_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what the job is, those that are rarely needed last."""
    input_options.add_arguments(parser, required=True)
    listing = parser.add_argument_group("how much to list")
    listing.add_argument("--limit", type=int, metavar="N", help="list only the first N photos (all)")
    listing.add_argument("--allow-empty", action="store_true", help="an input without photos is no failure")
    listing.add_argument(
        "--accept-gone",
        action="store_true",
        help="mark photos that are no longer there as gone even if they are more than a tenth of all",
    )
    writing = parser.add_argument_group("where to write")
    writing.add_argument(
        "--output",
        required=True,
        metavar="URI",
        help="required: folder that holds the captions of all runs; local or gs://",
    )
    writing.add_argument(
        "--export", choices=("tfrecord", "jsonl"), help="also write the captions in this format, beside Parquet"
    )
    captioning = search_options.add_arguments(parser)
    captioning.add_argument(
        "--alternatives", type=int, default=0, metavar="N", help="also write the N next-best captions (0)"
    )
    captioning.add_argument(
        "--recaption",
        action="append",
        default=[],
        choices=("model", "settings", "failed", "all"),
        help="caption again the photos that another model or other settings captioned, those that failed for good,"
        " or all photos; repeatable",
    )
    captioning.add_argument(
        "--max-failures",
        metavar="N|N%",
        help="stop early if more than N photos fail, or more than N%% of the photos to caption (no limit)",
    )
    rare = parser.add_argument_group("rarely needed")
    rare.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="number of photos in one call of the model (32)"
    )
    rare.add_argument(
        "--shard-size",
        type=int,
        default=512,
        metavar="N",
        help="approximate number of photos per shard, which is committed as a whole (512)",
    )
    rare.add_argument(
        "--max-pixels",
        type=int,
        default=200_000_000,
        metavar="N",
        help="refuse photos that have more than N pixels (200 million)",
    )
    rare.add_argument(
        "--no-deduplicate",
        dest="deduplicate",
        action="store_false",
        help="read and caption every photo, even if another one has the same bytes",
    )
    rare.add_argument(
        "--detach",
        action="store_true",
        help="on Flink and Dataflow: start the job and leave it running; it writes its own report",
    )
    rare.add_argument(
        "--gpu",
        metavar="GPU[:MACHINE]",
        help="with --runner DataflowRunner: GPU of the workers that run the model, such as nvidia-l4",
    )
    input_options.add_rare_arguments(rare)
    search_options.add_rare_arguments(parser)


def arguments_of(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `beamscribe.caption` that the options give."""
    names = (
        *("inputs", "output", "bundle", "alternatives", "recaption", "limit", "include", "exclude", "hidden"),
        *(
            "allow_empty",
            "accept_gone",
            "max_failures",
            "export",
            "deduplicate",
            "batch_size",
            "shard_size",
            "max_pixels",
        ),
        *("input_format", "uri_column", "image_column", "name_column", "gpu"),
    )
    return {"settings": search_options.given(options), **{name: getattr(options, name) for name in names}}

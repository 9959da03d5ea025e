"""The public function `caption`: the whole job, as the command `beamscribe caption` runs it."""

import datetime
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

import beamscribe
from beamscribe.jobs import arguments, caption_job
from beamscribe.jobs.arguments import Path
from beamscribe.jobs.caption_job import CaptionJob
from beamscribe.jobs.runners import beam_runner, dataflow_runner, remote_jobs
from beamscribe.model import caption_settings
from beamscribe.model.caption_settings import whole_number
from beamscribe.model.errors import InputError, flag, text
from beamscribe.pipelines import bundle_cache, tf_examples
from beamscribe.pipelines.caption_options import CaptionOptions
from beamscribe.pipelines.control.progress import Progress
from beamscribe.pipelines.images.to_pixels import MAX_PIXELS
from beamscribe.pipelines.output import layout
from beamscribe.pipelines.output.run_documents import BundleName, Config, Report
from beamscribe.pipelines.sources.base import ListOptions

FORMATS = ("list", "tar", "zip", "tfrecord", "parquet")
EXPORTS = ("tfrecord", "jsonl")
RECAPTION = ("model", "settings", "failed", "all")


def caption(
    inputs: Path | Sequence[Path],
    output: Path,
    *,
    bundle: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    alternatives: int = 0,
    recaption: Collection[str] = (),
    limit: int | None = None,
    include: Collection[str] = (),
    exclude: Collection[str] = (),
    hidden: bool = False,
    allow_empty: bool = False,
    accept_gone: bool = False,
    max_failures: int | str | None = None,
    export: str | None = None,
    deduplicate: bool = True,
    batch_size: int = 32,
    shard_size: int = 512,
    max_pixels: int = MAX_PIXELS,
    input_format: str | None = None,
    uri_column: str | None = None,
    image_column: str | None = None,
    name_column: str | None = None,
    gpu: str | None = None,
    beam_options: Sequence[str] | PipelineOptions = (),
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Report:
    """Captions an archive of photos: the whole job, with its lease, plan, report and `_SUCCESS`.

    Run again on the same output, it does only what is new, changed, or not done yet.

    Args:
      inputs: folders (all photos below them), globs, photos, lists of photos, and tar, zip, TFRecord or Parquet files
        that hold photos; local or `gs://`.
      output: the folder that holds the captions of all runs; local or `gs://`.
      bundle: folder of a model bundle, local or, with its digest, `gs://…@sha256:…`; None for that of the package.
      settings: changes to the bundle's caption settings, such as `{"beam_width": 5}`: `beam_width`, `max_length`,
        `min_length`, `length_penalty`, `no_repeat_ngram`, `top_p`, `temperature` and `seed`.
      alternatives: number of captions to write in addition to the best one.
      recaption: photos to caption again: those that another `model` or other `settings` captioned, those that `failed`
        for good, or `all`.
      limit: list only so many photos, the first ones; None for all.
      include: list only photos whose paths match one of these globs.
      exclude: leave out photos whose paths match one of these globs.
      hidden: whether to list hidden files, and the files that other programs keep beside photos.
      allow_empty: whether an input may hold no photos.
      accept_gone: whether to mark photos that are no longer there as gone even if they are more than a tenth of those
        that were there.
      max_failures: how many photos may fail: a number, or a share of the photos to caption, such as `"5%"`. A run with
        more stops early. None for any number.
      export: also write the captions as `tfrecord` or `jsonl`, beside Parquet.
      deduplicate: whether photos with the same bytes are read and captioned once.
      batch_size: number of photos in one call of the model.
      shard_size: approximate number of photos per shard, which is committed at once.
      max_pixels: width × height above which a photo is refused.
      input_format: format of the inputs that are files: `list`, `tar`, `zip`, `tfrecord` or `parquet`; None to tell it
        by their content.
      uri_column: column of a list that holds the URIs of photos; None to tell it by its name.
      image_column: column of a Parquet file, or feature of a `tf.Example`, that holds the bytes of photos; None to tell
        it by its name.
      name_column: column or feature that holds the names of photos; None to tell it by its name.
      gpu: with Dataflow's runner, the GPU of the workers that run the model, such as `nvidia-l4`.
      beam_options: Beam's own options, as on a command line: `["--runner=FlinkRunner", …]`.
      progress: called, from another thread, with each change of how far the job is. What it raises is logged.
      stop: an event; once it is set, from any thread, the job takes no more shards and raises `Stopped`.

    Returns:
      The report of the run. `beamscribe.read` reads the captions themselves.

    Raises:
      InputError: an argument is wrong, or names what is not there.
      OutputInUse: another job writes to the output, or has taken it over.
      NoPhotos: an input holds no photos. Those of other inputs are captioned.
      TooManyFailures: more photos failed than `max_failures` allows.
      Stopped: `stop` was set, or somebody stopped the run, before all photos were captioned.
      RunError: the job failed, or photos failed by a fault of Beamscribe itself.
      BeamscribeError: the base of all these errors; itself where the output can't be written to, for example.
      KeyboardInterrupt: Ctrl-C; open shards were committed, unless there was a second one.

    Example:
      >>> report = beamscribe.caption("photos", "captions", limit=3)
      >>> report.captioned + report.failed
      3
    """
    arguments.function("progress", progress)
    arguments.event("stop", stop)
    job = job_of(
        inputs,
        output,
        bundle=bundle,
        settings=settings,
        alternatives=alternatives,
        recaption=recaption,
        limit=limit,
        include=include,
        exclude=exclude,
        hidden=hidden,
        allow_empty=allow_empty,
        accept_gone=accept_gone,
        max_failures=max_failures,
        export=export,
        deduplicate=deduplicate,
        batch_size=batch_size,
        shard_size=shard_size,
        max_pixels=max_pixels,
        input_format=input_format,
        uri_column=uri_column,
        image_column=image_column,
        name_column=name_column,
        gpu=gpu,
        beam_options=beam_options,
    )
    if dataflow_runner.template(job.beam_options):
        raise InputError("--template_location: only the command `beamscribe caption` writes templates")
    return caption_job.run(job, progress, stop)


def job_of(
    inputs: Path | Sequence[Path],
    output: Path,
    *,
    bundle: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    alternatives: int = 0,
    recaption: Collection[str] = (),
    limit: int | None = None,
    include: Collection[str] = (),
    exclude: Collection[str] = (),
    hidden: bool = False,
    allow_empty: bool = False,
    accept_gone: bool = False,
    max_failures: int | str | None = None,
    export: str | None = None,
    deduplicate: bool = True,
    batch_size: int = 32,
    shard_size: int = 512,
    max_pixels: int = MAX_PIXELS,
    input_format: str | None = None,
    uri_column: str | None = None,
    image_column: str | None = None,
    name_column: str | None = None,
    gpu: str | None = None,
    beam_options: Sequence[str] | PipelineOptions = (),
) -> CaptionJob:
    """The job that `caption` runs with these arguments.

    Raises:
      InputError: an argument is wrong, or names what is not there.
      BeamscribeError: what an argument names can't be read.
    """
    options: Any = beam_runner.pipeline_options(arguments.beam_options(beam_options))
    located = bundle_cache.located(bundle)
    model = bundle_cache.described(located)
    chosen = caption_settings.chosen(settings, model.settings, model.longest)
    caption_settings.check_alternatives(alternatives, chosen)
    if arguments.choice("export", export, EXPORTS) == "tfrecord":
        tf_examples.require("`export` tfrecord", "choose jsonl, or ")
    again = arguments.texts("recaption", recaption)
    for kind in again:
        arguments.choice("recaption", kind, RECAPTION)
    sources = ListOptions(
        include=arguments.texts("include", include),
        exclude=arguments.texts("exclude", exclude),
        hidden=flag("hidden", hidden),
        format=arguments.choice("input_format", input_format, FORMATS),
        uri_column=text("uri_column", uri_column),
        image_column=text("image_column", image_column),
        name_column=text("name_column", name_column),
    )
    caption_options = CaptionOptions(
        inputs=arguments.inputs(inputs, sources),
        output=arguments.output(output),
        run=layout.new_run(),
        bundle=located,
        model=model.fingerprint,
        settings=chosen,
        alternatives=alternatives,
        batch_size=whole_number("batch_size", batch_size, least=1),
        shard_size=whole_number("shard_size", shard_size, least=1),
        workers=beam_runner.workers(options),
        limit=None if limit is None else whole_number("limit", limit, least=1),
        sources=sources,
        max_pixels=whole_number("max_pixels", max_pixels, least=1),
        deduplicate=flag("deduplicate", deduplicate),
        recaption=frozenset(again),
        accept_gone=flag("accept_gone", accept_gone),
        export=export,
        accelerator=dataflow_runner.accelerator(text("gpu", gpu), options),
    )
    allowed = arguments.limit_of_failures(max_failures)
    dataflow_runner.fill(options, caption_options)
    config = Config(
        run=caption_options.run,
        inputs=caption_options.inputs,
        output=caption_options.output,
        bundle=BundleName(model.name, model.fingerprint),
        settings=caption_options.settings_fingerprint,
        recaption=tuple(sorted(caption_options.recaption)),
        max_pixels=caption_options.max_pixels,
        runner=options.view_as(StandardOptions).runner,
        version=beamscribe.__version__,
        started_at=datetime.datetime.now(datetime.UTC),
        allow_empty=flag("allow_empty", allow_empty),
    )
    remote = remote_jobs.describe(caption_options.run, options)
    return CaptionJob(caption_options, config, options, remote, allowed)

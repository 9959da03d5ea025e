"""The captioning job: turns an archive into one row per photo, shard by shard."""

import dataclasses

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.pvalue import AsIter, PBegin

from beamscribe.pipelines.caption_options import CaptionOptions
from beamscribe.pipelines.caption_shard import CaptionHandler, open_shard
from beamscribe.pipelines.export import ExportMissing
from beamscribe.pipelines.inference import PhotoStream
from beamscribe.pipelines.ledger import DoneRule, ListLedger, ReadLedger
from beamscribe.pipelines.listing import ListPhotos
from beamscribe.pipelines.output import frozen_plan
from beamscribe.pipelines.planning import PlanShards


@dataclasses.dataclass
class CaptionArchive(beam.PTransform):
    """Lists, plans, captions and commits the photos of an archive.

    Only references, captions and numbers pass from step to step, never pixels.

    Attributes:
      options: options of the job.
    """

    options: CaptionOptions

    def expand(self, root: PBegin) -> beam.PCollection[str]:
        """Builds the job at the pipeline's root; returns the paths of the shard files that the run commits."""
        options = self.options
        to_list = (
            root
            | "Inputs" >> beam.Create([options.inputs])
            | "UnlessListed" >> beam.FlatMap(frozen_plan.unless_planned, options.folder)
        )
        to_compare = (
            root
            | "Output" >> beam.Create([options.output])
            | "UnlessCompared" >> beam.FlatMap(frozen_plan.unless_planned, options.folder)
        )
        listed = to_list | "ListPhotos" >> ListPhotos(options.sources, options.limit)
        rule = DoneRule(
            options.model, options.settings_fingerprint, options.recaption, options.since, options.run_number
        )
        files = to_compare | "ListLedger" >> ListLedger(options.run)
        entries = files | "ReadLedger" >> ReadLedger(rule, options.inputs)
        committed = (
            (listed, entries, files)
            | "PlanShards"
            >> PlanShards(
                options.folder,
                options.run,
                rule,
                options.shard_size,
                options.workers,
                options.deduplicate,
                options.sources,
                options.run_number,
                options.output,
                # The listing of a limited run says nothing of the photos behind its end.
                marks_gone=options.limit is None,
                accept_gone=options.accept_gone,
            )
            | "Reshuffle" >> beam.Reshuffle()
            | "OpenShard" >> beam.Map(open_shard).with_output_types(PhotoStream)
            | "CaptionShards"
            >> RunInference(CaptionHandler(options).with_no_batching()).with_resource_hints(**options.hints)
        )
        if options.export:
            # The side input makes the export wait for the last commit.
            _ = (
                root
                | "Captions" >> beam.Create([options.output])
                | "AfterCommits" >> beam.Map(lambda output, _: output, AsIter(committed))
                | "ExportMissing" >> ExportMissing(options.export)
            )
        return committed

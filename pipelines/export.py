"""A Beam transform that writes copies of committed shards in other formats."""

import dataclasses

import apache_beam as beam

from beamscribe.pipelines.output import copies


@dataclasses.dataclass
class ExportMissing(beam.PTransform):
    """Writes the missing copies of the committed shards in another format.

    Attributes:
      format: format of the copies, a key of `layout.EXTENSIONS`.
    """

    format: str

    def expand(self, outputs: beam.PCollection[str]) -> beam.PCollection[str]:
        """Writes the copies.

        Args:
          outputs: one element: the output folder.

        Returns:
          The paths of the copies that were written.
        """
        return (
            outputs
            | "ListMissing" >> beam.FlatMap(copies.missing, self.format)
            | "ReshuffleMissing" >> beam.Reshuffle()
            | "ExportShard" >> beam.Map(copies.export, self.format)
        )

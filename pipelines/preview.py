"""What a captioning job would do: which photos it would list, skip and caption, and why. Writes nothing."""

import collections
import dataclasses
from typing import Any

from beamscribe.pipelines import ledger, listing
from beamscribe.pipelines.caption_options import CaptionOptions
from beamscribe.pipelines.ledger import DoneRule, Why
from beamscribe.pipelines.output import layout
from beamscribe.pipelines.output.current import Since
from beamscribe.pipelines.planning import Found


@dataclasses.dataclass(frozen=True)
class Preview:
    """What a job would do.

    Attributes:
      whys: number of photos that would be captioned or skipped for each reason.
      ignored: number of ignored files by kind, most frequent first.
      inputs: number of photos found in each input, those that several inputs contain included.
    """

    whys: dict[Why, int]
    ignored: dict[str, int]
    inputs: dict[str, int]

    @property
    def listed(self) -> int:
        """Number of photos in the listing."""
        return sum(self.whys.values())

    @property
    def empty_inputs(self) -> tuple[str, ...]:
        """Inputs in which no photo was found."""
        return tuple(uri for uri, photos in self.inputs.items() if not photos)

    @property
    def skipped(self) -> int:
        """Number of listed photos that would be skipped."""
        return sum(count for why, count in self.whys.items() if why.skips)


def preview(options: CaptionOptions, since: Since | None) -> Preview:
    """Lists the inputs of a job and compares them with the committed rows, on this machine, without Beam.

    Args:
      options: options of the job.
      since: as for `ledger.DoneRule`.

    Raises:
      InputError: an input is not there, or its kind is unknown.
      OSError: the store reported an error.
    """
    number = layout.next_number(options.output)
    rule = DoneRule(options.model, options.settings_fingerprint, options.recaption, since, number)
    # As in a job, photos and entries are compared part by part. Of a photo, only two digests stay in memory.
    photos: dict[int, dict[bytes, int]] = collections.defaultdict(dict)
    found = []
    for part in listing.list_parts(options.inputs, options.sources, options.limit):
        found.append(Found.of(part))
        for ref in part.photos:
            digest = ledger.photo_digest(ref.photo)
            photos[ledger.part_of(digest)][digest] = ledger.etag_digest(ref.etag)
    entries: dict[int, list[Any]] = collections.defaultdict(list)
    for files in ledger.committed_files(options.output, without_run=""):
        for number, some in ledger.entries_of(files, rule):
            entries[number].append(some)
    whys: collections.Counter[Why] = collections.Counter()
    for number, etags in photos.items():
        known = ledger.latest(entries.pop(number, []))
        whys.update(rule.why(etag, known.get(digest)) for digest, etag in etags.items())
    ignored, inputs = Found.sum(found)
    return Preview(dict(whys), ignored, inputs)

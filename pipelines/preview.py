"""What a captioning job would do: which photos it would list, skip and caption, and why. Writes nothing."""

import collections
import dataclasses
import itertools
from typing import Any

import numpy as np

from beamscribe.pipelines import clues, gone, ledger, listing, planning
from beamscribe.pipelines.caption_options import CaptionOptions
from beamscribe.pipelines.clues import Wanted
from beamscribe.pipelines.ledger import DoneRule, Why
from beamscribe.pipelines.output import current, digests, layout, resemblance
from beamscribe.pipelines.output.current import Since
from beamscribe.pipelines.planning import Found


@dataclasses.dataclass(frozen=True)
class Preview:
    """What a job would do.

    Attributes:
      whys: number of photos that would be captioned or skipped for each reason.
      may_be_taken_over: number of the photos to caption that resemble earlier ones, by size or name; those that turn
        out to be the same are not captioned again.
      gone: number of photos that are no longer there.
      marks_gone: whether these would be marked, since they are few or `accept_gone` is given.
      ignored: number of ignored files by kind, most frequent first.
      inputs: number of photos found in each input, those that several inputs contain included.
    """

    whys: dict[Why, int]
    may_be_taken_over: int
    gone: int
    marks_gone: bool
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
    # As in a job, photos and entries are compared part by part. Of a photo, only digests and clues stay in memory.
    photos: dict[int, dict[bytes, tuple[int, int]]] = collections.defaultdict(dict)
    all_clues = [np.empty((0, resemblance.KINDS), np.uint64)]
    found, places = [], itertools.count()
    for part in listing.list_parts(options.inputs, options.sources, options.limit):
        found.append(Found.of(part))
        all_clues.append(resemblance.clues_of_refs(part.photos))
        for ref in part.photos:
            digest = ledger.photo_digest(ref.photo)
            photos[ledger.part_of(digest)][digest] = current.etag_digest(ref.etag), next(places)
    files = list(ledger.committed_files(options.output, without_run=""))
    entries: dict[int, list[Any]] = collections.defaultdict(list)
    for number, some in itertools.chain.from_iterable(
        ledger.entries_of(several, rule, options.inputs) for several in files
    ):
        entries[number].append(some)
    whys: collections.Counter[Why] = collections.Counter()
    new, vanished, below = [], [], 0
    for number in photos.keys() | entries.keys():
        of_ledger, listed = ledger.latest(entries.pop(number, [])), photos.get(number, {})
        for digest, (etag, place) in listed.items():
            why = rule.why(etag, of_ledger.get(digest))
            whys[why] += 1
            if not (why.skips or why.repeats):
                new.append(place)
        there = {digest for digest, entry in of_ledger.items() if entry.is_there}
        vanished += sorted(there - listed.keys()) if options.limit is None else []
        below += len(there)
    ignored, inputs = Found.sum(found)
    # The ledger is read again, for what is wanted alone.
    of_new = np.concatenate(all_clues)[new]
    wanted = Wanted.of([(("", 0), np.unique(of_new))], [np.array(vanished, "S16")])
    covered = planning.covered(found, options.sources)
    known_clues, left, moved = [np.empty(0, np.uint64)], [np.empty(0, "S16")], [np.empty(0, "S16")]
    # Files in groups, as in a job, so that memory never holds all rows.
    for several in () if wanted.is_empty else files:
        alike, old = clues.matching(several, wanted, rule)
        known_clues.append(np.unique(resemblance.clues_of_rows(alike)))
        rows = gone.tombstones(old, covered, wanted).rows
        left.append(digests.of_rows(rows, ["photo"]))
        moved.append(left[-1][wanted.includes(rows)])
    photos_gone, photos_moved = (len(np.unique(np.concatenate(some))) for some in (left, moved))
    known = np.unique(np.concatenate(known_clues))
    return Preview(
        whys=dict(whys),
        may_be_taken_over=int((digests.contains(known, of_new) & (of_new != 0)).any(axis=1).sum()),
        gone=photos_gone,
        marks_gone=options.accept_gone or not gone.are_many(photos_gone - photos_moved, below),
        ignored=ignored,
        inputs=inputs,
    )

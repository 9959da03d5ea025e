"""Renders a report as a self-contained HTML page."""

import base64
import datetime
import io
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from beamscribe.pipelines.failures import ErrorCode
from beamscribe.pipelines.output.run_documents import Report, Sample
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import photo_reader

# Longer side of a thumbnail, pixels.
THUMBNAIL_SIZE = 240

_TEMPLATE = Path(__file__).with_name("report.html")


def render(report: Report, refs: Mapping[str, PhotoRef] | None = None) -> str:
    """Renders a report as a self-contained HTML page: without scripts or other files, with embedded thumbnails.

    Args:
      report: the report.
      refs: references to the sampled photos that are in containers.
    """
    folders = tuple(f"{uri}/" for uri in report.inputs)
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        run=escape(report.run),
        headline=f"{report.captioned:,} {_photos(report.captioned)} captioned",
        verdict=_verdict(report),
        verdict_class="good" if report.balanced else "bad",
        listed=f"{report.listed:,}",
        skipped=f"{report.skipped:,}",
        taken_over=_taken_over(report),
        captioned=f"{report.captioned:,}",
        failed=f"{report.failed:,}",
        bar=_bar(report),
        facts=_facts(report),
        missing=_names(
            "Photos without a row",
            "These photos were planned, but no committed file has a row for them",
            report.missing,
            folders,
        ),
        to_look_at=_names(
            "Photos to look at",
            "A person has captioned these photos, and their pictures have changed since: the person's captions do not "
            "stand any more",
            report.to_look_at,
            folders,
        ),
        samples=_samples(report.samples, refs or {}, folders),
        failures=_failures(report, folders),
        version=escape(report.version),
    )


def _verdict(report: Report) -> str:
    if report.balanced:
        return "Every photo is accounted for."
    unaccounted = report.listed - report.skipped - report.taken_over - report.captioned - report.failed
    if unaccounted > 0:
        return f"The numbers do not add up: {unaccounted:,} {_photos(unaccounted)} without a row."
    if unaccounted < 0:
        return f"The numbers do not add up: there are {-unaccounted:,} more rows than photos."
    return "The numbers add up, but some planned photos have no row, and others have two rows."


def _taken_over(report: Report) -> str:
    """The term of the sum that not every run has."""
    if not report.taken_over:
        return ""
    return f'<span class="taken-over"><b>{report.taken_over:,}</b> <small>taken over</small></span> <i>+</i>'


def _photos(count: int) -> str:
    return "photo" if count == 1 else "photos"


def _bar(report: Report) -> str:
    """The shares of the listed photos, as segments of a bar; the share of unaccounted photos stays empty."""
    if not report.listed:
        return ""
    parts = {
        "skipped": report.skipped,
        "taken-over": report.taken_over,
        "captioned": report.captioned,
        "failed": report.failed,
    }
    return "".join(
        f'<span class="{name}" style="width:{min(count / report.listed, 1):.4%}"></span>'
        for name, count in parts.items()
        if count
    )


def _facts(report: Report) -> str:
    facts = {
        "Input": ", ".join(report.inputs),
        "Output": report.output,
        "Model": f"{report.bundle} ({report.fingerprint[:12]})",
        "Settings": report.settings.replace(",", ", "),
        "Started": _time(report.started_at),
        "Finished": _time(report.finished_at),
        "Runner": report.runner,
        "Took": f"{_duration(report.seconds)}, {report.photos_per_second:,.1f} photos/s",
        "Duplicates": f"{report.duplicates:,} {_photos(report.duplicates)} with the same bytes as another one",
        "Ignored": ", ".join(f"{count:,} {kind or 'without an extension'}" for kind, count in report.ignored.items()),
        "Outdated": f"{report.outdated:,} skipped {_photos(report.outdated)} captioned by another model or with "
        "other settings",
        "Gone": f"{report.gone:,} {_photos(report.gone)} no longer there",
        "Not there": f"{report.vanished:,} {_photos(report.vanished)}, too many to be marked as gone; if all disks are "
        "mounted, --accept-gone marks them",
        "Retries": f"{report.retries:,} retried requests to stores",
    }
    given = {
        "Gone": report.gone,
        "Not there": report.vanished,
        "Retries": report.retries,
        "Duplicates": report.duplicates,
        "Ignored": report.ignored,
        "Outdated": report.outdated,
    }
    facts = {name: text for name, text in facts.items() if given.get(name, True)}
    return "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in facts.items())


def _time(time: datetime.datetime) -> str:
    return f"{time.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _names(title: str, sentence: str, photos: Sequence[str], folders: Sequence[str]) -> str:
    """A section that names photos; nothing where there are none."""
    if not photos:
        return ""
    rows = "".join(f"<li>{_name(photo, folders)}</li>" for photo in photos)
    return f"<section><h2>{title}</h2><p>{sentence} (at most twenty are shown).</p><ul>{rows}</ul></section>"


def _name(photo: str, folders: Sequence[str]) -> str:
    """The path of a photo relative to its input folder, with the full path as a tooltip."""
    folder = next((folder for folder in folders if photo.startswith(folder)), "")
    return f'<span class="photo" title="{escape(photo)}">{escape(photo.removeprefix(folder))}</span>'


def _samples(samples: Sequence[Sample], refs: Mapping[str, PhotoRef], folders: Sequence[str]) -> str:
    if not samples:
        return ""
    thumbnails = _thumbnails(
        [refs.get(sample.photo, PhotoRef(sample.photo, etag="", size=sample.bytes or 0)) for sample in samples]
    )
    figures = "".join(
        f"<figure>{_image(thumbnail)}<figcaption><p>{escape(sample.caption)}</p>"
        f"{_name(sample.photo, folders)}</figcaption></figure>"
        for sample, thumbnail in zip(samples, thumbnails, strict=True)
    )
    return f'<section><h2>Sample captions</h2><div class="samples">{figures}</div></section>'


def _thumbnails(refs: Iterable[PhotoRef]) -> Iterator[Image.Image | None]:
    """Makes a small upright picture of each photo; None for a photo that can't be read any more."""
    # In the pool of image processes, so that a photo that crashes a codec does not end the job.
    # Twice the size, since a square of the thumbnail's own size would have too few pixels for the longer side.
    for _, picture, _ in photo_reader.shared().stream(refs, 2 * THUMBNAIL_SIZE):
        if picture.pixels is None or not picture.width or not picture.height:
            yield None
            continue
        scale = THUMBNAIL_SIZE / max(picture.width, picture.height)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        yield Image.fromarray(picture.pixels).resize(size, Image.Resampling.LANCZOS)


def _image(thumbnail: Image.Image | None) -> str:
    """The picture as an `img` element with embedded data; the text beside it is its caption, so `alt` is empty."""
    if thumbnail is None:
        return ""
    buffer = io.BytesIO()
    thumbnail.save(buffer, "JPEG", quality=80, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" width="{thumbnail.width}" height="{thumbnail.height}" alt="">'


def _failures(report: Report, folders: Sequence[str]) -> str:
    if not report.failures:
        return ""
    codes = "".join(
        f'<tr><th scope="row"><code>{escape(code)}</code></th><td class="number">{count:,}</td>'
        f"<td>{_explanation(code)}</td></tr>"
        for code, count in report.failures.items()
    )
    examples = "".join(
        f"<tr><td>{_name(example.photo, folders)}</td><td><code>{escape(example.error)}</code></td>"
        f"<td>{escape(example.stage)}</td><td>{escape(example.message)}</td></tr>"
        for example in report.examples
    )
    some = "" if len(report.examples) == report.failed else f"{len(report.examples)} of {report.failed:,} failures"
    return (
        f'<section><h2>Failures</h2><table class="codes"><tbody>{codes}</tbody></table>'
        f'<table class="examples"><caption>{some}</caption><thead><tr><th scope="col">Photo</th>'
        '<th scope="col">Error</th><th scope="col">Stage</th><th scope="col">Message</th></tr></thead>'
        f"<tbody>{examples}</tbody></table></section>"
    )


def _explanation(code: str) -> str:
    known = ErrorCode(code)
    return escape(known.sentence) + (" The next run tries the photo again." if known.transient else "")

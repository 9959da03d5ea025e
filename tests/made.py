"""Documents of runs, made for tests: whole ones, of which a test says what matters to it."""

import datetime
from typing import Any

from beamscribe.pipelines.output.run_documents import BundleName, Config, Plan, Report

STARTED = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
RUN = "20260102T030405-abcdef"


def config(**fields: Any) -> Config:
    """The content of `config.json`."""
    return Config(
        **{
            "run": RUN,
            "inputs": ("/photos",),
            "output": "/output",
            "bundle": BundleName("transformer", "0123456789abcdef"),
            "settings": "beam_width=3,max_length=20",
            "recaption": (),
            "max_pixels": 200_000_000,
            "runner": "FnApiRunner",
            "version": "0.1.0",
            "started_at": STARTED,
            **fields,
        }
    )


def plan(**fields: Any) -> Plan:
    """The content of `plan.json`, of a run that had nothing to do."""
    nothing = dict.fromkeys(("listed", "skipped", "planned", "duplicates", "outdated"), 0)
    return Plan(**{"run": RUN, **nothing, "ignored": {}, "shards": (), **fields})


def report(**fields: Any) -> Report:
    """The content of `report.json`, of a run that had nothing to do."""
    numbers = ("listed", "skipped", "outdated", "duplicates", "captioned", "failed", "retries")
    return Report(
        **{
            "run": RUN,
            "inputs": ("/photos",),
            "output": "/output",
            "bundle": "transformer",
            "fingerprint": "0123456789abcdef",
            "settings": "beam_width=3,max_length=20",
            "runner": "FnApiRunner",
            "version": "0.1.0",
            "started_at": STARTED,
            "finished_at": STARTED,
            "seconds": 0.0,
            **dict.fromkeys(numbers, 0),
            "ignored": {},
            "photos_per_second": 0.0,
            "failures": {},
            "examples": (),
            "samples": (),
            "missing": (),
            "balanced": True,
            **fields,
        }
    )

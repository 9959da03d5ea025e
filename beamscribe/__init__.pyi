from .jobs.caption_function import caption
from .model.errors import (
    BeamscribeError,
    InputError,
    NoPhotos,
    OutputInUse,
    RunError,
    Stopped,
    TooManyFailures,
)
from .pipelines.caption_photos import CaptionPhotos
from .pipelines.captioner import Caption, Captioner, load
from .pipelines.control.progress import Progress
from .pipelines.failures import ErrorCode, Failure, Stage
from .pipelines.output.run_documents import Report
from .pipelines.output.tables import read, scan
from .pipelines.photos import Alternative, CaptionRow, Origin, PhotoRef, Tag

__all__ = [
    "Alternative",
    "BeamscribeError",
    "Caption",
    "CaptionPhotos",
    "CaptionRow",
    "Captioner",
    "ErrorCode",
    "Failure",
    "InputError",
    "NoPhotos",
    "Origin",
    "OutputInUse",
    "PhotoRef",
    "Progress",
    "Report",
    "RunError",
    "Stage",
    "Stopped",
    "Tag",
    "TooManyFailures",
    "caption",
    "load",
    "read",
    "scan",
]

__version__: str

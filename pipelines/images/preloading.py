"""Loads what codecs import only when a photo needs it: an image process can open no file once it has photos."""

import codecs
import importlib
import io
import sys
import traceback
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

import numpy as np
from PIL import Image

from beamscribe.pipelines.failures import ErrorCode, Failure, Fault, Stage
from beamscribe.pipelines.images import to_pixels
from beamscribe.pipelines.images.pictures import Picture

# What Pillow imports within functions, for the formats that are decoded.
_MODULES = (
    *("ImageCms", "ImageColor", "ImageFile", "ImageFilter", "ImageMath", "ImageOps", "ImagePalette", "ImageSequence"),
    *("MpoImagePlugin", "PpmImagePlugin", "TiffTags"),
)
# Texts in metadata.
_ENCODINGS = ("ascii", "cp1252", "latin-1", "utf-8", "utf-16", "utf-16-be", "utf-16-le", "utf-32")


def load() -> None:
    """Imports the modules, and converts a tiny picture of more than 8 bits, which takes most of what numpy has."""
    for name in _MODULES:
        importlib.import_module(f"PIL.{name}")
    for encoding in _ENCODINGS:
        codecs.lookup(encoding)
    Image.preinit()
    file = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.int32).reshape(16, 16) * 1000 - 1).save(file, "TIFF")
    to_pixels.convert(file.getvalue(), to_pixels.MIN_SIDE, to_pixels.MAX_PIXELS)


class LateImports(MetaPathFinder):
    """Notes what is imported too late. A codec that lacks a module would otherwise pass for a damaged photo."""

    def __init__(self) -> None:
        self._fault: Fault | None = None

    def watch(self) -> None:
        """Is asked, from now on, for each module that Python does not find."""
        sys.meta_path.append(self)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """Finds no module."""
        message = f"the module {name} was not loaded before the first photo"
        self._fault = Fault(f"LateImport {name}", message, "".join(traceback.format_stack()))

    def explained(self, picture: Picture) -> Picture:
        """A photo that was converted just now, with a fault of Beamscribe if it failed for want of a module."""
        fault, self._fault = self._fault, None
        if not fault or not picture.failure:
            return picture
        return picture._replace(failure=Failure(Stage.DECODE, ErrorCode.INTERNAL_ERROR, fault.message), fault=fault)

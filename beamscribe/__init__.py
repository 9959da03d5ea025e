"""Captions photo archives in bulk, and accounts for every photo.

`caption` captions an archive, `load` a few photos, and `CaptionPhotos` those of a pipeline of your own. `read` and
`scan` read the captions of an archive. Each name is imported when it is first used, from the module that `__init__.pyi`
names: importing this package loads neither Beam nor TensorFlow.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

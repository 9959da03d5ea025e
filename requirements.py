"""Says what setting up takes, or in one line why this machine can't run Beamscribe. Runs on any Python 3."""

import platform
import sys

VERSIONS = ((3, 11), (3, 12))
PLATFORMS = (("Linux", "x86_64"), ("Darwin", "arm64"))

here = (platform.system(), platform.machine())
if sys.version_info[:2] not in VERSIONS:
    sys.exit(f"Beamscribe needs Python 3.11 or 3.12, this is {platform.python_version()}: try make PYTHON=python3.11 …")
if here not in PLATFORMS:
    sys.exit(
        f"Beamscribe runs on Linux on x86-64 and on Apple Silicon, this is {' on '.join(here)}: tfx-bsl has no wheel"
    )
print("Setting up .venv once: about 3.5 GB of disk and some minutes; downloads about 1 GB.", flush=True)

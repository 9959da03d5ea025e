"""Says what setting up takes, or in one line why this machine can't run Beamscribe. Runs on any Python 3.

What runs where:

- Linux on x86-64, macOS on Apple silicon: everything.
- Linux on Arm (aarch64): everything but TFRecord files, which need tfx-bsl, and that has no wheel for it: no `prepare`,
  no TFRecord files as inputs, no `--export tfrecord`.
- Windows: in WSL 2, which is Linux.
"""

import platform
import sys

VERSIONS = ((3, 11), (3, 12))
# As Python names them; Linux on Arm has two names.
PLATFORMS = (("Linux", "x86_64"), ("Linux", "aarch64"), ("Linux", "arm64"), ("Darwin", "arm64"))

here = (platform.system(), platform.machine())
if sys.version_info[:2] not in VERSIONS:
    sys.exit(f"Beamscribe needs Python 3.11 or 3.12, this is {platform.python_version()}: try make PYTHON=python3.11 …")
if here not in PLATFORMS:
    sys.exit(
        "Beamscribe runs on Linux on x86-64 or Arm, on macOS on Apple silicon, and on Windows in WSL 2; "
        f"this is {' on '.join(here)}, for which TensorFlow has no wheel"
    )
print("Setting up .venv once: about 3.5 GB of disk and some minutes; downloads about 1 GB.", flush=True)

"""How long `import beamscribe` takes, over a bare interpreter and beside what it does not load.

Prints the medians of whole processes, started in turns, in milliseconds, each over that of `python -c pass`:

    python -m benchmarks.start_up
"""

import argparse
import statistics
import subprocess
import sys
import time

PROGRAMS = {
    "nothing": "pass",
    "import beamscribe": "import beamscribe",
    "… and its errors": "import beamscribe; beamscribe.BeamscribeError",
    "import apache_beam": "import apache_beam",
    "import tensorflow": "import tensorflow",
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each program is started")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(options.rounds):
        for name, program in PROGRAMS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, stderr=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(several) for name, several in seconds.items()}
    for name, median in medians.items():
        more = (median - medians["nothing"]) * 1000
        print(f"{name:20} {median * 1000:7.1f} ms, {more:7.1f} ms more, {median / medians['nothing']:6.2f} ×")


if __name__ == "__main__":
    main()

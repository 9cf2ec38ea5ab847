"""What `import lowland` and `lowland.SAM` add to `import torch`.

    python benchmarks/import_time.py [--rounds 11]

A fresh interpreter each time, both orders taken in turns; the difference of the medians.
"""

import argparse
import statistics
import subprocess
import sys

from common import describe_machine

CODE = "import time; import torch; t = time.perf_counter(); import lowland; lowland.SAM; print(time.perf_counter() - t)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    times = [
        float(subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout)
        for _ in range(rounds + 1)
    ][1:]
    print(describe_machine())
    milliseconds = 1e3 * statistics.median(times)
    print(f"import lowland and lowland.SAM after import torch: {milliseconds:.1f} ms (median of {rounds})")


if __name__ == "__main__":
    main()

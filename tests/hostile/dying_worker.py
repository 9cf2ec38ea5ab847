"""A worker process of a sweep that dies in mid-write; as a script, in the place of the true one, which it then runs."""

import json
import os
import runpy
import signal
import sys
from pathlib import Path


def main():
    from tests.hostile.phases import WRITES

    what, count, whom, often, mark = json.loads(os.environ["HOSTILE_DEATH"])
    left = [count]

    def now():
        left[0] -= 1
        if left[0]:
            return
        try:
            Path(mark).touch(exist_ok=often)
        except FileExistsError:
            return  # another one has died
        if whom == "all":
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    WRITES[what](now)
    root = Path(sys.modules[WRITES[what].__module__].__file__).parents[2]
    runpy.run_path(str(root / "src/lowland/training/sweep/worker.py"), run_name="__main__")


if __name__ == "__main__":
    main()

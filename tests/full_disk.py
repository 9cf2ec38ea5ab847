"""A full disk, by the system's limit on the size of a file.

Python keeps the bytecode of what it imports, and doesn't look whether all of it was written. Under such a limit it
would leave torn files in the environment, which no later process can import; so it writes none.
"""

import contextlib
import os
import resource
import sys


@contextlib.contextmanager
def full_disk(size):
    """No file grows beyond ``size`` bytes."""
    limits, bytecode = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        sys.dont_write_bytecode = bytecode


def stay_full(size):
    """That for all time: of this process, and of those that it starts."""
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

"""Whether `torchrun` started this process together with others; found without importing torch."""

import atexit
import gc
import os
import sys
from typing import NoReturn

from lowland.errors import SettingError
from lowland.streams import finish

_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched() -> bool:
    """Whether this is one of several processes that were started together.

    Raises:
        SettingError: if the launcher's environment variables are invalid.
    """
    return all(map(os.environ.get, _LAUNCHED)) and _check() > 1


def quiet() -> bool:
    """Whether this process should print nothing, because the first process of the run prints the same."""
    return _is_one_of_several() and int(os.environ["RANK"]) != 0


def among_others() -> bool:
    """Whether the process group of `torch.distributed` still exists: the others may not know of an error here."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def end(code: int) -> NoReturn:
    """End this process with exit code ``code``."""
    if among_others() or _is_one_of_several():
        finish()
        if not among_others():
            atexit._run_exitfuncs()
        # Threads of torch may abort the process (freeing a tensor during Python's shutdown) or block it (waiting for
        # processes that have ended). Nothing is lost: streams are flushed, clean-up is done, files are written whole.
        os._exit(code)
    gc.freeze()  # torch has so many objects that looking for cycles among them takes most of a second
    sys.exit(code)


def _is_one_of_several() -> bool:
    try:
        return launched()
    except SettingError:
        return False


def _check() -> int:
    """The number of processes, from the launcher's environment variables, after checking them."""
    whole = {}
    for name in ("WORLD_SIZE", "RANK", "MASTER_PORT"):
        text = os.environ[name]
        if not (text.isascii() and text.isdigit()) or len(text) > 9:
            raise SettingError(f"{name} is {text!r}, no whole number: start with torchrun, or unset {name}")
        whole[name] = int(text)
    if not whole["RANK"] < whole["WORLD_SIZE"]:
        raise SettingError(
            f"RANK is {whole['RANK']} of WORLD_SIZE {whole['WORLD_SIZE']} processes: start with torchrun, or unset both"
        )
    if whole["MASTER_PORT"] > 65535:
        raise SettingError(f"MASTER_PORT is {whole['MASTER_PORT']}, no port: start with torchrun, or unset it")
    return whole["WORLD_SIZE"]

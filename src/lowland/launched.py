"""Whether `torchrun` started this process together with others: known without torch."""

import os
import sys
from typing import NoReturn

from lowland.errors import SettingError
from lowland.streams import finish

_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched() -> bool:
    """Whether this is one of several processes that were started together.

    Raises:
        SettingError: if the launcher's variables say nonsense.
    """
    return all(map(os.environ.get, _LAUNCHED)) and _check() > 1


def quiet() -> bool:
    """Whether another process says what this one would say, too."""
    try:
        return launched() and int(os.environ["RANK"]) != 0
    except SettingError:
        return False


def among_others() -> bool:
    """Whether `torch.distributed` still ties this process to others: it ends by an error that not all know of."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def end(code: int) -> NoReturn:
    """End this process with that exit code."""
    if among_others():
        finish()
        # gloo's threads may wait for processes that are gone: Python's own end would wait, too, or be aborted by them.
        # Nothing is lost: files are written whole, and no clean-up of ours waits for Python's end.
        os._exit(code)
    sys.exit(code)


def _check() -> int:
    """How many processes there are."""
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

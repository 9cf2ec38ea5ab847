"""Whether `torchrun` started this process together with others: known without torch."""

import atexit
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
    return _is_one_of_several() and int(os.environ["RANK"]) != 0


def among_others() -> bool:
    """Whether `torch.distributed` still ties this process to others: it ends by an error that not all know of."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def end(code: int) -> NoReturn:
    """End this process with that exit code."""
    if among_others() or _is_one_of_several():
        finish()
        if not among_others():
            atexit._run_exitfuncs()
        # A thread of torch's that frees a tensor while Python ends aborts the process; one that waits for others that
        # are gone would keep it. Nothing is lost: streams are flushed, clean-ups are done, files are written whole.
        os._exit(code)
    sys.exit(code)


def _is_one_of_several() -> bool:
    try:
        return launched()
    except SettingError:
        return False


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

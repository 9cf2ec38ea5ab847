"""Whether `torchrun` started this process together with others: known without torch."""

import os

from lowland.errors import SettingError

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

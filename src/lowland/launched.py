"""Whether `torchrun` started this process together with others: known without torch."""

import os

_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched() -> bool:
    """Whether this is one of several processes that were started together."""
    return all(map(os.environ.get, _LAUNCHED)) and int(os.environ["WORLD_SIZE"]) > 1


def quiet() -> bool:
    """Whether another process says what this one would say, too."""
    return launched() and os.environ["RANK"] != "0"

"""Where datasets live."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from lowland.errors import DataError


def data_root(root: str | Path | None = None) -> Path:
    """The folder that holds one folder a dataset: ``root``, else ``$LOWLAND_DATA``, else the cache folder.

    It need not exist. Raises `DataError` if something that is not a folder is in its place, or there can't be such a
    place: with a ``~`` of a user that this machine doesn't know, say.
    """
    chosen = root or os.environ.get("LOWLAND_DATA")
    try:
        path = Path(chosen or user_cache_path("lowland") / "data").expanduser().absolute()
    except RuntimeError as error:
        where = str(chosen) if chosen else "There is no home directory to keep datasets in"
        raise DataError(
            f"{where}: {str(error).rstrip('.')}. Point $LOWLAND_DATA at the folder of the datasets."
        ) from error
    if "\0" in str(path):
        raise DataError(f"{str(chosen)!r} is no path. Point $LOWLAND_DATA at the folder of the datasets.")
    if os.path.exists(path) and not path.is_dir():
        raise DataError(f"{path} is not a folder. Point $LOWLAND_DATA at the folder that holds the datasets.")
    return path

"""Where datasets live."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from lowland.errors import DataError


def data_root(root: str | Path | None = None) -> Path:
    """The folder that holds one folder a dataset: ``root``, else ``$LOWLAND_DATA``, else the cache folder.

    It need not exist. Raises `DataError` if something that is not a folder is in its place.
    """
    chosen = root or os.environ.get("LOWLAND_DATA") or user_cache_path("lowland") / "data"
    path = Path(chosen).expanduser().absolute()
    if os.path.exists(path) and not path.is_dir():
        raise DataError(f"{path} is not a folder. Point $LOWLAND_DATA at the folder that holds the datasets.")
    return path

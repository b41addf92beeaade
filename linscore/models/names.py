"""Names of models that can be seen to be none without a look at the Hub, or an import that takes seconds."""

from __future__ import annotations

import os

from linscore.errors import LinscoreError


def check_name(name: str) -> None:
    """Make sure that a model's name is a folder, or may be one on the Hub: NAME, or OWNER/NAME.

    Raises:
        LinscoreError: for a file, and for a path where no folder is.
    """
    if os.path.isfile(name):
        raise LinscoreError(f"no model {name!r}: that is a file, give the folder of a model")
    if not os.path.isdir(name) and (name.startswith((os.sep, ".", "~")) or name.count("/") > 1):
        raise LinscoreError(f"no model {name!r}: there is no such folder")

"""Results that are one JSON file: written whole, and read by the types of their fields."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from linscore.files.json_file import json_text, read_json
from linscore.files.whole import whole_file

Result = TypeVar("Result", bound="Saved")


class Saved:
    """What dataclasses of results share that are saved as one file.

    Attributes:
        FILE: its name.
        DAMAGED: what is said behind the path of one that cannot be read.
    """

    FILE: ClassVar[str]
    DAMAGED: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)  # type: ignore[call-overload]

    def to_json(self, folder: str | Path | None = None) -> str:
        """The text of the file in `folder`, absolute paths as they lie from there; None: as typed."""
        return json_text(self.to_dict(), folder)

    def save(self, folder: str | Path) -> Path:
        """Write the file into a folder."""
        path = Path(folder) / self.FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_text(self.to_json(folder), encoding="utf-8")
        return path

    @classmethod
    def load(cls: type[Result], folder: str | Path) -> Result:
        """Read the file of a folder.

        Raises:
            LinscoreError: when it is damaged or none.
        """
        path = Path(folder)
        return read_json(path / cls.FILE if path.is_dir() else path, cls, damaged=cls.DAMAGED)

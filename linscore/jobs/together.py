"""What jobs share that several processes do together."""

from __future__ import annotations

from linscore.machine.processes import Processes, join
from linscore.options.place import PlaceOptions
from linscore.text.source import Source

__all__ = ["share"]


def share(place: PlaceOptions, *sources: Source) -> Processes:
    """The processes of a job, each of which reads all sources.

    Raises:
        LinscoreError: where several would read standard input, or they cannot be joined.
    """
    processes = join(place.device)
    for source in sources if processes.count > 1 else ():
        source.check_read_again(" for several processes")
    return processes

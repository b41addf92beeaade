"""The job of `linscore plan`: from a configuration and names of devices to what a score would take."""

from __future__ import annotations

import shutil

from linscore_kernels import choose_backend

from linscore.embedded.shipped import EMBEDDED
from linscore.errors import one_of
from linscore.jobs.score_settings import Selection
from linscore.machine.device import choose_device
from linscore.machine.devices import here, kind_of, named
from linscore.machine.free_memory import free_host_memory
from linscore.models.load import PLACEMENTS, load_on_paper
from linscore.options.place import LargeOptions, PlaceOptions, PlanOptions
from linscore.options.score import ScoreOptions, SelectOptions
from linscore.options.text import TextOptions
from linscore.scoring.needs import Workload, needs_of
from linscore.scoring.plan import Plan, make_plan
from linscore.text.source import Text, batch_of, within_context

AUTO = "auto"
SHARE = 0.5  # of what is free, for states
UNKNOWN = 4 << 30  # bytes, where nothing says how much is free


def run_plan(
    model: str = EMBEDDED,
    *,
    text: TextOptions | None = None,
    place: PlaceOptions | None = None,
    scoring: ScoreOptions | None = None,
    selected: SelectOptions | None = None,
    large: LargeOptions | None = None,
    planned: PlanOptions | None = None,
    timed: bool = True,
) -> Plan:
    """What a score of `model` with these options takes, and where it would run; nothing but its configuration is read.

    Without `planned.devices` it is this machine, of which `place.device` names a device, and whose rate is measured
    where the plan is to be `timed`; of named ones host memory is taken for large enough.

    Raises:
        LinscoreError: for options that cannot be used, devices that are not known, or where there is no such model.
    """
    place, scoring, read = place or PlaceOptions(), scoring or ScoreOptions(), text or TextOptions()
    large, devices = large or LargeOptions(), planned.devices if planned else None
    one_of("placement", large.placement, (AUTO, *PLACEMENTS))
    chosen = Selection(selected or SelectOptions())
    device = choose_device(place.device) if devices is None else kind_of(devices)
    trusted = place.trust_remote_code
    decoder = load_on_paper(model, dtype=place.dtype, device=device, trust_remote_code=trusted, encoder=scoring.encoder)
    dtype = next(decoder.blocks.parameters()).dtype
    length = within_context("seq_len", read.seq_len, decoder.context)
    tokens, sequences = Text(read).tokens, read.batch_size or batch_of(length, device)
    if tokens is not None:  # a batch is of one fold, which may have fewer
        sequences = max(1, min(sequences, -(-tokens // (length * scoring.folds))))
    backend = choose_backend(device) if devices is None or device.type == "cpu" else "triton"
    options = chosen.among(len(decoder.blocks), scoring)
    return make_plan(
        needs_of(decoder, Workload(sequences, length, options, backend)),
        here(device, dtype, rates=timed) if devices is None else named(devices, dtype),
        tokens=tokens,
        room=room_of(large) if devices is None or device.type == "cpu" else None,
        scratch=large.scratch is not None,
        wanted=large.placement,
        model=model,
        dtype=str(dtype).removeprefix("torch."),
        folds=scoring.folds,
        sequences=sequences,
        length=length,
    )


def room_of(large: LargeOptions) -> int:
    """Bytes of states that `stream` may keep at once."""
    free = free_host_memory() if large.scratch is None else shutil.disk_usage(large.scratch).free
    return int(SHARE * (UNKNOWN if free is None else free))

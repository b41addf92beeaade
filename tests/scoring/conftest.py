"""What several files of scoring tests share."""

import pytest
import torch
from span_moments import FUSE, SPANS, observe, tokens
from tiny_models import tiny

import linscore
from linscore import Report


@pytest.fixture(scope="session")
def scored() -> tuple[Report, list[torch.Tensor], torch.Tensor]:
    model, ids = tiny("llama"), tokens(40, 32)
    folds = torch.arange(40) % 2
    report = linscore.score(
        model, [{"input_ids": ids, "folds": folds}], spans=SPANS, fuse=FUSE, precision="exact", name="tiny"
    )
    return report, observe(model, ids)["h"], folds.repeat_interleave(32)


@pytest.fixture(scope="module")
def report() -> Report:
    model = tiny("llama")
    ids = torch.randint(3, model.config.vocab_size, (24, 32), generator=torch.Generator().manual_seed(0))
    return linscore.score(model, ids.split(8), name="tiny")

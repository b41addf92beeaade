"""Which checkpoints make a series, and at which steps."""

import pytest

from linscore.dynamics.checkpoints import checkpoint_series
from linscore.errors import LinscoreError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["a/checkpoint-500", "a/checkpoint-1000/"], [500, 1000]),
        (["step_2000", "STEP1000"], [2000, 1000]),
        (["base", "ckpt_7", "iter_0000012"], [0, 7, 12]),
        (["pythia-70m", "pythia-160m"], [0, 1]),
        (["run-7/global_step3"], [3]),
    ],
)
def test_steps_come_from_names_or_places(names, steps):
    assert [one.step for one in checkpoint_series(names)] == steps
    assert [one.name for one in checkpoint_series(names)] == names


def test_a_checkpoint_that_is_being_written_is_none(tmp_path):
    for name in ("checkpoint-10", ".part-1a2b3c4d-7-1a2b3c4d-checkpoint-20"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    assert [one.step for one in checkpoint_series([str(tmp_path)])] == [10]


@pytest.mark.parametrize(
    ("names", "revisions", "message"),
    [
        (["a/step1", "b/step1"], None, "would be steps 1, 1"),
        (["step500", "final"], None, "would be steps 500, 1"),
        ([], None, "there is no checkpoint"),
        (["a", "b"], "main", "`revisions` belongs to one Hub name, not to a b"),
        (["embedded"], "main", "`revisions` belongs to one Hub name"),
        (["a/b"], " ,", "`revisions` is empty"),
    ],
)
def test_series_that_make_no_axis(names, revisions, message):
    with pytest.raises(LinscoreError, match=message):
        checkpoint_series(names, revisions)

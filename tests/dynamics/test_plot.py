"""The picture of a series, read from its figure."""

import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from linscore.dynamics.plot import plot_dynamics

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def drawn(monkeypatch):
    """Figures in place of files."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    return figures


def test_the_picture_shows_mean_and_blocks_against_the_step(done, drawn, tmp_path):
    plot_dynamics(done[1], tmp_path / "nowhere.png")
    found = json.loads(done[1].to_json())["blocks"]
    for panel, name in zip(drawn[0].axes[:2], ("linearity_heldout", "linearity_no_residual_heldout"), strict=True):
        *blocks, mean = panel.get_lines()
        assert list(mean.get_xdata()) == [9, 10]
        np.testing.assert_allclose(mean.get_ydata(), np.mean(found[name], axis=1))
        np.testing.assert_allclose([line.get_ydata() for line in blocks], np.transpose(found[name]))


@pytest.mark.parametrize(
    ("steps", "scale"), [([0, 1, 10, 100, 1000], "symlog"), ([0, 500, 1000, 1500], "linear"), ([7], "linear")]
)
def test_steps_that_multiply_have_a_logarithmic_axis(done, drawn, tmp_path, steps, scale):
    one = done[1].scored[0]
    series = [replace(one, checkpoint=replace(one.checkpoint, step=step)) for step in steps]
    plot_dynamics(replace(done[1], scored=series), tmp_path / "nowhere.png")
    assert drawn[0].axes[0].get_xscale() == scale

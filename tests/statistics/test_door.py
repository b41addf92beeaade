"""What callers have: every form of states and masks gives the figures of a NumPy least-squares fit in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from linscore_kernels import LIGHT
from oracles import states

import linscore
from linscore import LinscoreError, Moments

B, T, D = 4, 30, 6
FORMS = ["3-D", "2-D", "4-D", "every other", "transposed", "requires grad", "inference", "numpy", "dlpack", "backwards"]
FORMS += ["read only", "big endian", "float32", "float16", "bfloat16", "numpy float16"]
MASKS = ["bool", "int", "float", "numpy bool", "numpy int", "dlpack", "rows", "bool rows", "numpy rows"]
NARROW = {"float32": torch.float32, "float16": torch.half, "bfloat16": torch.bfloat16, "numpy float16": torch.half}


class Foreign:
    """An array of some library that torch has not heard of."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, **asked):
        return self._tensor.__dlpack__(**asked)

    def __dlpack_device__(self):
        return self._tensor.__dlpack_device__()


def text() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States x and y `[B, T, d]` float64 and a mask `[B, T]` of left padding, where there is nothing but NaN."""
    x, y = (one.double().view(B, T, D) for one in states(B * T, D))
    mask = torch.arange(T) >= torch.tensor([0, 3, 7, 12])[:, None]
    return x.masked_fill(~mask[..., None], torch.nan), y.masked_fill(~mask[..., None], torch.nan), mask


def formed(states: torch.Tensor, form: str) -> object:
    """The same states as a caller may have them."""
    read_only = states.numpy().copy()
    read_only.flags.writeable = False
    with torch.inference_mode():
        inferred = states.clone() + 0
    return {
        "3-D": states,
        "2-D": states.flatten(0, 1),
        "4-D": states.view(2, 2, T, D),
        "every other": states.repeat_interleave(2, -1)[..., ::2],
        "transposed": states.transpose(0, 1).contiguous().transpose(0, 1),
        "requires grad": states.clone().requires_grad_(),
        "inference": inferred,
        "numpy": states.numpy(),
        "dlpack": Foreign(states),
        "backwards": states.flip(-1).numpy()[..., ::-1],
        "read only": read_only,
        "big endian": states.numpy().astype(">f8"),
        "float32": states.float(),
        "float16": states.half(),
        "bfloat16": states.bfloat16(),
        "numpy float16": states.numpy().astype(np.float16),
    }[form]


def picking(mask: torch.Tensor, form: str, leading: torch.Size) -> dict[str, object]:
    """The same mask as a caller may have it."""
    mask = mask.reshape(leading)
    where = mask.flatten().nonzero()[:, 0]
    return {
        "bool": {"mask": mask},
        "int": {"mask": mask.long()},
        "float": {"mask": mask.half()},
        "numpy bool": {"mask": mask.numpy()},
        "numpy int": {"mask": mask.numpy().astype(np.uint8)},
        "dlpack": {"mask": Foreign(mask.int())},
        "rows": {"rows": where},
        "bool rows": {"rows": mask.flatten()},
        "numpy rows": {"rows": where.numpy().astype(np.int32)},
    }[form]


def least_squares(x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor) -> tuple[float, float, np.ndarray]:
    """Linearity with and without residual, and what the best affine map misses of each row: NumPy, float64."""
    x, y = x[mask].numpy(), y[mask].numpy()
    design = np.hstack([x, np.ones((len(x), 1))])
    missed = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    errors = [float((missed**2).sum() / ((to - to.mean(0)) ** 2).sum()) for to in (y, y - x)]
    return 1 - errors[0], 1 - errors[1], np.linalg.norm(missed, axis=1)


def check(given_x, given_y, picked: dict[str, object], tolerance: float, dtype: torch.dtype = torch.float64) -> None:
    """All four operations against the oracle, which sees the states as they are stored in `dtype`."""
    x, y, mask = text()
    x, y = x.to(dtype).double(), y.to(dtype).double()
    scores = least_squares(x, y, mask)
    moments = Moments(D)
    status = moments.update(given_x, given_y, **picked)
    assert status.shape == (int(mask.sum()),)
    assert status.eq(LIGHT).all()
    for found in (moments.compute(), linscore.linearity(given_x, given_y, **picked)):
        assert (found.linearity, found.linearity_no_residual) == pytest.approx(scores[:2], abs=tolerance)
        assert found.rows == mask.sum()
    norms = linscore.fit_block_map(moments).residual_norms(given_x, given_y, **picked)
    np.testing.assert_allclose(norms.numpy(), scores[2], rtol=10 * tolerance, atol=10 * tolerance)
    gram = linscore.centered_gram(given_x, given_y, **picked, normalize=False)
    x_c, y_c = (one[mask].numpy() - one[mask].numpy().mean(0) for one in (x, y))
    for c, expected in ((gram.c_xx, x_c.T @ x_c), (gram.c_xy, x_c.T @ y_c)):
        np.testing.assert_allclose(c.numpy(), expected, atol=tolerance * np.linalg.norm(expected))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_states_gives_the_figures_of_float64(form):
    x, y, mask = text()
    given = formed(x, form), formed(y, form)
    leading = torch.Size([B * T]) if form == "2-D" else torch.Size([2, 2, T]) if form == "4-D" else mask.shape
    dtype = NARROW.get(form, torch.float64)
    check(*given, picking(mask, "bool", leading), 1e-11 if dtype is torch.float64 else 1e-5, dtype)


@pytest.mark.parametrize("form", MASKS)
def test_every_form_of_a_mask_gives_the_figures_of_float64(form):
    x, y, mask = text()
    check(x, y, picking(mask, form, mask.shape), 1e-11)


def test_without_a_mask_there_is_an_answer_for_each_token():
    x, y = (one.view(B, T, D) for one in states(B * T, D))
    moments = Moments(D)
    assert moments.update(x, y).shape == (B, T)
    assert linscore.fit_block_map(moments).residual_norms(x, y).shape == (B, T)
    assert Moments(D).begin(x, y).status.shape == (B * T,)


def test_a_mask_that_drops_nothing_gathers_nothing():
    x, y = (one.view(B, T, D) for one in states(B * T, D))
    masked, plain = Moments(D), Moments(D)
    assert masked.update(x, y, torch.ones(B, T)).shape == (B, T)
    plain.update(x, y)
    assert torch.equal(masked.light[0].second, plain.light[0].second)


def test_what_holds_no_row_changes_nothing():
    x, y, mask = text()
    moments = Moments(D)
    assert moments.update(x, y, torch.zeros_like(mask)).shape == (0,)
    assert moments.update(np.zeros((0, T, D)), np.zeros((0, T, D))).shape == (0, T)
    assert moments.pilot is None
    moments.update(x, y, mask)
    fitted = linscore.fit_block_map(moments)
    assert fitted.residual_norms(x, y, torch.zeros_like(mask)).shape == (0,)
    assert fitted.residual_norms(x[:0], y[:0]).shape == (0, T)
    for nothing in ({"mask": torch.zeros_like(mask)}, {"rows": []}):
        nothing = {name: torch.as_tensor(value) for name, value in nothing.items()}
        for operation in (linscore.linearity, linscore.centered_gram):
            with pytest.raises(LinscoreError):
                operation(x, y, **nothing)


@pytest.mark.parametrize("form", ["3-D", "2-D", "numpy", "dlpack", "read only", "every other"])
def test_what_torch_can_read_where_it_lies_is_not_copied(form):
    from linscore_kernels.given import as_rows

    x = states(B * T, D)[0].double().view(B, T, D)
    given = formed(x, form)
    found = as_rows(given, given).x
    if isinstance(given, np.ndarray):
        assert found.data_ptr() == given.__array_interface__["data"][0]
    else:
        assert found.data_ptr() == getattr(given, "_tensor", given).data_ptr()


def test_a_graph_ends_here_and_inference_mode_leaves_sums_that_go_on():
    x, y, mask = text()
    moments = Moments(D)
    with torch.inference_mode():
        moments.update(x, y, mask)
    moments.update(x.requires_grad_(), y, mask)
    assert not moments.light[0].second.requires_grad
    assert not linscore.centered_gram(x, y, mask).c_xx.requires_grad
    assert not linscore.fit_block_map(moments).residual_norms(x, y, mask).requires_grad


X = np.zeros((3, 2, 4))


@pytest.mark.parametrize(
    ("x", "picked", "message"),
    [
        (X.tolist(), {}, "`x` is of type list: give a tensor"),
        (X.astype(int), {}, "`x` is torch.int64: convert it"),
        (X.astype(complex), {}, "`x` is torch.complex128: convert it"),
        (X.astype(object), {}, "`x` cannot be read by torch"),
        (X.astype(np.longdouble), {}, "`x` cannot be read by torch"),
        (np.ma.masked_array(X), {}, "`x` is a masked array: give its data"),
        (torch.zeros(3, 2, 4).to_sparse(), {}, "`x` is no dense tensor"),
        (torch.zeros(3, 2, 4, device="meta"), {}, "`x` is no dense tensor"),
        (torch.zeros(3, 2, 4).to(torch.float8_e4m3fn), {}, "`x` is torch.float8_e4m3fn: convert it"),
        (X[0, 0], {}, r"`x` is \[4\]: give \[\.\.\., d\]"),
        (X, {"mask": np.ones((2, 3))}, r"`mask` is \[2, 3\], the states without their width \[3, 2\]"),
        (X, {"mask": np.ones((3, 1, 1, 2))}, "`mask` is"),
        (X, {"mask": np.array([[0, -1e9]] * 3)}, "`mask` must hold 1 for rows that count"),
        (X, {"mask": np.array([[1, np.nan]] * 3)}, "`mask` must hold 1 for rows that count"),
        (X, {"mask": np.array([[1, 2]] * 3)}, "`mask` must hold 1 for rows that count"),
        (X, {"mask": [[1, 1]] * 3}, "`mask` is of type list"),
        (X, {"mask": np.ones((3, 2)), "rows": np.arange(2)}, "either `mask` or `rows`"),
        (X, {"rows": np.ones(6)}, r"`rows` is \[6\] torch.float64: give indices"),
        (X, {"rows": np.array([0, 6])}, "`rows` are 0 to 6: give indices from 0 to 5"),
        (X, {"rows": np.ones(3, dtype=bool)}, r"`rows` is \[3\], the states without their width \[6\]"),
    ],
)
def test_what_cannot_be_read_is_refused_by_all_in_the_same_line(x, picked, message):
    fitted = linscore.fit_block_map(_two_rows())
    for operation in (Moments(4).update, linscore.linearity, linscore.centered_gram, fitted.residual_norms):
        with pytest.raises(LinscoreError, match=message):
            operation(x, x, **picked)


def _two_rows() -> Moments:
    moments = Moments(4)
    moments.update(torch.eye(4), torch.eye(4))
    return moments

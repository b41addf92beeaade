"""What a batch may hold, and what is refused rather than misread."""

import numpy as np
import pytest
import torch

from linscore.errors import LinscoreError
from linscore.text.batch import TokenDigest, read_batch

IDS = torch.arange(6).view(2, 3)
ONES = torch.ones_like(IDS)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
def test_numpy_ids_are_read_as_tensors_are(dtype) -> None:
    tokens = read_batch({"input_ids": IDS.numpy().astype(dtype), "attention_mask": np.array([[1, 1, 0], [1, 1, 1]])})
    assert torch.equal(tokens.input_ids.long(), IDS)
    assert tokens.input_ids.dtype in (torch.int32, torch.int64)
    assert tokens.real.tolist() == [[True, True, False], [True, True, True]]


def test_numpy_ids_have_the_digest_of_the_tensor() -> None:
    digests = [TokenDigest(), TokenDigest()]
    for digest, batch in zip(digests, (IDS, IDS.numpy()), strict=True):
        list(digest.watch([batch]))
    assert str(digests[0]) == str(digests[1])


def test_what_is_only_read_may_be_read_only(recwarn) -> None:
    ids = IDS.numpy().copy()
    ids.flags.writeable = False
    assert read_batch(ids).input_ids.data_ptr() == ids.__array_interface__["data"][0]
    assert not recwarn


def test_what_is_none_is_not_there() -> None:
    tokens = read_batch({"input_ids": IDS, "attention_mask": None, "folds": None})
    assert (tokens.mask, tokens.folds, tokens.position_ids) == (None, None, None)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"input_ids": IDS, "seq_idx": IDS}, "has seq_idx, which is not read: give it input_ids, attention_mask"),
        ({"input_ids": IDS, "token_type_ids": IDS, "cu_seqlens": IDS}, "has cu_seqlens, token_type_ids"),
        ({"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 2], [1, 2, 2]])}, "1 for tokens and 0 for padding"),
        ({"input_ids": IDS, "attention_mask": torch.zeros(2, 3)}, "1 for tokens and 0 for padding"),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 1, 3, 3).bool()}, r"is \(2, 1, 3, 3\), input_ids \(2, 3\)"),
        ({"input_ids": IDS, "position_ids": ONES[:1]}, r"integers from 0 on of shape \(2, 3\)"),
        ({"input_ids": IDS, "position_ids": ONES.float()}, "integers from 0 on"),
        ({"input_ids": IDS, "position_ids": -ONES}, "integers from 0 on"),
        ({"input_ids": [[1, 2, 3]]}, "`input_ids` of a batch is of type list"),
        ({"input_ids": IDS, "folds": torch.zeros(2)}, "folds of a batch are torch.float32: give integers"),
        ({"input_ids": IDS, "labels": IDS.float()}, "labels of a batch are torch.float32: give integers"),
        (np.array([["a", "b"]]), r"`input_ids` of a batch cannot be read by torch \(can't convert"),
        (IDS.to("meta"), "no dense tensor with values"),
        (IDS.to_sparse(), "no dense tensor with values"),
        (IDS[:0], r"shape \(0, 3\) holds no token"),
        (IDS[:, :0], r"shape \(2, 0\) holds no token"),
        (IDS[0], r"token ids \[B, T\]"),
        (IDS.bool(), r"token ids \[B, T\]"),
        ({"labels": IDS}, r"token ids \[B, T\]"),
    ],
)
def test_what_would_be_misread_is_refused_in_one_line(batch, words: str) -> None:
    with pytest.raises(LinscoreError, match=words) as caught:
        read_batch(batch)
    assert "\n" not in str(caught.value)


def test_arrays_are_read_however_they_lie_in_memory() -> None:
    ids = np.arange(6).reshape(2, 3)
    for array in (ids[:, ::-1], ids.T, np.broadcast_to(ids[:1], (4, 3))):
        assert read_batch(array).input_ids.tolist() == array.tolist()

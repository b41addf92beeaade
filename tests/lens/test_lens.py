"""The logit lens and what else is read off states, against transformers' own hidden states and formulas of NumPy."""

import json

import numpy as np
import pytest
import torch
from tiny_models import tiny

from linscore import LinscoreError
from linscore.decoder.find import find_decoder
from linscore.errors import LinscoreWarning
from linscore.jobs.lens import run_lens
from linscore.jobs.tokens import run_tokens
from linscore.lens.head import find_head
from linscore.lens.look import look
from linscore.lens.result import Lens
from linscore.lens.table import lens_table


def ids(sequences: int = 6, length: int = 20) -> torch.Tensor:
    return torch.randint(3, 60, (sequences, length), generator=torch.Generator().manual_seed(0))


def words(tokens: list[int]) -> str:
    return " ".join(map(str, tokens))


@pytest.fixture(scope="module")
def seen():
    model = tiny("llama").double()
    batch = ids()
    with torch.no_grad():
        hidden = model(batch, output_hidden_states=True).hidden_states
    return model, batch, look(find_decoder(model), batch.split(4), words, tokens=100, name="tiny"), hidden


def test_a_batch_without_room_gives_the_same_states(seen):
    model, batch, whole, _ = seen

    def allocate(_block, args):
        if args[0].shape[1] == 20 and len(args[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = find_decoder(model).blocks[1].register_forward_pre_hook(allocate)
    with pytest.warns(LinscoreWarning, match="sequences at once need more memory"):
        found = look(find_decoder(model), batch.split(4), words, tokens=100, name="tiny")
    hook.remove()
    assert [one.loss for one in found.depths] == pytest.approx([one.loss for one in whole.depths], rel=1e-6)
    assert found.predictions.tokens == whole.predictions.tokens
    assert found.tokens == 100


@pytest.mark.parametrize("job", [run_lens, run_tokens])
def test_several_processes_are_refused_in_one_line(job, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LinscoreError, match="runs in one process: start it without torchrun"):
        job()


def test_losses_are_those_of_the_norm_and_the_head_at_every_depth(seen):
    model, batch, lens, hidden = seen
    states = [*hidden[:-1]]  # the last of transformers' has gone through the norm already
    following = torch.nn.functional.pad(batch[:, 1:], (0, 1), value=-1).flatten()[:100]
    with torch.no_grad():
        for depth, state in enumerate(states):
            for logits, name in (
                (model.lm_head(model.model.norm(state)), "loss"),
                (model.lm_head(state), "loss_without_norm"),
            ):
                rows = logits.flatten(0, 1)[:100].double().numpy()
                log_sums = np.log(np.exp(rows).sum(1))
                costs = [log_sums[at] - rows[at, one] for at, one in enumerate(following.tolist()) if one >= 0]
                assert getattr(lens.depths[depth], name) == pytest.approx(np.mean(costs), rel=1e-5)
        last = model(batch).logits.flatten(0, 1)[:100].argmax(-1)
    assert lens.depths[-1].agrees == 1
    assert lens.predictions.tops[-1] == [str(one) for one in last[:64].tolist()]
    assert lens.tokens == 100
    assert len(lens.depths) == len(hidden)


def test_similarities_are_of_any_two_depths(seen):
    *_, lens, hidden = seen
    x, y = (state.flatten(0, 1)[:100].double().numpy() for state in hidden[:2])
    cosines = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert lens.similarity["angular_distance"][0][1] == pytest.approx(np.arccos(cosines).mean() / np.pi, abs=2e-6)
    x, y = x - x.mean(0), y - y.mean(0)
    cka = np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert lens.similarity["cka"][1][0] == pytest.approx(cka, abs=2e-6)


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neox", "gemma"])
def test_the_way_from_the_last_state_to_the_logits_is_found(family):
    decoder = find_decoder(tiny(family))
    head = find_head(decoder)
    assert len(head.between) >= 1
    lens = look(decoder, [ids()], words)
    with torch.no_grad():
        logits = decoder.model(ids()).logits[:, :-1].double().log_softmax(-1)
    wanted = -logits.gather(2, ids()[:, 1:, None]).mean().item()
    assert lens.depths[-1].loss == pytest.approx(wanted, rel=1e-4)


def test_a_head_that_does_more_is_said_and_the_rest_is_there():
    lens = look(find_decoder(tiny("gemma2")), [ids()], words)
    assert "soft caps" in lens.note
    assert lens.depths[0].loss is None
    assert lens.depths[1].dimension is not None
    assert lens.predictions is None
    assert lens_table(lens)


def test_padding_is_no_token(seen):
    model, batch, *_ = seen
    mask = torch.ones_like(batch)
    mask[:, 15:] = 0
    padded = look(find_decoder(model), [{"input_ids": batch, "attention_mask": mask}], words)
    short = look(find_decoder(model), [batch[:, :15]], words)
    assert padded.tokens == short.tokens == 90
    assert [one.loss for one in padded.depths] == pytest.approx([one.loss for one in short.depths])
    with pytest.raises(LinscoreError, match="less than four tokens"):
        look(find_decoder(model), [batch[:1, :3]], words)


def test_a_lens_is_saved_and_read_again(seen, tmp_path):
    lens = seen[2]
    path = lens.save(tmp_path / "new")
    assert Lens.load(tmp_path / "new") == Lens.load(path) == lens
    assert len(json.loads(path.read_text())["depths"]) == len(lens.depths)
    path.write_text("[]")
    with pytest.raises(LinscoreError, match="was not written by"):
        Lens.load(path)

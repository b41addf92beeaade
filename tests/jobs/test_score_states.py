"""`linscore score-states`: states in files score as the model that gave them, and damaged files end in one line."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import VOCABULARY, shared

from linscore import Report, ScoreOptions, load_moments, score
from linscore.jobs import score_states as job
from linscore.jobs.score_states import run_score_states
from linscore.options.text import StatesOptions

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = 12


def texts():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCABULARY, (1, 30 + index), generator=generator) for index in range(TEXTS)]


@torch.no_grad()
def states_of(ids):
    """What enters the first block and leaves each `[n, 4, d]`, before the final norm, as a hook of ours reads them."""
    model, seen = shared("llama"), []
    hooks = [block.register_forward_pre_hook(lambda _m, args: seen.append(args[0])) for block in model.model.layers]
    hooks.append(model.model.norm.register_forward_pre_hook(lambda _m, args: seen.append(args[0])))
    model(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack([state[0] for state in seen], 1)


def write(folder, kind, index, ids):
    states, path = states_of(ids), folder / f"hs_{index}.{kind}"
    if kind == "safetensors":  # vLLM's and speculators' layout
        save_file({"hidden_states": states, "token_ids": ids[0]}, path)
    elif kind == "npz":
        np.savez(path, hidden_states=states.numpy(), token_ids=ids[0].numpy(), loss_mask=np.ones(len(states)))
    elif kind == "npy":
        np.save(path, states.numpy())
    else:  # a tensor for each state, as older generators of EAGLE's training data have it
        torch.save({"input_ids": ids[0], "hidden_states": list(states.unbind(1))}, path)


def dump(folder, kinds):
    for index, ids in enumerate(texts()):
        write(folder, kinds[index % len(kinds)], index, ids)
    return folder


RAW = StatesOptions(raw_last=True)


@pytest.mark.parametrize("kinds", [["safetensors"], ["npz", "npy", "pt", "safetensors"]])
def test_states_in_files_score_as_their_model(tmp_path, kinds, monkeypatch):
    monkeypatch.setattr(job, "PIECE", 4 * 4 * 32 * 16)  # 16 tokens: texts come in pieces
    folder = dump(tmp_path, kinds)
    options = ScoreOptions(skip_first=3)
    found, paths = run_score_states(str(folder), stored=RAW, scoring=options, out=str(tmp_path / "out"))
    wanted = score(shared("llama"), texts(), options)
    for one, other in zip(found.blocks, wanted.blocks, strict=True):
        for name in ("linearity", "linearity_no_residual", "linearity_heldout", "linearity_no_residual_heldout"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-6), name
    assert (found.tokens, found.skip_first, found.depth) == (wanted.tokens, 3, 3)
    assert found.tokens_digest == (wanted.tokens_digest if kinds == ["safetensors"] else None)
    assert Report.load(paths[0].parent) == found
    assert set(load_moments(paths[1])[0]) == set(wanted.moments)


def test_states_of_blocks_further_on_and_a_last_one_behind_the_norm(tmp_path):
    folder = dump(tmp_path, ["safetensors"])
    stored = StatesOptions(states="5-8", model="some/model")
    found, _ = run_score_states(str(folder), stored=stored, out=str(tmp_path / "out"))
    wanted = score(shared("llama"), texts()).blocks[:2]
    assert [block.index for block in found.blocks] == [5, 6]  # of h_8 it is not known what it is
    assert [block.linearity for block in found.blocks] == pytest.approx([block.linearity for block in wanted], abs=1e-6)
    assert found.model == "some/model"
    assert found.warnings[0].kind == "last_block"
    assert "`raw_last`" in found.warnings[0].message


def test_padding_and_other_files_are_left_out(tmp_path):
    plain, padded = tmp_path / "plain", tmp_path / "padded"
    plain.mkdir()
    padded.mkdir()
    dump(plain, ["safetensors"])
    for index, ids in enumerate(texts()):
        states = torch.cat([torch.full((5, 4, 32), 7.0), states_of(ids)])
        real = torch.ones(len(states), dtype=torch.long)
        real[:5] = 0
        save_file({"hidden_states": states, "attention_mask": real}, padded / f"{index}.safetensors")
    (padded / "0.safetensors.lock").touch()
    reports = [run_score_states(str(one), stored=RAW, out=f"{one}-out")[0] for one in (plain, padded)]
    assert [block.linearity for block in reports[0].blocks] == [block.linearity for block in reports[1].blocks]
    assert "1, such as 0.safetensors.lock" in reports[1].warnings[-1].message


SMALL = torch.ones(4, 3, 32)
DAMAGED = {
    "cut": ("a.safetensors", lambda path: path.write_bytes(b"\x08\0\0\0\0\0\0\0{}"), "is damaged or no file of states"),
    "pickle": ("a.npy", lambda path: np.save(path, np.array([{}], object), allow_pickle=True), "is damaged or no file"),
    "code": ("a.pt", lambda path: torch.save({"hidden_states": print}, path), "is damaged or no file of states"),
    "text": ("a.npz", lambda path: path.write_text("no"), "is damaged or no file of states"),
    "eagle": ("a.pt", lambda path: torch.save({"hidden_state": SMALL[:, 0]}, path), "one state of each token"),
    "other": ("a.safetensors", lambda path: save_file({"weight": SMALL}, path), "holds weight, and no hidden_states"),
    "flat": ("a.safetensors", lambda path: save_file({"hidden_states": SMALL[0]}, path), r"of shape \[3, 32\]"),
    "ids": (
        "a.safetensors",
        lambda path: save_file({"hidden_states": SMALL, "token_ids": torch.ones(5).long()}, path),
        r"token ids \[5\] and states of 4 tokens",
    ),
    "whole": ("a.safetensors", lambda path: save_file({"hidden_states": SMALL.long()}, path), "a.safetensors: "),
    "width": ("z.safetensors", lambda path: save_file({"hidden_states": torch.ones(4, 4, 8)}, path), "z.safetensors: "),
    "count": (
        "z.safetensors",
        lambda path: save_file({"hidden_states": SMALL}, path),
        "z.safetensors: .*are 3.*were 4",
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_file_that_cannot_be_used_ends_in_one_line(tmp_path, run, what):
    name, write_it, message = DAMAGED[what]
    folder = tmp_path / "dump"
    folder.mkdir()
    if name.startswith("z"):
        write(folder, "safetensors", 0, texts()[0])
    write_it(folder / name)
    code, out, error = run("score-states", folder, "--raw-last", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.slow
def test_the_command_writes_a_report_that_rank_reads_and_never_over_another(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dump").mkdir()
    dump(tmp_path / "dump", ["safetensors"])
    code, out, error = run("score-states", "dump", "--raw-last")
    assert code == 0, error
    assert "linscore rank scores/dump" in out
    code, out, _ = run("rank", "scores/dump", "--json")
    assert code == 0
    assert len(json.loads(out)) > 0
    before = (tmp_path / "scores/dump/report.json").read_bytes()
    code, _, error = run("score-states", "dump", "--model", "another", "--out", "scores/dump")
    assert code == 2
    assert "--overwrite" in error
    code, _, error = run("score-states", "dump", "--states", "2,16,29")
    assert code == 2
    assert "--states 2,16,29 are not one after the other" in error
    assert (tmp_path / "scores/dump/report.json").read_bytes() == before

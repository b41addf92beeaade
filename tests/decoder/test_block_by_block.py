"""Blocks that run one at a time have the states that they have in a whole run, bit for bit."""

import copy

import pytest
import torch
from decoders import decoder_of, states_of
from tiny_models import DEPTH, FAMILIES, VOCABULARY, WIDTH
from torch import Tensor, nn

from benchmarks.studies.sweep_stream import PutAside
from linscore.decoder.block_by_block import BlockByBlock
from linscore.decoder.find import Decoder, find_decoder
from linscore.decoder.kept_states import KeptStates
from linscore.decoder.states import BlockStates
from linscore.errors import LinscoreError

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(4))


def own(family: str) -> Decoder:
    """A decoder that a test may change."""
    return find_decoder(copy.deepcopy(decoder_of(family).model))


def run_all(one: BlockByBlock, ids: Tensor, mask: Tensor | None = None) -> dict[int, BlockStates]:
    found: dict[int, BlockStates] = {}
    state = None
    for index in range(len(one.decoder.blocks)):
        with one.at(index):
            state = one.run_block(index, state, (ids, mask, None), found.__setitem__)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_a_whole_run(family: str) -> None:
    expected = states_of(decoder_of(family), IDS)
    decoder = own(family)
    weights = PutAside(decoder.blocks)
    found = run_all(BlockByBlock(decoder, weights), IDS)
    for index in range(DEPTH):
        assert torch.equal(found[index].x, expected[index].x)
        assert torch.equal(found[index].y, expected[index].y)
    assert weights.most == 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_tried_on_one_block_and_run_likewise(side: str) -> None:
    mask = torch.ones_like(IDS)
    mask[0, slice(3) if side == "left" else slice(-3, None)] = 0
    expected = states_of(decoder_of("qwen2"), IDS, mask)
    decoder = own("qwen2")
    one = BlockByBlock(decoder, PutAside(decoder.blocks))
    ((_, ids, left),) = one.parts(IDS, mask, None)
    found = run_all(one, ids, left)
    real = mask.bool()
    assert all(torch.equal(found[index].y[real], expected[index].y[real]) for index in range(DEPTH))


def test_what_follows_the_blocks_runs_on_the_last_state() -> None:
    model = decoder_of("llama").model
    expected = model(input_ids=IDS).logits
    decoder = own("llama")
    one = BlockByBlock(decoder, PutAside(decoder.blocks))
    last = run_all(one, IDS)[DEPTH - 1].y
    with one.after(len(one.decoder.blocks), last), torch.no_grad():
        found = decoder.model(input_ids=IDS).logits
    assert torch.equal(found, expected)


class Stack(nn.Module):
    """Blocks that get something beside their state."""

    def __init__(self, beside: str) -> None:
        super().__init__()
        self.embed, self.beside = nn.Embedding(VOCABULARY, WIDTH), beside
        self.layers = nn.ModuleList(Block() for _ in range(DEPTH))

    def forward(self, ids: Tensor) -> Tensor:
        x = first = self.embed(ids)
        before: dict[str, Tensor] = {}
        for layer in self.layers:
            more = {"nothing": None, "embedding": first, "memory": before, "last input": before.get("x")}[self.beside]
            before["x"] = x
            x = layer(x, more)
        return x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, more: Tensor | dict | None) -> Tensor:
        more = more.get("x") if isinstance(more, dict) else more
        return x + self.linear(x) + (0 if more is None else more)


@pytest.mark.parametrize("beside", ["nothing", "embedding"])
def test_blocks_may_get_what_does_not_come_from_blocks(beside: str) -> None:
    decoder = find_decoder(Stack(beside))
    expected = states_of(decoder, IDS)
    found = run_all(BlockByBlock(decoder, PutAside(decoder.blocks)), IDS)
    assert all(torch.equal(found[index].y, expected[index].y) for index in range(DEPTH))


@pytest.mark.parametrize("beside", ["memory", "last input"])
def test_blocks_that_need_more_than_the_state_are_refused(beside: str) -> None:
    decoder = find_decoder(Stack(beside))
    with pytest.raises(LinscoreError, match="it cannot run one block at a time: give `placement=map`"):
        BlockByBlock(decoder, PutAside(decoder.blocks))


def test_stand_ins_leave_nothing_behind() -> None:
    decoder = own("bloom")
    weights = PutAside(decoder.blocks)
    run_all(BlockByBlock(decoder, weights), IDS)
    assert all("forward" not in vars(block) for block in decoder.blocks)
    for block in decoder.blocks:
        assert not block._forward_hooks
        assert not block._forward_pre_hooks


@pytest.mark.parametrize("on_disk", [False, True])
def test_kept_states_are_those_put_there_last(on_disk: bool, tmp_path) -> None:
    kept = KeptStates(torch.device("cpu"), tmp_path if on_disk else None)
    states = torch.arange(24.0).view(2, 3, 4).to(torch.bfloat16)
    kept[0], kept[1] = states, -states
    kept[0] = states + 1
    assert torch.equal(kept[0], states + 1)
    assert torch.equal(kept[1], -states)
    assert kept[0].data_ptr() != states.data_ptr()
    del kept
    assert not list(tmp_path.iterdir())

"""The residual stream as read from tiny models of every family; oracles are the models' own hidden states and norms."""

import gc
import weakref

import pytest
import torch
from decoders import UNSPLIT, PlainDecoder, decoder_of, every_family, hook_count, some_tokens, states_of, sub_blocks_of
from tiny_models import DEPTH, WIDTH, tiny
from torch import Tensor, nn

from linscore.decoder.find import find_decoder
from linscore.decoder.run import run, watch
from linscore.decoder.states import BlockStates

pytestmark = pytest.mark.usefixtures("one_thread")


MAMBAS = ("mamba", "mamba2")


@pytest.mark.slow
@every_family
def test_states_are_the_hidden_states_of_the_model(family: str) -> None:
    decoder, tokens = decoder_of(family), some_tokens()
    with torch.no_grad():
        hidden = decoder.model(tokens, output_hidden_states=True, use_cache=False).hidden_states
    states = states_of(decoder, tokens)
    assert list(states) == list(range(DEPTH))
    for i in range(DEPTH):
        # Mamba lists what leaves each block, and the embeddings not at all.
        torch.testing.assert_close(states[i].y if family in MAMBAS else states[i].x, hidden[i])
        assert states[i].attention is states[i].mlp is states[i].mlp_input is None
    for i in range(1, DEPTH):
        assert torch.equal(states[i - 1].y, states[i].x)


@every_family
def test_the_last_state_becomes_the_models_output_through_its_final_norm(family: str) -> None:
    decoder, tokens = decoder_of(family), some_tokens()
    with torch.no_grad():
        expected = decoder.backbone(tokens, use_cache=False).last_hidden_state
        last = states_of(decoder, tokens)[DEPTH - 1].y
        # OPT-350m has no final norm and projects to the width of its embedding instead.
        names = ("ln_f", "norm_f", "final_layer_norm", "final_layernorm", "final_norm", "norm", "project_out")
        finals = [m for name in names if (m := getattr(decoder.backbone, name, None)) is not None]
        assert len(finals) == 1
        torch.testing.assert_close(finals[0](last), expected)
    assert not torch.allclose(last[..., : expected.shape[-1]], expected, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["left", "right"])
@every_family
def test_padding_leaves_the_states_of_real_tokens_unchanged(family: str, side: str) -> None:
    decoder, tokens = decoder_of(family), some_tokens()
    kept = slice(3, None) if side == "left" else slice(None, -3)
    alone = states_of(decoder, tokens[1:, kept])
    mask = torch.ones_like(tokens)
    mask[1] = 0
    mask[1, kept] = 1
    padded = states_of(decoder, tokens.where(mask == 1, 0), mask)
    whole = states_of(decoder, tokens[:1])
    for i in range(DEPTH):
        for name in ("x", "y"):
            for row, expected in ((slice(1, 2), getattr(alone[i], name)), (slice(0, 1), getattr(whole[i], name))):
                found = getattr(padded[i], name)[row]
                found = found[:, kept] if row.start == 1 else found
                assert (found - expected).norm() <= 1e-5 * expected.norm(), f"{name} of block {i}"


@every_family
def test_no_activation_outlives_the_hook(family: str) -> None:
    seen: list[weakref.ref[Tensor]] = []

    def look(index: int, states: BlockStates) -> None:
        # The model itself holds the embeddings (x of block 0) and y, the next block's x.
        assert not any(ref() is not None for ref in seen if index > 1)
        seen[:] = [weakref.ref(t) for t in (states.x, states.attention, states.mlp) if t is not None]
        last.append(weakref.ref(states.y))

    last: list[weakref.ref[Tensor]] = []
    decoder = decoder_of(family)
    with watch(decoder, look, sub_blocks=None if family in UNSPLIT else sub_blocks_of(family)):
        run(decoder, some_tokens())
        assert len(last) == DEPTH
        assert not any(ref() is not None for ref in seen + last)


def test_between_blocks_and_batches_the_watch_itself_holds_no_tensor() -> None:
    batch, length = 3, 7  # sizes of no weight
    with watch(decoder_of("opt"), lambda *_: None, sub_blocks=sub_blocks_of("opt")):
        run(decoder_of("opt"), some_tokens(batch, length))
        sizes = [o.numel() for o in gc.get_objects() if type(o) is Tensor]
    assert batch * length * WIDTH not in sizes


def test_nothing_is_kept_of_a_block_that_failed_half_way() -> None:
    decoder = find_decoder(tiny("llama"))
    seen: list[weakref.ref[Tensor]] = []

    def fail(_module: nn.Module, _args: tuple[Tensor], output: Tensor) -> None:
        seen.append(weakref.ref(output))
        raise RuntimeError("out of memory")

    decoder.blocks[1].mlp.register_forward_hook(fail)
    before = hook_count(decoder.model)
    with pytest.raises(RuntimeError), watch(decoder, lambda *_: None, sub_blocks=sub_blocks_of("llama")):
        run(decoder, some_tokens())
    assert hook_count(decoder.model) == before
    assert seen[0]() is None


@every_family
def test_a_block_does_not_modify_its_input_in_place(family: str) -> None:
    decoder, clones, same = decoder_of(family), [], []

    def clone(_block: nn.Module, args: tuple, kwargs: dict) -> None:
        clones.append((args[0] if args else kwargs["hidden_states"]).clone())

    handles = [block.register_forward_pre_hook(clone, with_kwargs=True) for block in decoder.blocks]
    with watch(decoder, lambda index, states: same.append(torch.equal(states.x, clones[index]))):
        run(decoder, some_tokens())
    for handle in handles:
        handle.remove()
    assert same == [True] * DEPTH


def test_hidden_states_are_found_among_keywords_too() -> None:
    class ByKeyword(PlainDecoder):
        def forward(self, tokens: Tensor) -> Tensor:
            h = self.embedding(tokens)
            for block in self.blocks:
                h = block(hidden_states=h)
            return h

    class Block(nn.Module):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return hidden_states + 1

    model = ByKeyword()
    model.blocks = nn.ModuleList(Block() for _ in range(2))
    states = states_of(find_decoder(model), torch.tensor([[1, 2]]))
    assert all(torch.equal(s.x + 1, s.y) for s in states.values())

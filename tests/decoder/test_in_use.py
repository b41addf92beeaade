"""Two scores of one model at once would read each other's states: the second is refused."""

import threading

import pytest
from linear_models import tokens
from tiny_models import tiny

from linscore import LinscoreError, find_decoder, score
from linscore.decoder.run import watch

pytestmark = pytest.mark.usefixtures("one_thread")


def in_thread(job):
    """What `job()` raises in a thread of its own; None if it ends well."""
    raised = []

    def call():
        try:
            job()
        except LinscoreError as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def batches(meanwhile):
    """Two, and something that happens between them."""
    yield tokens(8, 20)
    meanwhile()
    yield tokens(8, 20)


@pytest.mark.slow
def test_a_second_score_is_refused_and_the_first_goes_on():
    model, other, errors = tiny("llama"), tiny("llama"), []

    def meanwhile():
        errors.append(in_thread(lambda: score(model, [tokens(8, 20)])))
        errors.append(in_thread(lambda: score(other, [tokens(8, 20)])))
        with pytest.raises(LinscoreError, match="in use"):  # one score inside the other
            score(model, [tokens(8, 20)])

    report = score(model, batches(meanwhile))
    assert report.tokens == 320
    assert "LlamaForCausalLM is in use" in str(errors[0])
    assert errors[1] is None
    assert score(model, batches(lambda: None)).blocks == report.blocks


def test_what_a_score_held_is_free_after_an_error():
    model = tiny("llama")

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(model, batches(fail))
    assert in_thread(lambda: score(model, [tokens(8, 20)])) is None


def test_states_are_handed_to_one_thread_only():
    decoder, seen = find_decoder(tiny("llama")), []
    with watch(decoder, lambda index, _states: seen.append(index)):
        assert "in use" in str(in_thread(lambda: score(decoder.model, [tokens(8, 20)])))
    assert seen == []
    assert in_thread(lambda: score(decoder.model, [tokens(8, 20)])) is None

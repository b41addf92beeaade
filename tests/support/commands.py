"""What tests of commands share: the decoder that ships, and what a refusal looks like."""

from transformers import AutoModelForCausalLM

from linscore.embedded.shipped import EMBEDDED_MODEL

TEXT = "def find_decoder(model):\n    return model.get_decoder()\n"


def embedded():
    return AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL).eval()


def refused(result, *words):
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert all(word in err for word in words), err

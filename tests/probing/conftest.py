"""What several files of probing tests share."""

import pytest
from transformers import AutoTokenizer

from linscore.embedded.shipped import EMBEDDED_MODEL


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(EMBEDDED_MODEL)

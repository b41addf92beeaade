"""What several files of distillation tests share."""

import pytest
from tiny_models import tiny


@pytest.fixture
def teacher():
    return tiny("llama")

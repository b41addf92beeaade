"""What several files of tests of saved models share."""

import sys
from pathlib import Path

import pytest
from linear_models import random_map
from tiny_models import tiny

from linscore.surgery.linearize import linearize


@pytest.fixture(scope="module")
def own_module_cache(tmp_path_factory):
    """Transformers copies code that it finds in a folder, and imports the copy; not into the home directory here."""
    place = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", place)
        patch.setattr(sys, "path", [*sys.path, place])
        yield
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


@pytest.fixture
def llama(tmp_path) -> Path:
    """A folder whose second block is linear."""
    linearize(tiny("llama"), {1: random_map()}).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"

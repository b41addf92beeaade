"""Checkpoints that bring code, which leaves a file behind when it runs."""

import json
import shutil
from pathlib import Path

FORMER = Path(__file__).parents[1] / "fixtures" / "version_0_1_0"
CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path({mark!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
CONFIG = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnModel"}


def change(path: Path, **values) -> None:
    """Give a JSON file other values."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def add_code(folder: Path) -> Path:
    """Put the code into a folder; the file that is there once it has run."""
    mark = folder.parent / f"{folder.name} ran"
    (folder / "own_code.py").write_text(CODE.format(mark=str(mark)), encoding="utf-8")
    return mark


def with_own_code(folder: Path) -> Path:
    """A Llama whose classes are its own; see `add_code`."""
    shutil.copytree(FORMER / "model", folder)
    change(folder / "config.json", model_type="own", auto_map=CONFIG)
    return add_code(folder)


def with_own_tokenizer(folder: Path, kind: str = "model") -> Path:
    """A Llama, or with "linear" one that has linear blocks, whose tokenizer is of its own class; see `add_code`."""
    shutil.copytree(FORMER / kind, folder)
    auto_map = {"AutoTokenizer": [None, "own_code.OwnTokenizer"]}
    change(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=auto_map)
    return add_code(folder)

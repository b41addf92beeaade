"""Damaged files, thousands of them: each is read as something whole or refused in one line, soon and in little memory.

`make fuzz` tries 20,000; here are a tenth of them. A failure says the reader and the number of the input, from which
it can be made again.
"""

import json
import os
import random
import resource
import signal
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from fuzzing import JSON, PLAIN, SAFETENSORS

import linscore
from linscore import LinscoreError
from linscore.distillation.settings import Begun
from linscore.dynamics.series import Dynamics
from linscore.dynamics.table import dynamics_table
from linscore.files.curve import read_curve, write_curve
from linscore.files.json_file import read_json
from linscore.files.run_folder import SETTINGS, RunFolder
from linscore.models.load import read_context
from linscore.options.text import LabelledOptions
from linscore.pretraining.recipe import CONFIGS, Recipe, read_recipe
from linscore.scoring.kept import Position
from linscore.scoring.looks import Look
from linscore.scoring.table import score_table
from linscore.spans import parse_blocks
from linscore.statistics.moments_file import load_moments, save_moments
from linscore.text.documents import read_documents
from linscore.text.labelled import labelled_texts
from linscore.text.source import labelled_source

FORMER = Path(__file__).parent / "fixtures" / "version_0_1_0"
EACH = int(os.environ.get("LINSCORE_FUZZ", "2200")) // 12  # inputs of a reader
SECONDS = 30  # for one input, of a clock that also runs while others have the cores
GROWN = 256 << 10  # KiB of memory, over all inputs of a reader
SETTINGS_OF_A_RUN = asdict(
    Begun(
        **{"student": "linear", "teacher": "model", "text": "../text.txt", "dataset": None, "steps": 5},
        **{"batch_size": 8, "seq_len": None, "learning_rate": 1e-3, "train": "all", "hidden": 1.0, "kl": 1.0},
        **{"lm": 0.0, "dtype": "float32", "before": {"loss": 1.0, "hidden": 2.0, "kl": None, "lm": None}},
    )
)
POSITION = Position(
    **{"batches": 3, "read": "0f", "tokens": 90, "nonfinite_rows": 1, "seconds": 0.5, "device": "cpu"},
    **{
        "weight_sample": [0.5, -1.0],
        "loss": 2.5,
        "guessing": 4.0,
        "curve": [Look(64, [0.5, None], [0.25, 0.1], 0.01)],
        "crowded": ["block.1"],
    },
)
CURVE = b"".join(json.dumps({"step": step, "loss": 1 / step}).encode() + b"\n" for step in range(1, 9))


def report(path):
    found = linscore.Report.load(path)
    path.write_text(found.to_json(), encoding="utf-8")
    assert linscore.Report.load(path) == found
    assert {one.index for one in found.blocks} <= set(range(found.depth))
    score_table(found)
    linscore.rank(found, "block_influence")


def moments(path):
    found, facts = load_moments(path)
    save_moments(path, found, **facts)
    again, told = load_moments(path)
    assert (told, again.keys()) == (facts, found.keys())
    for name, one in found.items():
        assert sum(map(one.rows, range(one.folds))) == sum(map(again[name].rows, range(one.folds))) >= 0


def record(path):
    found = linscore.Record.load(path.parent)
    found.save(path.parent)
    assert linscore.Record.load(path.parent) == found
    assert all(one.stands_for >= 0 for one in found.replacements)


def series(path):
    found = Dynamics.load(path)
    path.write_text(found.to_json(), encoding="utf-8")
    assert Dynamics.load(path) == found
    dynamics_table(found)


def settings(path):
    asked = Begun(**SETTINGS_OF_A_RUN)
    with RunFolder(path.parent, asked, free=("before",)) as run:
        assert asdict(run.resume(Begun)) | {"before": None} == SETTINGS_OF_A_RUN | {"before": None}


def position(path):
    found = read_json(path, Position, damaged="is damaged")
    assert min(found.batches, found.tokens) >= 0


def curve(path):
    found = read_curve(path)
    write_curve(path, found)
    assert read_curve(path) == found


def recipe(path):
    found = read_recipe(path)
    assert Recipe(**asdict(found)) == found


def texts(path):
    for document in read_documents(path):
        "".join(document).encode("utf-8")


def labelled(path):
    options = LabelledOptions(data=str(path), text_field="premise,hypothesis")
    found = labelled_texts(labelled_source(options), text_field=options.text_field)
    assert len(found.texts) == len(found.labels) > 0


def configuration(path):
    assert read_context(str(path.parent)) >= 0


def blocks(path):
    found = parse_blocks(path.read_text(encoding="utf-8", errors="replace"))
    assert all(index >= 0 for index in found)


READERS = {
    "report": (report, "report.json", (FORMER / "score" / "report.json").read_bytes(), JSON),
    "moments": (moments, "moments.safetensors", (FORMER / "score" / "moments.safetensors").read_bytes(), SAFETENSORS),
    "record": (record, "linscore.json", (FORMER / "linear" / "linscore.json").read_bytes(), JSON),
    "series": (series, "dynamics.json", (FORMER / "series" / "dynamics.json").read_bytes(), JSON),
    "settings": (settings, SETTINGS, json.dumps(SETTINGS_OF_A_RUN).encode(), JSON),
    "position": (position, "position.json", json.dumps(asdict(POSITION)).encode(), JSON),
    "curve": (curve, "curve.jsonl", CURVE, JSON),
    "recipe": (recipe, "recipe.yaml", (CONFIGS / "1M.yaml").read_bytes(), PLAIN),
    "texts": (texts, "texts.jsonl", b'{"text": "one"}\n{"text": "two", "more": [1]}\n' * 4, JSON),
    "labelled": (labelled, "labelled.jsonl", (FORMER.parent / "cb.jsonl").read_bytes(), JSON),
    "configuration": (configuration, "config.json", (FORMER / "linear" / "config.json").read_bytes(), JSON),
    "blocks": (blocks, "blocks.txt", b"0-5,7,3-9,12", PLAIN),
}


class HangError(BaseException):
    """Not to be caught by what is read."""


@contextmanager
def soon():
    def stop(*_):
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", READERS)
def test_damage_is_refused_in_one_line_or_does_not_matter(name, tmp_path):
    read, file, content, damages = READERS[name]
    grown, accepted = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    path = tmp_path / file
    for number in range(EACH):
        chance = random.Random(f"{name} {number}")
        changed = chance.choice(damages)(content, chance)
        path.write_bytes(changed)
        try:
            with soon():
                read(path)
            accepted += 1
        except LinscoreError as error:
            assert "\n" not in str(error), (name, number)  # noqa: PT017
        except BaseException as error:
            raise AssertionError(f"{name}, input {number}: {changed[:200]!r}") from error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown < GROWN
    assert accepted < EACH

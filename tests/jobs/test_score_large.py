import pytest
from tiny_models import tiny
from words import tokenizer

from linscore.errors import LinscoreError
from linscore.jobs import score_large
from linscore.jobs.score_large import load_placed
from linscore.machine.processes import Processes
from linscore.models.load import load_pretrained
from linscore.options.place import LargeOptions, PlaceOptions
from linscore.scoring.plan import Placed

PLACE = PlaceOptions(device="cpu")


class Planned:
    """A plan that takes one placement, or none."""

    def __init__(self, placement, weights=1):
        self.placement, self.needs, self.made = placement, self, 0
        self.sizes, self.weights = self, weights

    def __call__(self):
        self.made += 1
        return self

    def check(self):
        if self.placement is None:
            raise LinscoreError("it does not fit")
        return Placed(self.placement, 0, 0, 0, 0, 0, 1, None, None)

    def line(self):
        return f"placement {self.placement}: why"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def tight(monkeypatch):
    """Little memory: nothing fits at first sight."""
    monkeypatch.setattr(score_large, "free_host_memory", lambda: 1)


def test_of_a_small_model_nothing_is_planned_or_said(model, capsys):
    plan = Planned(None)
    loaded, _ = load_placed(model, PLACE, LargeOptions(), plan)
    assert loaded.weights is None
    assert plan.made == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("tight")
def test_a_model_goes_where_its_plan_says_and_that_is_said(model, capsys):
    loaded, streamed = load_placed(model, PLACE, LargeOptions(), Planned("stream"))
    assert loaded.weights is not None
    assert streamed is not None
    assert capsys.readouterr().err == "placement stream: why\n"


@pytest.mark.usefixtures("tight")
@pytest.mark.parametrize(("weights", "said"), [(10**9, "placement whole: why\n"), (10**9 - 1, "")])
def test_of_a_model_that_is_whole_it_is_said_where_it_is_large(model, capsys, weights, said):
    load_placed(model, PLACE, LargeOptions(), Planned("whole", weights))
    assert capsys.readouterr().err == said


@pytest.mark.usefixtures("tight")
def test_what_does_not_fit_is_refused_before_it_is_loaded(model, monkeypatch):
    monkeypatch.setattr(score_large, "load_pretrained", None)
    with pytest.raises(LinscoreError, match="does not fit"):
        load_placed(model, PLACE, LargeOptions(), Planned(None))


@pytest.mark.usefixtures("tight")
def test_what_cannot_be_planned_is_loaded_as_it_is_asked_for(model):
    def plan():
        raise LinscoreError("it does not run without its weights")

    assert load_placed(model, PLACE, LargeOptions(), plan).loaded.weights is None
    assert load_placed(model, PLACE, LargeOptions(placement="stream"), plan).loaded.weights is not None


@pytest.mark.usefixtures("tight")
def test_several_processes_have_the_model_whole(model):
    plan = Planned("stream")
    assert load_placed(model, PLACE, LargeOptions(), plan, processes=Processes(0, 2)).loaded.weights is None
    assert plan.made == 0


@pytest.mark.usefixtures("tight")
def test_a_family_that_cannot_stream_is_spread_with_its_reason(model, monkeypatch, capsys):
    asked = []

    def load(_name, *, placement, **_place):
        asked.append(placement)
        return load_pretrained(model, placement=placement, device="cpu")

    def refuse(_loaded, *_how):
        raise LinscoreError("m: blocks share memory, so it cannot run one block at a time: give `placement=map`")

    monkeypatch.setattr(score_large, "load_pretrained", load)
    monkeypatch.setattr(score_large, "_stream_of", refuse)
    load_placed(model, PLACE, LargeOptions(), Planned("stream"))
    assert asked == ["stream", "map"]
    assert capsys.readouterr().err.splitlines()[1].endswith("one block at a time; placement map")

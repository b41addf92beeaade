import json

import pytest
from commands import refused
from tiny_models import tiny


@pytest.fixture(scope="module")
def config_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs") / "tiny"
    tiny("llama").config.save_pretrained(folder)  # without weights or tokenizer
    return str(folder)


def test_a_configuration_is_enough(run, config_folder):
    code, printed, _ = run("plan", config_folder, "--devices", "8xH100", "--tokens", "1000000", "--dtype", "bfloat16")
    assert code == 0
    for expected in ("3 blocks of width 32", "bfloat16", "8 × H100", "placement  whole: all of it fits", "estimate"):
        assert expected in printed


def test_json_holds_every_figure(run, config_folder):
    options = "--tokens 4096 --seq-len 16 --batch-size 4 --folds 4 --for spans --json"
    code, printed, _ = run("plan", config_folder, *options.split())
    plan = json.loads(printed)
    assert code == 0
    assert (plan["placement"], plan["sequences"], plan["length"], plan["tokens"]) == ("whole", 4, 16, 4096)
    assert [way["placement"] for way in plan["ways"]] == ["whole", "map", "stream"]
    figures = 8 * (32 * 64 + 2 * 32 + 1)
    assert plan["needs"]["moments"] == pytest.approx(6 * 4 * figures, rel=0.01)  # 3 blocks, the last state, 2 spans
    assert plan["needs"]["sizes"]["parameters"] == 3 * 7744 + 2 * 64 * 32 + 32


def test_what_cannot_be_used_is_refused_in_one_line(run, config_folder, tmp_path):
    refused(run("plan", config_folder, "--devices", "8xH1"), "--devices 8xH1", "H100")
    refused(run("plan", config_folder, "--placement", "pile"), "--placement", "auto, whole, map, stream")
    refused(run("plan", config_folder, "--seq-len", "65"), "--seq-len 65", "64 tokens")
    refused(run("plan", str(tmp_path)), "holds no")


def test_a_plan_that_fits_nowhere_is_still_shown(run, config_folder, monkeypatch):
    monkeypatch.setattr("linscore.machine.devices.free_host_memory", lambda: 1000)
    code, printed, _ = run("plan", config_folder, "--devices", "cpu")
    assert code == 0
    assert "placement  none fits:" in printed
    assert "--folds" in printed

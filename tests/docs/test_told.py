"""What pages say by hand of options, warnings and names is what there is."""

import re
from pathlib import Path

import click
import pytest

import linscore
from linscore.cli import cli
from linscore.pretraining.recipe import CONFIGS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CALL = re.compile(r"(?:^|[`$] ?|-m )linscore ([a-z][a-z-]*)((?: [^`#\n]*)?)", re.MULTILINE)


def text(path):
    return path.read_text(encoding="utf-8").replace("\\\n", " ")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_of_a_page_have_the_options_that_it_gives_them(page):
    for name, rest in CALL.findall(re.sub(r"^ {4}", "", text(page), flags=re.MULTILINE)):
        if name in cli.commands:
            flags = {flag for one in cli.commands[name].params if isinstance(one, click.Option) for flag in one.opts}
            assert set(re.findall(r"(?<= )--[a-z][a-z-]*", rest)) <= {*flags, "--help", "--version"}, (name, rest)
        else:
            assert rest == "" or not rest.startswith(" --"), f"{page}: linscore {name} is no command"


def test_every_command_and_every_public_name_has_its_line():
    commands = re.findall(r"^\| `([a-z-]+)` \|", text(ROOT / "docs/cli.md"), re.MULTILINE)
    assert set(cli.commands) <= set(commands)
    names = re.findall(r"^\| `(\w+)` \|", text(ROOT / "docs/python.md"), re.MULTILINE)
    assert set(linscore.__all__) <= set(names)


def test_every_kind_of_warning_is_explained():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "linscore").rglob("*.py"))
    kinds = set(re.findall(r'ScoreWarning\(\s*"(\w+)"', source))
    checks = (ROOT / "linscore/scoring/warnings.py").read_text(encoding="utf-8").partition("_CHECKS:")[2]
    kinds |= set(re.findall(r'\(\s*"(\w+)",\s*(?:lambda|_)', checks))
    assert len(kinds) > 10
    page = text(ROOT / "docs/howto/errors.md")
    assert {kind for kind in kinds if f"`{kind}`" not in page} == set()


def test_recipes_that_ship_are_named():
    page = text(ROOT / "docs/cli.md")
    assert {path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in page} == set()

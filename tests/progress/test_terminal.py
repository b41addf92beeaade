"""How figures look in a terminal, and plainly."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from linscore.terminal import BARS, bar, plainly, show, sparkline


def test_a_sparkline_goes_from_the_lowest_to_the_highest():
    assert sparkline([0.0, 0.5, None, 1.0]) == "▁▅ █"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([None, None]) == "  "
    assert sparkline([]) == ""


def test_plain_tables_are_lines_with_tabs(capsys):
    table = Table(title="a title")
    table.add_column("block")
    table.add_column("share", style=BARS)
    table.add_column("score", justify="right")
    table.add_row("0", bar(0.5), Text("0.5"))
    table.add_row("1-2", bar(1.0), "two\nlines")
    with plainly():
        show(Group(table, Text("a note", style="dim")))
    assert capsys.readouterr().out == "a title\nblock\tscore\n0\t0.5\n1-2\ttwo lines\na note\n"
    show(table)
    assert "━" in capsys.readouterr().out

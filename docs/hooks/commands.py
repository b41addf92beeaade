"""The page of every command, from what click itself prints: usage, meaning, and each option with its default."""

from __future__ import annotations

import inspect
import re

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from linscore.cli import COMMANDS, cli

PAGE = "commands.md"
HEAD = """# Every command

What `linscore COMMAND --help` prints, made from the same declarations. How the commands work together is in
[From the command line](cli.md).

"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, PAGE, content=HEAD + "\n".join(section(one) for one in COMMANDS)))
    return files


def section(command: click.Command) -> str:
    """One command: a heading, how it is called, what it does, a table of its options."""
    context = click.Context(command, info_name=command.name, parent=click.Context(cli, info_name="linscore"))
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    meaning = re.sub(r"\x08\n?", "", inspect.cleandoc(command.help or ""))
    options = [one for one in command.params if isinstance(one, click.Option)]
    rows = [record for one in options if (record := one.get_help_record(context))]
    table = "".join(f"| `{names}` | {plain(text)} |\n" for names, text in rows)
    return f"## {command.name}\n\n```text\n{usage}\n```\n\n{plain(meaning)}\n\n| option | meaning |\n|---|---|\n{table}"


def plain(text: str) -> str:
    """Text in which Markdown finds nothing of its own but code between backticks."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*_<|\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)

"""What a user can mend: the message says what was wrong and what to do, in one line; the CLI exits with 2."""


class LinscoreError(ValueError):
    """Bad input: a path, a model, a text, an option or a file that cannot be used as given."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with one line that says how to go on."""


def reason(error: Exception) -> str:
    """The message of a foreign error in one line of moderate length."""
    return " ".join(str(error).split())[:200] or type(error).__name__

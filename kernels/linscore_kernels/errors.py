"""What a caller can mend, by whichever layer noticed: one class for the kernels and for linscore, free of torch."""


class LinscoreError(ValueError):
    """Bad input; the message says what was wrong and what to do, in one line.

    A path, a model, a text, an option, a file or a tensor that cannot be used as given.

    Examples:
        >>> linscore_kernels.centered_gram(x, y[:-1])
        Traceback (most recent call last):
        linscore_kernels.errors.LinscoreError: ...
    """

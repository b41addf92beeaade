"""Functions of other tools under their own names."""

"""The commands of the command line as functions: from names and paths to saved results."""

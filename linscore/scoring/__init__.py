"""A decoder and batches of tokens in, a report out."""

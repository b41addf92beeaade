"""The scores of a series of checkpoints."""

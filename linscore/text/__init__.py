"""From what the user names to batches of token ids."""

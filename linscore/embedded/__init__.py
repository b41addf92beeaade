"""The decoder and the held-out text that ship with linscore, and the script that trained it (see NOTICE)."""

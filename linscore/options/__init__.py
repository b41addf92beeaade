"""What can be asked of linscore: every option once, with its default and what it means."""

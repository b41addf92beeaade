"""One HTML file of what was measured, to look at: no network, no other file."""

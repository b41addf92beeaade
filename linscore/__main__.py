"""`python -m linscore`, and `torchrun -m linscore` for several processes."""

from linscore.cli import main

main()

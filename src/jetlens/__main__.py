"""``python -m jetlens`` is the command ``jetlens``."""

from jetlens.cli import main

main()

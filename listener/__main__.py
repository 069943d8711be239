"""``python -m listener``: the same as the console script ``listener``."""

from listener.cli import app

app()

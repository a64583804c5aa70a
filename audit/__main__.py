"""``python -m audit``: the log's commands alone."""

from .cli import app

if __name__ == "__main__":
    app(prog_name="python -m audit")

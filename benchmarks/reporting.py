"""What the benchmarks share about results: the stamp, the table for people, the JSON file.

torch is not imported here: benchmarks/memory.py measures children of a small process.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from pipelines.provenance import provenance

RESULTS = Path(__file__).parent / "results"


def speed_options(doc, *, pairs, size=224):
    """A parser with the options of every speed benchmark and their defaults; no size, no images."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if size is not None:
        parser.add_argument("--size", type=int, default=size, help="side of the images in pixels")
    parser.add_argument("--pairs", type=count, default=pairs, help="measurements of each row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write results/NAME.json, too")
    return parser


def count(text):
    """A whole number of at least 1, from the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}.")
    return value


def stamp(name, options):
    """What a result begins with; taken before the measurement changes anything."""
    return {
        "benchmark": name,
        **provenance(),
        "load_average": os.getloadavg()[0],
        "options": {key: value for key, value in vars(options).items() if key != "save"},
    }


def publish(result, lines, *, save):
    """The lines to stderr, the JSON to stdout, and to results/NAME.json where it is kept."""
    sys.stderr.write("\n".join(["", *lines, ""]))
    sys.stdout.write(json.dumps(result) + "\n")
    if save:
        write_result(RESULTS / f"{result['benchmark']}.json", result)


def write_result(path, result):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")

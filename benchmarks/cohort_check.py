"""Time and memory of checking a large table, many rows of which name few files.

    make bench NAME=cohort-check

Each size in a fresh process, with its readers: seconds from the start of the check, and the growth
of the process's own peak memory. The readers' memory does not depend on the table.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from memory import forget_peak, peak_mib
from PIL import Image
from reporting import publish, speed_options, stamp

FILES = 20


def write_table(folder, rows):
    for number in range(FILES):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    with (folder / "cohort.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "label", "patient_id", "split"])
        for row in range(rows):
            number = row % FILES
            split = ("train", "val", "test", "train")[number // 5]
            writer.writerow([f"{number}.png", "ab"[number % 2], f"P{number}", split])
    return folder / "cohort.csv"


def run_case(rows):
    """In the child: prints seconds and the growth of memory in MiB."""
    from medproto.data import Cohort, check_cohort

    with tempfile.TemporaryDirectory() as name:
        path = write_table(Path(name), rows)
        forget_peak()
        before, start = peak_mib(), time.perf_counter()
        report = check_cohort(Cohort.read(path))
        seconds = time.perf_counter() - start
    if not report.ok or report.n != rows:
        sys.exit(f"the check must find nothing in {rows} rows, got {report.problems[:1]}.")
    sys.stdout.write(json.dumps({"seconds": seconds, "mib": peak_mib() - before}))


def measure(rows):
    """In the parent: a case in a process of its own."""
    command = [sys.executable, Path(__file__), "--case", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{rows} rows failed:\n{done.stderr}")
    return {"rows": rows, **json.loads(done.stdout)}


def main(arguments=None):
    parser = speed_options(__doc__, pairs=1, size=None)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--case", type=int, help="for the children")
    options = parser.parse_args(arguments)
    if options.case is not None:
        return run_case(options.case)
    del options.case
    result = stamp("cohort_check", options)
    result["rows"] = found = [measure(rows) for rows in options.rows]
    lines = [f"{'rows':>9}{'seconds':>10}{'MiB':>9}{'kB a row':>11}"]
    lines += [
        f"{case['rows']:>9}{case['seconds']:>10.1f}{case['mib']:>9.1f}"
        f"{1024 * case['mib'] / case['rows']:>11.2f}"
        for case in found
    ]
    return publish(result, lines, save=options.save)


if __name__ == "__main__":
    main()

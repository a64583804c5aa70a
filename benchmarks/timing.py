"""Timing of two pieces of work against each other, so that a drifting machine does not decide.

Both run in turn in one process, and each pair gives its own ratio; who goes first changes from pair
to pair. A first run of each is thrown away.
"""

import statistics
import time

BOUNDS = {"at_most": "<= {:g}", "at_least": ">= {:g}", "target_at_least": "target >= {:g}"}


def seconds(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def timed_pairs(own, reference, count):
    """Seconds (own, reference), `count` times."""
    own()
    reference()
    pairs = []
    for turn in range(count):
        if turn % 2:
            late = seconds(reference)
            pairs.append((seconds(own), late))
        else:
            pairs.append((seconds(own), seconds(reference)))
    return pairs


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def row(name, pairs, *, times_faster=False, reference_times=1, **bounds):
    """One row of a result.

    Args:
        name: what was measured.
        pairs: seconds (own, reference).
        times_faster: the ratio is reference / own, otherwise own / reference.
        reference_times: the reference in full takes so many times what was measured.
        bounds: of the median ratio, by the names in BOUNDS.
    """
    full = [(own, reference * reference_times) for own, reference in pairs]
    ratios = [b / a if times_faster else a / b for a, b in full]
    return {
        "name": name,
        "seconds": spread([a for a, _ in full]),
        "reference_seconds": spread([b for _, b in full]),
        "ratio": spread(ratios),
        "pairs": len(full),
        **bounds,
    }


def table(rows, *, own, reference):
    """Lines of the table of such rows; `own` and `reference` head the columns of seconds."""
    width = max(len(found["name"]) for found in rows) + 2
    lines = [
        f"{'':<{width}}{own:>14}{reference:>16}{'ratio':>10}{'min':>9}{'max':>9}   contract",
    ]
    for found in rows:
        ratio = found["ratio"]
        bounds = [text.format(found[key]) for key, text in BOUNDS.items() if key in found]
        lines.append(
            f"{found['name']:<{width}}{found['seconds']['median']:>12.4f} s"
            f"{found['reference_seconds']['median']:>14.4f} s{ratio['median']:>10.3f}"
            f"{ratio['min']:>9.3f}{ratio['max']:>9.3f}   {' '.join(bounds)}".rstrip()
        )
    return lines

"""Peak memory of training steps and of projection, each case in a fresh process.

    make bench NAME=memory
    .venv/bin/python benchmarks/memory.py --size 64 --counts 50 100 --networks efficientnet_lite0

What a case reports is the growth of its process's peak memory over the state before the first step
(before the first batch of a projection): network, libraries and held images are in neither.
Training: a few steps of the prototype network against as many of the bare classifier. Projection:
images drawn when they are asked for and not kept, many of them against few.

The children's allocator (glibc's) is told to give large blocks back at once. By default it adapts
to what came before, and the peak of one and the same case differs by 10 % from run to run.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from reporting import publish, speed_options, stamp
from timing import spread

MIB = 2**20 if sys.platform == "darwin" else 2**10  # of the unit of ru_maxrss


ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_ARENA_MAX": "1"}


def peak_mib():
    """The peak so far. On Linux ru_maxrss begins at that of the parent process, VmHWM does not."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**10  # given in kB


def forget_peak():
    """Let the peak begin at what is in use now; on Linux alone."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def training_case(kind, name, options):
    from step import batch, classifier_trainer, prototype_trainer
    from synthetic import prototype_network

    network = prototype_network(name, options.size)
    trainers = {"prototypes": prototype_trainer, "classifier": classifier_trainer}
    work = trainers[kind](network, *batch(options.size, options.batch), "float32")
    return lambda: [work() for _ in range(options.steps)]


def projection_case(count, name, options):
    from synthetic import image_set, prototype_network

    from medproto.projection import project_prototypes
    from pipelines.inference import BATCH

    images = image_set(count, options.size, held=False)
    network = prototype_network(name, options.size).eval()
    return lambda: project_prototypes(network, images.batches(BATCH), images.image)


def run_case(case, options):
    """In the child: prints the growth in MiB."""
    import torch

    torch.set_num_threads(options.threads)
    kind, name, *count = case.split(":")
    if kind == "projection":
        work = projection_case(int(count[0]), name, options)
    else:
        work = training_case(kind, name, options)
    forget_peak()
    before = peak_mib()
    work()
    sys.stdout.write(json.dumps({"before": before, "growth": peak_mib() - before}))


def growth(case, arguments):
    """In the parent: the growth in MiB of a case in a process of its own."""
    command = [sys.executable, Path(__file__), *arguments, "--case", case]
    environment = {**os.environ, **ALLOCATOR}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"case {case} failed:\n{done.stderr}")
    return json.loads(done.stdout)["growth"]


def compare(name, own, reference, arguments, rounds, **contract):
    """One row: cases in turn, each a fresh process."""
    pairs = [(growth(own, arguments), growth(reference, arguments)) for _ in range(rounds)]
    return {
        "name": name,
        "mib": spread([a for a, _ in pairs]),
        "reference_mib": spread([b for _, b in pairs]),
        "ratio": spread([a / b for a, b in pairs]),
        "pairs": rounds,
        **contract,
    }


def lines_of(rows):
    width = max(len(found["name"]) for found in rows) + 2
    lines = [f"{'':<{width}}{'MiB':>9}{'reference':>11}{'ratio':>9}{'min':>8}{'max':>8}   contract"]
    for found in rows:
        ratio = found["ratio"]
        bounds = f"{found['at_least']:g} to " if "at_least" in found else "<= "
        lines.append(
            f"{found['name']:<{width}}{found['mib']['median']:>9.1f}"
            f"{found['reference_mib']['median']:>11.1f}{ratio['median']:>9.3f}"
            f"{ratio['min']:>8.3f}{ratio['max']:>8.3f}   {bounds}{found['at_most']:g}"
        )
    return lines


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = speed_options(__doc__, pairs=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs=2, default=[500, 5000], metavar=("FEW", "MANY"))
    names = ["efficientnet_lite0", "densenet121"]
    parser.add_argument("--networks", nargs="+", choices=names, default=names)
    parser.add_argument("--case", help="for the children")
    options = parser.parse_args(arguments)
    if options.case is not None:
        return run_case(options.case, options)
    del options.case
    result = {**stamp("memory", options), "allocator": ALLOCATOR}
    few, many = options.counts
    rows = [
        compare(
            f"training step, {name}",
            f"prototypes:{name}",
            f"classifier:{name}",
            arguments,
            options.pairs,
            at_most=1.15,
        )
        for name in options.networks
    ]
    rows.append(
        compare(
            f"projection, {many} against {few} images",
            f"projection:{options.networks[0]}:{many}",
            f"projection:{options.networks[0]}:{few}",
            arguments,
            options.pairs,
            at_least=0.95,
            at_most=1.05,
        )
    )
    result["rows"] = rows
    publish(result, lines_of(rows), save=options.save)
    return result


if __name__ == "__main__":
    main()

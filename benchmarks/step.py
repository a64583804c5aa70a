"""Training step of the prototype network against that of the bare classifier, same features.

    make bench NAME=step
    .venv/bin/python benchmarks/step.py --size 64 --pairs 2 --networks efficientnet_lite0

A step: forward pass, loss (cross-entropy; for prototypes cluster and separation cost, too),
backward pass, optimizer. What learns and what is in evaluation mode is as in the schedule. With
bf16 forward pass and loss run under autocast; distances and similarities stay float32.
"""

import copy

import torch
from reporting import publish, speed_options, stamp
from synthetic import NETWORKS, image_set, prototype_network
from timing import row, table, timed_pairs

from medproto.networks import PlainClassifier
from pipelines.allocator import keep_freed_memory
from pipelines.annotations import MarkedPatch
from pipelines.config_sections import TrainingConfig
from pipelines.objective import classifier_step, prototype_step
from pipelines.patch_cost import PatchCost
from pipelines.schedule import Step

TRAINING = TrainingConfig()
FEATURES, JOINT = Step(0, "features", 1), Step(0, "joint", 1)
FORBIDDEN = 10  # images with a forbidden patch


def trainer(model, step, objective, images, labels, dtype):
    """The work of one step on a batch, as the engine does it."""
    groups = step.parameter_groups(model, TRAINING)
    learning = {id(parameter) for group in groups for parameter in group["params"]}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in learning)
    optimizer = step.optimizer(groups)

    def work():
        model.train()
        for module in step.frozen(model):
            module.eval()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
            loss = objective(images, labels)["loss"]
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return work


def prototype_trainer(network, images, labels, dtype, *, patches=None, step=JOINT):
    objective = prototype_step(
        network,
        cluster=TRAINING.cluster,
        separation=TRAINING.separation,
        class_weights=None,
        patches=patches,
    )
    return trainer(network, step, objective, images, labels, dtype)


def classifier_trainer(network, images, labels, dtype):
    classifier = PlainClassifier(copy.deepcopy(network)).to(memory_format=torch.channels_last)
    objective = classifier_step(classifier, network.head, None)
    return trainer(classifier, FEATURES, objective, images, labels, dtype)


def batch(size, count):
    images, labels, *_ = next(image_set(count, size).batches(count))
    return images.contiguous(memory_format=torch.channels_last), torch.tensor(labels)


def forbidden(network, size, at_most):
    """The cost of patches in the middle of some images: they pass the network a second time."""
    corner, end = (size / 4,) * 2, (size / 2,) * 2
    images = image_set(FORBIDDEN, size)
    marked = [MarkedPatch(row, corner, end, 1, "forbid") for row in range(FORBIDDEN)]
    return PatchCost(network, marked, images, forbid=0.1, keep=0.0, at_most=at_most)


def measure(name, dtype, options):
    network = prototype_network(name, options.size, prototypes=options.prototypes)
    images, labels = batch(options.size, options.batch)
    bare = classifier_trainer(network, images, labels, dtype)
    plain = copy.deepcopy(network)
    own = prototype_trainer(plain, images, labels, dtype)
    yield row(f"{name}, {dtype}", timed_pairs(own, bare, options.pairs), at_most=1.10)
    cost = forbidden(network, options.size, options.batch)
    marked = prototype_trainer(network, images, labels, dtype, patches=cost)
    yield row(
        f"{name}, {dtype}, {FORBIDDEN} forbidden patches (second pass)",
        timed_pairs(marked, bare, options.pairs),
    )


def main(arguments=None):
    parser = speed_options(__doc__, pairs=10)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prototypes", type=int, default=20)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        "--dtypes", nargs="+", choices=("float32", "bf16"), default=["float32", "bf16"]
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    result = stamp("step", options)
    result["rows"] = [
        found
        for name in options.networks
        for dtype in options.dtypes
        for found in measure(name, dtype, options)
    ]
    publish(
        result, table(result["rows"], own="prototypes", reference="classifier"), save=options.save
    )
    return result


if __name__ == "__main__":
    main()

"""The published baselines, slowly: lists of single weights, plain backward passes, and bisection."""

import torch


def conv_weights(model):
    return {
        f"{path}.weight": layer.weight
        for path, layer in model.named_modules()
        if isinstance(layer, torch.nn.Conv2d)
    }


def listed(scores):
    """Return (score, name, place) of every entry, the highest first and equal ones in their order."""
    flat = [
        (float(v), name, i)
        for name, values in scores.items()
        for i, v in enumerate(values.detach().flatten())
    ]
    return sorted(flat, key=lambda entry: -entry[0])


def keep_top(scores, count):
    """Return masks of the `count` highest entries."""
    kept = {(name, place) for _, name, place in listed(scores)[:count]}
    return {
        name: torch.tensor([(name, i) in kept for i in range(values.numel())]).reshape(values.shape)
        for name, values in scores.items()
    }


def snip(model, losses):
    """Return |w dL/dw| by a derivative with respect to masks of ones, as SNIP defines it, averaged over batches."""
    weights = conv_weights(model)
    totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    batches = 0
    for loss in losses(model):
        batches += 1
        total = sum(loss.values()) if isinstance(loss, dict) else loss
        gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is not None:
                totals[name] += (gradient * weight).abs().detach()
    return {name: total / batches for name, total in totals.items()}


def by_task(model, losses, power=1):
    """Return |dL_t/dw| |w|^power of each task, without what the task does not use."""
    weights = conv_weights(model)
    totals, batches = {}, 0
    for batch in losses(model):
        batches += 1
        for task, loss in batch.items():
            own = totals.setdefault(task, {})
            gradients = torch.autograd.grad(
                loss, list(weights.values()), allow_unused=True, retain_graph=True
            )
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                if gradient is not None:
                    own[name] = own.get(name, 0) + (gradient.abs() * weight.abs() ** power).detach()
    return {task: {name: v / batches for name, v in own.items()} for task, own in totals.items()}


def disparse(tasks, names_and_shapes, wanted):
    """Return the union of the tasks' top fractions, the fraction by bisection, and the least one that is enough.

    Where the last step adds more than is wanted, the result is None in place of the masks.
    """

    def union(kappa):
        kept = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in names_and_shapes.items()}
        for scores in tasks.values():
            size = sum(values.numel() for values in scores.values())
            for name, mask in keep_top(scores, int(kappa * size + 1e-9)).items():
                kept[name] |= mask
        return kept

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if sum(int(mask.sum()) for mask in union(middle).values()) >= wanted:
            high = middle
        else:
            low = middle
    kept = union(high)
    return (kept if sum(int(mask.sum()) for mask in kept.values()) == wanted else None), high

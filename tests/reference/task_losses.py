"""Training losses written as loops over entries in NumPy, one number at a time."""

import math

import numpy as np


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _binary_cross_entropy(logit: float, target: float) -> float:
    p = _sigmoid(logit)
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def _huber(difference: float, delta: float) -> float:
    size = abs(difference)
    return 0.5 * size**2 if size <= delta else delta * (size - 0.5 * delta)


def _is_labelled(kind: str, value: float) -> bool:
    if kind == "depth":
        return value > 0 and math.isfinite(value)
    if kind == "regression":
        return not math.isnan(value)
    return value >= 0


def cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothing: float = 0.0) -> tuple[float, float]:
    """Sum and count over labels; the classes are axis 1 of ``logits``."""
    total, count = 0.0, 0
    classes = logits.shape[1]
    rows = np.moveaxis(logits, 1, -1).reshape(-1, classes)
    for row, label in zip(rows, labels.ravel(), strict=True):
        if label < 0:
            continue
        log_sum = math.log(sum(math.exp(x) for x in row))
        for c in range(classes):
            wanted = smoothing / classes + (1 - smoothing) * (c == label)
            total -= wanted * (row[c] - log_sum)
        count += 1
    return total, count


def entrywise(
    kind: str, name: str, prediction: np.ndarray, target: np.ndarray, delta: float = 1.0
) -> tuple[float, float]:
    """Sum and count of l1, mse, huber or bce over labelled entries."""
    total, count = 0.0, 0
    for p, t in zip(prediction.ravel(), target.ravel(), strict=True):
        if not _is_labelled(kind, t):
            continue
        count += 1
        if name == "bce":
            total += _binary_cross_entropy(p, t)
            continue
        value = _sigmoid(p) if kind in ("edges", "keypoints", "multilabel") else p
        difference = value - t
        total += {"l1": abs(difference), "mse": difference**2, "huber": _huber(difference, delta)}[name]
    return total, count


def cosine(prediction: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Sum and count of one minus cosine over pixels with a normal."""
    total, count = 0.0, 0
    rows = (np.moveaxis(vectors, 1, -1).reshape(-1, 3) for vectors in (prediction, target))
    for p, t in zip(*rows, strict=True):
        if np.any(t):
            total += 1 - np.dot(p, t) / (np.linalg.norm(p) * np.linalg.norm(t))
            count += 1
    return total, count


def balanced_binary_cross_entropy(logits: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Sum and total weight, positives weighing the share of negatives of their image and vice versa."""
    total, weight = 0.0, 0.0
    for image_logits, image_target in zip(logits, target, strict=True):
        pairs = [(x, t) for x, t in zip(image_logits.ravel(), image_target.ravel(), strict=True) if t >= 0]
        negatives = sum(t == 0 for _, t in pairs)
        for x, t in pairs:
            beta = negatives / len(pairs) if t == 1 else 1 - negatives / len(pairs)
            total += beta * _binary_cross_entropy(x, t)
            weight += beta
    return total, weight

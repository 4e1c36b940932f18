"""Task metrics over a whole set at once: scikit-learn where it has them, else plain NumPy."""

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _labels(logits: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    valid = target >= 0
    return logits.argmax(1)[valid], target[valid]


def segmentation(logits: np.ndarray, target: np.ndarray) -> dict[str, float]:
    predicted, there = _labels(logits, target)
    matrix = confusion_matrix(there, predicted, labels=range(logits.shape[1]))
    ious = []
    for c in range(len(matrix)):
        union = matrix[c].sum() + matrix[:, c].sum() - matrix[c, c]
        if union:
            ious.append(matrix[c, c] / union)
    return {"miou": np.mean(ious), "pixel_accuracy": accuracy_score(there, predicted)}


def classification(logits: np.ndarray, target: np.ndarray) -> dict[str, float]:
    predicted, there = _labels(logits, target)
    return {
        "accuracy": accuracy_score(there, predicted),
        "macro_f1": f1_score(there, predicted, average="macro"),
    }


def multilabel(logits: np.ndarray, target: np.ndarray) -> dict[str, float]:
    scores, right, count = [], 0, 0
    for x, t in zip(logits.T, target.T, strict=True):
        valid = t >= 0
        predicted, there = _sigmoid(x[valid]) > 0.5, t[valid] == 1
        if predicted.any() or there.any():
            scores.append(f1_score(there, predicted))
        right += (predicted == there).sum()
        count += valid.sum()
    return {"macro_f1": np.mean(scores), "accuracy": right / count}


def depth(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    valid = (target > 0) & np.isfinite(target)
    p, t = prediction[valid], target[valid]
    clamped = np.maximum(p, 1e-3)
    ratio = np.maximum(clamped / t, t / clamped)
    return {
        "abs_error": np.mean(np.abs(p - t)),
        "rel_error": np.mean(np.abs(p - t) / t),
        "rmse": np.sqrt(np.mean((p - t) ** 2)),
        "delta1": np.mean(ratio < 1.25),
        "delta2": np.mean(ratio < 1.25**2),
        "delta3": np.mean(ratio < 1.25**3),
    }


def normals(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    p = np.moveaxis(prediction, 1, -1).reshape(-1, 3).astype(np.float64)
    t = np.moveaxis(target, 1, -1).reshape(-1, 3).astype(np.float64)
    valid = t.any(axis=1)
    p, t = p[valid], t[valid]
    cosine = (p * t).sum(1) / (np.linalg.norm(p, axis=1) * np.linalg.norm(t, axis=1))
    angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return {
        "mean_deg": angles.mean(),
        "median_deg": np.median(angles),
        "within_11.25": np.mean(angles < 11.25),
        "within_22.5": np.mean(angles < 22.5),
        "within_30": np.mean(angles < 30),
    }


def edges(logits: np.ndarray, target: np.ndarray, bins: int = 1024) -> dict[str, float]:
    valid = target >= 0
    scores, there = _sigmoid(logits[valid]), target[valid]
    rounded = np.floor(scores * bins) / bins
    f_scores = [f1_score(there, rounded >= threshold) for threshold in np.unique(rounded)]
    return {
        "ods_f": max(f_scores),
        "ap": average_precision_score(there, rounded),
        "mae": mean_absolute_error(there, scores),
    }


def keypoints(logits: np.ndarray, target: np.ndarray) -> dict[str, float]:
    valid = target >= 0
    scores, heat = _sigmoid(logits[valid]), target[valid]
    return {"mae": mean_absolute_error(heat, scores), "rmse": mean_squared_error(heat, scores) ** 0.5}


def regression(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    valid = ~np.isnan(target)
    columns = zip(prediction.T, target.T, valid.T, strict=True)
    return {
        "mae": mean_absolute_error(target[valid], prediction[valid]),
        "rmse": mean_squared_error(target[valid], prediction[valid]) ** 0.5,
        "r2": np.mean([r2_score(t[v], p[v]) for p, t, v in columns]),
    }

"""Global choice of channels, removing one block after the other and counting every time."""

import torch


def choose(structure, scores, cost, budget, divisor, least):
    """Return the widths and masks after the least removal in the order of blocks' mean scores.

    `least` is the smallest width by name. Blocks come back, the last one first, while `cost` stays in `budget`.
    """
    keep = {c.name: torch.ones(c.count, dtype=torch.bool) for c in structure.prunable}
    history = []
    while cost(keep) > budget:
        block = _lowest(structure, keep, scores, divisor, least)
        if block is None:
            return None
        history.append(block)
        keep[block[0]][block[1]] = False
    for name, channels in reversed(history):
        # A block comes back only where no later one of the same layer stayed away.
        later = [
            c for other, cs in history[history.index((name, channels)) + 1 :] if other == name for c in cs
        ]
        if all(keep[name][c] for c in later):
            keep[name][channels] = True
            if cost(keep) > budget:
                keep[name][channels] = False
    return keep


def _lowest(structure, keep, scores, divisor, least):
    found = []
    for place, coupled in enumerate(structure.prunable):
        left = [c for c in range(coupled.count) if keep[coupled.name][c]]
        size = len(left) % divisor or divisor
        if len(left) - size >= max(least[coupled.name], 1):
            score = scores[coupled.name]
            block = sorted(left, key=lambda c: (float(score[c]), -c))[:size]
            found.append((sum(float(score[c]) for c in block) / size, place, coupled.name, block))
    return min(found)[2:] if found else None

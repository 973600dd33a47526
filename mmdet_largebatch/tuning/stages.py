"""The stages of halving, from many short branches to few whole ones."""

import math

# Updates of the shortest stage. The shortest decay has half of them: branches are compared in 10
# blocks of the second half of their updates.
SHORTEST = 40


def stages(count: int, updates: int, decay: int) -> list[tuple[int, int, int]]:
    """Return the stages of halving.

    Args:
        count (int): Branches.
        updates (int): Updates of a whole branch.
        decay (int): Updates after its LR decay; 0 for none.

    Returns:
        list[tuple[int, int, int]]: For each stage the number of branches, the update at which it
        ends, and the updates after the LR decay. Each stage has half the branches of the stage
        before, rounded up, and twice the updates.

    Example:
        >>> stages(7, 200, 60)
        [(7, 50, 20), (4, 100, 30), (2, 200, 60)]
    """
    counts = [count]
    while counts[-1] > 2 and updates / 2 ** len(counts) >= SHORTEST:
        counts.append(math.ceil(counts[-1] / 2))
    least = min(decay, SHORTEST // 2)
    shorter = [2 ** (len(counts) - 1 - index) for index in range(len(counts))]
    return [
        (kept, updates // factor, max(least, decay // factor))
        for kept, factor in zip(counts, shorter, strict=True)
    ]

"""The loops that pitches are found in, compiled as those of ``compiled`` are."""

from typing import no_type_check

import numpy as np

from audiovae.compiled import compile_loop


@compile_loop
@no_type_check
def greatest_harmonic_sums(partials, pitches, above, weights, greatest):
    """Raises ``greatest [frames]`` to the weighted sum of the harmonics in ``partials [steps, frames]`` of any pitch.

    The first so many steps are pitches, and harmonics are ``above`` them; beyond the last step is nothing.
    """
    total = np.empty(partials.shape[1], np.float32)
    for pitch in range(pitches):
        total[:] = 0
        for h in range(len(above)):
            if pitch + above[h] < len(partials):
                row, weight = partials[pitch + above[h]], weights[h]
                for i in range(len(total)):
                    total[i] += weight * row[i]
        for i in range(len(total)):
            greatest[i] = max(greatest[i], total[i])


@compile_loop
@no_type_check
def best_way(worth, step_cost, jump_cost, total, came_from):
    """Fills ``came_from [frames, places]``: where the way to each place that is worth most was a frame before.

    A way costs so much for each step that it moves, but no more than a jump. ``total [places]`` begins as the first
    frame's worth and ends as that of the whole ways.
    """
    places = len(total)
    for t in range(1, len(worth)):
        before, top = came_from[t], np.argmax(total)
        jumped = total[top] - jump_cost
        for k in range(places):
            before[k] = k
        for k in range(1, places):
            if total[k - 1] - step_cost > total[k]:
                total[k], before[k] = total[k - 1] - step_cost, before[k - 1]
        for k in range(places - 2, -1, -1):
            if total[k + 1] - step_cost > total[k]:
                total[k], before[k] = total[k + 1] - step_cost, before[k + 1]
        for k in range(places):
            if jumped > total[k]:
                total[k], before[k] = jumped, top
            total[k] += worth[t, k]

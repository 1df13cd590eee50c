"""Level replay in plain NumPy: one loop per sentence of the papers, no vectorisation.

Nothing here shares code with the package, so agreement means something.
"""

import math

import numpy as np

# --- Scores of one batch of rollouts -------------------------------------------------


def finished_episodes(
    reward, value, advantage, success, terminated, truncated, level_index
):
    """Cuts [T, B] arrays into episodes; a tail that never ends is no episode."""
    episodes = []
    for env in range(reward.shape[1]):
        begin = 0
        for step in range(reward.shape[0]):
            if not (terminated[step, env] or truncated[step, env]):
                continue
            steps = slice(begin, step + 1)
            episodes.append(
                {
                    "level": int(level_index[step, env]),
                    "return": float(reward[steps, env].sum(dtype=np.float64)),
                    "values": [float(x) for x in value[steps, env]],
                    "advantages": [float(x) for x in advantage[steps, env]],
                    "success": bool(success[step, env]),
                }
            )
            begin = step + 1
    return episodes


def level_feedback(episodes, names, stored_max_return, optimal_return):
    """Every score of every level, with counts; None where no episode finished.

    Levels of one name are one level: their episodes are scored together.
    """
    feedback = []
    for name in names:
        own = [e for e in episodes if names[e["level"]] == name]
        if not own:
            feedback.append(
                {
                    "n_episodes": 0,
                    "n_success": 0,
                    "max_return": -math.inf,
                    "scores": None,
                }
            )
            continue
        best_now = max(e["return"] for e in own)
        stored = [s for s, n in zip(stored_max_return, names, strict=True) if n == name]
        best_ever = max(best_now, *map(float, stored))
        solved = sum(e["success"] for e in own) / len(own)
        l1 = _mean(_mean(abs(a) for a in e["advantages"]) for e in own)
        feedback.append(
            {
                "n_episodes": len(own),
                "n_success": sum(e["success"] for e in own),
                "max_return": best_now,
                "scores": {
                    "l1": l1,
                    "pvl": _mean(
                        _mean(max(a, 0) for a in e["advantages"]) for e in own
                    ),
                    "maxmc": _mean(
                        _mean(best_ever - v for v in e["values"]) for e in own
                    ),
                    "grounded_l1": l1 if best_ever > 0 else 0.0,
                    "learnability": solved * (1 - solved),
                    "mna": _mean(
                        _mean(max(-a, 0) for a in e["advantages"]) for e in own
                    )
                    if solved > 0
                    else 0.0,
                    "true_regret": _mean(
                        float(optimal_return[e["level"]]) - e["return"] for e in own
                    ),
                    "mean_return": _mean(e["return"] for e in own),
                },
            }
        )
    return feedback


def _mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


# --- The buffer ----------------------------------------------------------------------


class Buffer:
    """A list of slots, each a dictionary; slots fill from the front."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.slots = []

    def slot_of(self, level_hash):
        """Where a level is stored, or None."""
        for index, slot in enumerate(self.slots):
            if slot["hash"] == level_hash:
                return index
        return None

    def record(self, rows, eviction_weight, clock):
        """Takes in one batch; returns which rows were inserted.

        Args:
          rows: dictionaries with hash, level, origin, parent, generation, score,
            score2, max_return, n_episodes; those of one hash say the same.
          eviction_weight: one number per slot, inf protects.
          clock: what `last_seen` becomes.
        """
        first = {}
        for index, row in enumerate(rows):
            first.setdefault(row["hash"], index)

        played, candidates = set(), []
        stored_before = len(self.slots)
        for level_hash, index in first.items():
            seen = rows[index]
            at = self.slot_of(level_hash)
            if at is None:
                if seen["n_episodes"] > 0:
                    candidates.append((index, seen))
                continue
            played.add(at)
            slot = self.slots[at]
            if seen["n_episodes"] > 0:
                slot["score"], slot["score2"] = seen["score"], seen["score2"]
            slot["max_return"] = max(slot["max_return"], seen["max_return"])
            slot["n_episodes"] += seen["n_episodes"]
            slot["last_seen"] = clock

        victims = [
            at
            for at in range(stored_before)
            if at not in played and eviction_weight[at] < math.inf
        ]
        victims.sort(key=lambda at: (eviction_weight[at], at))
        candidates.sort(key=lambda candidate: (-candidate[1]["score"], candidate[0]))

        inserted = [False] * len(rows)
        for index, seen in candidates:
            slot = {
                name: rows[index][name]
                for name in ("hash", "level", "origin", "parent", "generation")
            } | {
                name: seen[name]
                for name in ("score", "score2", "max_return", "n_episodes")
            }
            slot["last_seen"] = clock
            if len(self.slots) < self.capacity:
                self.slots.append(slot)
                inserted[index] = True
            elif victims:
                at = victims.pop(0)
                if slot["score"] > self.slots[at]["score"]:
                    self.slots[at] = slot
                    inserted[index] = True
        return inserted


# --- The replay distribution ---------------------------------------------------------


def shared_ranks(scores, support):
    """Ranks from 1 (best) within the support; equal scores share their mean rank."""
    ranks = {}
    inside = [i for i in range(len(scores)) if support[i]]
    for i in inside:
        better = sum(scores[j] > scores[i] for j in inside)
        equal = sum(scores[j] == scores[i] for j in inside)
        ranks[i] = better + (1 + equal) / 2
    return ranks


def probabilities(scores, support, prioritization="rank", temperature=0.3, k=4):
    """P_S of one channel with shared ties, float64."""
    n = len(scores)
    inside = [i for i in range(n) if support[i]]
    p = np.zeros(n)
    if not inside:
        return p
    if prioritization == "rank":
        for i, rank in shared_ranks(scores, support).items():
            p[i] = (1 / rank) ** (1 / temperature)
    elif prioritization == "proportional":
        for i in inside:
            p[i] = max(float(scores[i]), 0.0) ** (1 / temperature)
    else:
        ordered = sorted((float(scores[i]) for i in inside), reverse=True)
        worst_kept = ordered[min(k, len(ordered)) - 1]
        for i in inside:
            if scores[i] >= worst_kept:
                p[i] = math.exp((float(scores[i]) - ordered[0]) / temperature)
    if p.sum() == 0:
        p[inside] = 1
    return p / p.sum()


def staleness(last_seen, clock, support):
    """P_C: proportional to the time since a level was last played, float64."""
    p = np.array(
        [
            float(clock - seen) if s else 0.0
            for seen, s in zip(last_seen, support, strict=True)
        ]
    )
    if p.sum() == 0:
        p = np.array([1.0 if s else 0.0 for s in support])
    return p / p.sum() if p.sum() > 0 else p

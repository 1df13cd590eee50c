"""Run directories with known numbers, without training anything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image


def write(
    folder: Path,
    name: str,
    levels: dict[str, np.ndarray],
    *,
    n_episodes: int = 2,
    pictures: bool = False,
    **settings,
) -> Path:
    """A finished run whose mean returns per seed and level are `levels` [S, L].

    Success is a return above one half.
    """
    path = folder / name
    (path / "eval").mkdir(parents=True)
    (path / "figures").mkdir()
    n_seeds = len(next(iter(levels.values())))
    settings = {
        "algorithm": "dr",
        "env": "maze",
        "seed": 0,
        "seeds": n_seeds,
        "n_updates": 10,
        "lr": 0.001,
    } | settings
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    facts = {
        "status": "done",
        "format": 1,
        "wall_s": 60.0,
        "compile_s": 12.0,
        "env_steps": 1000 * n_seeds,
        "commit": "0123456789ab",
        "device": "cpu:0",
    }
    (path / "run.json").write_text(json.dumps(facts))
    tables = []
    for level_set, scores in levels.items():
        seed, level, episode = np.indices((*scores.shape, n_episodes)).reshape(3, -1)
        value = scores[seed, level]
        tables.append(
            pd.DataFrame(
                {
                    "update": 10,
                    "seed": settings["seed"] + seed,
                    "level_set": level_set,
                    "level": [f"{level_set}-{i:04d}" for i in level],
                    "episode": episode,
                    "return": value + np.where(episode % 2, 0.1, -0.1),
                    "success": value > 0.5,
                    "length": 5,
                }
            )
        )
    pd.concat(tables).to_parquet(path / "eval" / "update_00000010.parquet")
    rows = []
    for seed in range(settings["seed"], settings["seed"] + n_seeds):
        for update in (5, 10):
            row = {"seed": seed, "update": update, "env_steps": 100 * update}
            row["wall_s"] = 6.0 * update
            logged = {"train_solve_rate": 0.05 * update, "level_n_walls": 3.0 + seed}
            rows.append(row | {"kind": "train"} | logged)
            means = {
                f"eval_{k}_return": float(x[seed - settings["seed"]].mean())
                for k, x in levels.items()
            }
            rows.append(row | {"kind": "eval"} | means)
    metrics = pd.DataFrame(rows)
    metrics.to_json(path / "metrics.jsonl", orient="records", lines=True)
    metrics.to_parquet(path / "metrics.parquet")
    if pictures:
        for file in ("heldout.png", "agent.gif"):
            image = Image.fromarray(np.full((40, 700, 3), 200, np.uint8))
            image.save(path / "figures" / file)
    (path / "DONE").touch()
    return path

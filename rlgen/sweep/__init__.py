"""Sweeps in wandb's own schema, run here without any server: `rlgen sweep FILE...`.

The same files run under `wandb sweep FILE` and `wandb agent`, and on a cluster with
`--on slurm`. Every cell is one `rlgen train` in a process of its own; a finished cell
returns at once and a half finished one goes on, because its run directory is named
after its settings.

    schema    reads a file
    cells     what it asks for, as runs with their directories
    search    random and Bayesian search by wandb's own engine
    process   one command of `rlgen` in a process of its own
    workers   several of them side by side, on their own cores or GPUs
    board     what is shown meanwhile
    local     all of it on this machine
    cluster   the same through submitit
"""

"""Checkpoints: the whole `TrainState`, with one Orbax item per trained model, so that a later stage
reads only the model that it starts from.

A workdir holds `checkpoints/<step>/{<role>…, opt_state, source, meta}` and `models.json`, the
architecture of each role; with `optimizer.ema` also `<role>_ema`, the averages of its weights.
Where weights are frozen, a role's item holds only the trained ones, and `parts.json` names the
origin of the frozen ones; loading joins both. `saved.json` lists the steps that are saved, and
`checkpoints_rejected/` holds checkpoints that a resumed run found damaged.

Orbax and TensorStore have no checksum of array data (the crc32c of zarr3 covers the index of a
shard alone), so `meta` holds a fingerprint of every array and a checksum of itself
(verification.py).
"""

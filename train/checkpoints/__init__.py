"""Checkpoints: the whole `TrainState`, with one Orbax item per trained model, so that a later stage
reads only the model that it starts from.

A workdir holds `checkpoints/<step>/{<role>…, opt_state, source, meta}` and `models.json`, the
architecture of each role. Where weights are frozen, a role's item holds only the trained ones, and
`parts.json` names the origin of the frozen ones; loading joins both.
"""

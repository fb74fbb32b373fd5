"""Sweeps: runs that differ in named settings and seeds, and their comparison in words.

| file | content |
|---|---|
| grid.py | the points that the flags name: grids, zipped lists, draws |
| trials.py | a point as a trial: its name, its settings, its runs; the plan in the workdir |
| metric.py | the metric of the comparison |
| programs.py | which trials share a compiled step, and how many were compiled |
| inputs.py | tokenizer and row caches, made once and linked into each run |
| runner.py, workers.py, adaptive.py | the runs in turn, in several processes, as Optuna asks |
| launched.py | the runs on machines of their own, by tpu.launch |
| results.py | what the runs have measured |
| comparison.py | ranks, paired differences, the verdict |
| report/ | the result on the terminal, as table.md and sweep.json, as sweep.html |
"""

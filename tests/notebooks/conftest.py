from sample_runs.stage_runs import stages_dir  # noqa: F401, a fixture

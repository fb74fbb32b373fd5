"""Evaluates a model on benchmarks: accuracy, perplexity and generated answers, with standard
errors.

    python -m train.evaluate --list
    python -m train.evaluate --workdir=runs/demo/ppo --tasks=arc_easy,piqa --shots=5 --limit=200
    python -m train.evaluate --workdir=runs/demo/ppo@60 --tasks=gsm8k --against=runs/demo/sft --chat
    python -m train.evaluate --workdir=HuggingFaceTB/SmolLM2-135M-Instruct --tasks=core

Items are kept as they are answered: the same command resumes, and answers what is missing.
"""

from absl import app, flags

from train import cli

FLAGS = ("workdir", "tasks", "limit", "seed", "data", "chat", "dtype", "against", "out", "samples")


def main(argv: list[str]) -> None:
    del argv
    f = flags.FLAGS
    with cli.expected_errors():
        from train.tasks.evaluation import command  # after the flags: importing JAX takes seconds

        values = {name: f[name].value for name in FLAGS}
        code = command.main(f.list, f.plugins, f.shots, values)
    raise SystemExit(code)


if __name__ == "__main__":
    flags.DEFINE_string(
        "workdir", "", "The model: a run or RUN@STEP, a Hugging Face directory, a .gguf file, or "
        "OWNER/MODEL on the hub."
    )  # fmt: skip
    flags.DEFINE_list("tasks", [], "Tasks, groups of tasks as core, or YAML files; see --list.")
    flags.DEFINE_list("shots", [], "Examples before each question; several, as 0,1,5, for a curve.")
    flags.DEFINE_integer("limit", 0, "The most documents of a task; 0 takes all.", 0)
    flags.DEFINE_integer("seed", 0, "Seed of the examples that are drawn, and of sampling.", 0)
    flags.DEFINE_list(
        "data", [], "Folders with the tasks' files, as arc_easy.jsonl; or TASK=SOURCE."
    )  # fmt: skip
    flags.DEFINE_bool("chat", False, "Write prompts with the model's chat template.")
    flags.DEFINE_enum(
        "dtype", None, ["float32", "bfloat16"], "Dtype of the computation; by default the model's."
    )  # fmt: skip
    flags.DEFINE_string("against", "", "A second model, compared item by item.")
    flags.DEFINE_string("out", "", "Folder of the results; by default RUN/evals/@STEP.")
    flags.DEFINE_integer("samples", 4, "Right and wrong answers of each task to write.", 0)
    flags.DEFINE_list("plugins", [], "Modules to import first, which may add tasks.")
    flags.DEFINE_bool("list", False, "Print the tasks.")
    app.run(main, flags_parser=cli.parse_flags)

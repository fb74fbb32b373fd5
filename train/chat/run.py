"""The models of a conversation, opened, and the face that shows it."""

from __future__ import annotations

import sys

from etils import epath

from train.chat import terminal
from train.chat.display import CLEAR
from train.chat.session import Session


def run(
    workdir: str, against: str, reward: str, sampling: dict, seed: int = 0, system: str = "",
    prompt: str | None = None, port: int = 0, passages: str = "",
) -> None:  # fmt: skip
    """Answers one prompt, holds a conversation on standard input and output, or serves one.

    Args:
      against, reward: workdirs of a second policy and of a reward model, or "".
      sampling: keyword arguments of `model.generate.Sampling`. port: of the web page; 0 for none.
      passages: the source of passages that are written into each question; "" for none.

    Raises:
      ValueError: a workdir lacks the model, or `prompt` does not fit its context.
    """
    if port:
        import loopback
        from train.chat import web  # first: it says what is not installed

        listening = loopback.listen(port)
    if sys.stderr.isatty():
        print(f"{CLEAR}reading {workdir} …", end="", file=sys.stderr, flush=True)
    try:
        session, notice = open_session(workdir, against, reward, sampling, seed, system)
        if passages:
            session.ground(passages)
            notice = str(session.passages)
    finally:
        if sys.stderr.isatty():
            print(CLEAR, end="", file=sys.stderr, flush=True)
    if port:
        web.serve(session, listening, notice)
    elif prompt is not None:
        terminal.answer_once(session, prompt)
    else:
        terminal.converse(session, notice)


def open_session(
    workdir: str, against: str, reward: str, sampling: dict, seed: int, system: str
) -> tuple[Session, str]:
    """(session, a notice about its models or "")."""
    from model.generate import Sampling
    from train.chat.model import open_model, open_scorer
    from train.chat.passages import ChatPassages, hint, settings_of
    from train.chat.workdirs import answers
    from train.interop import opening
    from train.runtime import compilation

    compilation.enable("auto", epath.Path(workdir))
    settings = Sampling(**sampling)
    models = [open_model(workdir, settings, seed, "workdir")]
    if against:
        models.append(open_model(against, settings, seed, "against"))
    scorer = open_scorer(reward) if reward else None
    untrained = [model.name for model in models if not answers(model.name)]
    notice = f"{' and '.join(untrained)}: only pretrained, not trained to answer" * bool(untrained)
    notice = notice or hint(workdir)

    def open_passages(source: str) -> ChatPassages:
        return ChatPassages(source, settings_of(workdir), opening.open_tokenizer(workdir))

    return Session(models, scorer, settings.temperature, system, open_passages), notice

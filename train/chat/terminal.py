"""A conversation on the terminal, or through pipes, where the answer alone is printed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest

from printable import escaped
from suggestions import did_you_mean, nearest
from train.chat.answer import Answer, Turn, forgotten_mark, marks
from train.chat.display import LEAST_WIDTH, SIDE_BY_SIDE, Column, Columns, wrap
from train.chat.session import Reply, Session

HELP = """\
/regenerate       writes the last answer again
/temperature X    0 takes the likeliest token each time
/system TEXT      sets a system message; no TEXT, none
/passages FOLDER  answers from its documents; no FOLDER, from none
/reset            forgets the conversation
/save FILE.jsonl  writes it to a file that SFT reads
/quit             ends, as Ctrl-D does
Ctrl-C stops an answer; Alt-Enter begins a new line.
Pasted lines are one question."""
_DIM, _RED, _GREEN = "2", "31", "32"


def is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def say(text: str, style: str = _DIM) -> None:
    """A remark: on the terminal below the answers, else on standard error."""
    if not is_terminal():
        print(escaped(text), file=sys.stderr, flush=True)
        return
    text = "\n".join(line.rstrip() for line in wrap(escaped(text), _columns() - 1))
    print(text if "NO_COLOR" in os.environ else f"\x1b[{style}m{text}\x1b[0m", flush=True)


def _columns() -> int:
    return max(shutil.get_terminal_size().columns, LEAST_WIDTH)


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, in place of ending the process; keys are not shown meanwhile."""
    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    modes = termios.tcgetattr(0) if os.isatty(0) else None
    if modes:
        silent = [*modes[:3], modes[3] & ~termios.ECHO, *modes[4:]]
        termios.tcsetattr(0, termios.TCSANOW, silent)
    try:
        yield stop
    finally:
        if modes:
            termios.tcsetattr(0, termios.TCSANOW, modes)
        signal.signal(signal.SIGINT, before)


class _Growth:
    """The text that an answer gained since it was last asked for."""

    def __init__(self) -> None:
        self._length = 0

    def __call__(self, answer: Answer) -> str:
        new = answer.shown[self._length :]
        self._length += len(new)
        return new


class Terminal:
    """A session and the commands that change it.

    Args:
      label: before each answer of the only model.
    """

    def __init__(self, session: Session, label: str = "model › "):
        self._session, self._label = session, label
        self._forgotten = [0] * len(session.models)
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: say(HELP),
            "/regenerate": self._regenerate,
            "/temperature": self._temperature,
            "/system": self._system,
            "/passages": self._passages,
            "/reset": self._reset,
            "/save": self._save,
            "/quit": self._quit,
        }

    def take(self, text: str) -> None:
        """Runs a command or answers a question.

        Raises:
          ValueError, OSError: it is refused; the session is as before. EOFError: the end is asked
            for.
        """
        text = text.strip()
        if not re.match(r"/\w*(\s|$)", text):
            if text:
                self.answer(text, self._session.ask(text))
            return
        name, *rest = text.split(maxsplit=1)
        if name not in self._commands:
            hint = did_you_mean(nearest(name, self._commands))
            raise ValueError(f"there is no command {name}{hint or '; /help lists them'}")
        self._commands[name]("".join(rest))

    def _regenerate(self, _: str) -> None:
        question, replies = self._session.regenerate()
        if self._session.temperature == 0:
            say("(at temperature 0 the answer is the same)")
        self.answer(question, replies, again=True)

    def _temperature(self, text: str) -> None:
        if text:
            self._session.set_temperature(text)
        say(f"(temperature {self._session.temperature:g})")

    def _system(self, text: str) -> None:
        self._session.instruct(text)
        say(f"(system message: {text})" if text else "(no system message)")

    def _passages(self, folder: str) -> None:
        self._session.ground(folder)
        say(f"({self._session.passages})" if folder else "(no passages)")

    def _reset(self, _: str) -> None:
        self._session.reset()
        self._forgotten = [0] * len(self._forgotten)
        say("(a new conversation)")

    def _save(self, path: str) -> None:
        say(f"({self._session.save(path)})")

    def _quit(self, _: str) -> None:
        raise EOFError

    def answer(self, question: str, replies: Sequence[Reply], again: bool = False) -> None:
        """Prints the replies to a question as they are sampled, and keeps them."""
        for i, reply in enumerate(replies):
            if reply.forgotten > self._forgotten[i]:
                say(forgotten_mark(reply.forgotten, reply.name if len(replies) > 1 else ""))
                self._forgotten[i] = reply.forgotten
        if not is_terminal():
            self._print(replies)
            self._remark(self._session.keep(question, replies, again))
            return
        columns = _columns()
        with stopping() as stop:
            if len(replies) == 1:
                self._stream(replies[0], self._label, columns, stop)
            elif columns < SIDE_BY_SIDE:
                for reply in replies:
                    self._stream(reply, f"{reply.name} › ", columns, stop)
            else:
                self._side_by_side(replies, columns, stop)
            turn = self._session.keep(question, replies, again)
        self._remark(turn)
        print("\n" if self._label else "", end="")

    def _print(self, replies: Sequence[Reply]) -> None:
        """The answers alone, a line between two; for a pipe as they are."""
        for i, reply in enumerate(replies):
            growth, shown = _Growth(), escaped if sys.stdout.isatty() else str
            print("\n" if i else "", end="")
            for answer in reply:
                print(shown(growth(answer)), end="", flush=True)
            print(flush=True)

    def _stream(self, reply: Reply, label: str, columns: int, stop: threading.Event) -> None:
        column = Column(sys.stdout, columns - 1, label, _GREEN * ("NO_COLOR" not in os.environ))
        growth = _Growth()
        for answer in reply if not stop.is_set() else ():
            column.write(growth(answer))
            if stop.is_set():
                break
        column.close()

    def _side_by_side(self, replies, columns: int, stop: threading.Event) -> None:
        display = Columns(sys.stdout, columns - 1, [reply.name for reply in replies])
        growths = [_Growth() for _ in replies]
        for answers in zip_longest(*replies):
            for side, answer in enumerate(answers):
                if answer is not None:
                    display.write(side, growths[side](answer))
                    if answer.end:
                        display.finish(side)
            if stop.is_set():
                break
        for side in range(len(replies)):
            display.finish(side)

    def _remark(self, turn: Turn) -> None:
        two = len(turn.answers) > 1
        if turn not in self._session.turns:
            say("(nothing was written)")
            return
        for model, answer in zip(self._session.models, turn.answers, strict=True):
            if remarks := " · ".join(marks(answer, model.limit)):
                say(f"{model.name}: {remarks}" if two else remarks)
        if self._session.passages:
            say(self._session.passages.shown(turn.question))


def prompt_reader() -> Callable[[], str]:
    """A function that reads a question, with line editing, from the terminal.

    It raises EOFError at Ctrl-D, and KeyboardInterrupt at Ctrl-C.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    prompt: PromptSession[str] = PromptSession("you › ", key_bindings=keys)
    return prompt.prompt


def converse(session: Session, notice: str = "") -> None:
    """Answers questions from the terminal, or the lines of standard input, until they end.

    Args:
      notice: a line to begin with on the terminal.
    """
    terminal = Terminal(session)
    if not is_terminal():
        for line in sys.stdin:
            try:
                terminal.take(line)
            except EOFError:
                return
        return
    for model in session.models:
        print(f"{escaped(model.name)}  ", end="")
    say("/help lists the commands, Ctrl-D ends")
    if notice:
        say(notice)
    read = prompt_reader()
    while True:
        try:
            terminal.take(read())
        except EOFError:
            return
        except KeyboardInterrupt:  # at the prompt: what was typed is dropped
            say("(Ctrl-D or /quit ends)")
        except (ValueError, OSError) as error:
            say(f"error: {error}", _RED)


def answer_once(session: Session, question: str) -> None:
    """Answers one question, without a label."""
    Terminal(session, label="").answer(question, session.ask(question))

"""The database of questions and answers: one SQLite file, which several processes may have open.

An answer is on the disk when `Store.record` returns. Each has an id of its own, so one that is sent
twice is recorded once; one that replaces another names it, so that neither of two tabs overwrites
what the other recorded. Replaced answers stay in the file.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import sqlite3
import threading
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from data.errors import DataError
from data.ranking.questions import Answer, Candidate, Question, Recorded

_APPLICATION, _VERSION = 0x53454544, 1  # of the file's header
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE questions (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, messages TEXT NOT NULL, tools TEXT NOT NULL,
  place TEXT NOT NULL, candidates TEXT, gold TEXT, position INTEGER NOT NULL, doubt REAL,
  judge TEXT NOT NULL DEFAULT '', dropped TEXT NOT NULL DEFAULT '');
CREATE TABLE answers (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  question INTEGER NOT NULL REFERENCES questions, annotator TEXT NOT NULL, time TEXT NOT NULL,
  body TEXT NOT NULL, judged INTEGER NOT NULL, replaced INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX current ON answers (question, annotator) WHERE replaced = 0;
CREATE TABLE opened (annotator TEXT PRIMARY KEY, question INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE annotators (name TEXT PRIMARY KEY, token TEXT NOT NULL UNIQUE) WITHOUT ROWID;
"""
_COUNTS = "SELECT question, COUNT(*) AS n FROM answers WHERE replaced = 0 AND judged GROUP BY 1"
# Questions that an annotator can be asked, with the number of answers and of others who see them.
_ASKABLE = f"""
FROM questions q LEFT JOIN ({_COUNTS}) a ON a.question = q.id LEFT JOIN
  (SELECT question, COUNT(*) AS n FROM opened WHERE annotator <> :name GROUP BY 1) o
  ON o.question = q.id
WHERE q.candidates IS NOT NULL AND q.dropped = '' AND NOT EXISTS (
  SELECT 1 FROM answers WHERE question = q.id AND annotator = :name AND replaced = 0)
"""
_NEEDED = "q.gold IS NULL AND COALESCE(a.n, 0) < :each"
_ORDERS = {"random": "q.position", "uncertain": "q.doubt IS NULL, q.doubt DESC, q.position"}
OTHER = "give another --out"
GOLD_EVERY = 10  # one of so many questions is a gold one


class Conflict(ValueError):
    """An answer to a question that the same annotator has answered otherwise meanwhile."""


class Store:
    """Questions and answers in a file; safe for several threads and processes.

    Args:
      path: of the SQLite file, on this machine. create: whether it may be a new file.

    Raises:
      DataError: there is no such file, or it is no database of this kind.
    """

    def __init__(self, path: str | Path, create: bool = True):
        self.path, self._lock = Path(path), threading.RLock()
        if not self.path.exists() and not create:
            raise DataError(f"there is no {path}; collect answers first")
        try:
            if not self.path.exists():  # the secrets of links are for this user alone
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, timeout=30
            )
            self._db.row_factory = sqlite3.Row
            self._prepare()
        except (OSError, sqlite3.OperationalError) as error:
            raise DataError(f"{path} cannot be opened: {error}") from None
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path} is no database of answers ({error}); {OTHER}") from None

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # on the disk, not only handed to the system
        with self._writing():
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if (application, version) == (_APPLICATION, _VERSION):
                return
            if application or version or self._db.execute("SELECT 1 FROM sqlite_schema").fetchone():
                raise DataError(f"{self.path} is a database of something else; {OTHER}")
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction, which is on the disk afterwards, or without effect if it raises: OSError
        where the disk is full, or another process does not let go of the file."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise OSError(f"{self.path} cannot be written: {error}") from None
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _rows(self, sql: str, *arguments: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(sql, *arguments).fetchall()

    # Questions.

    def add(self, questions: Iterable[Question], seed: int = 0) -> list[int]:
        """Adds questions; one that is there already is not added twice.

        Args:
          seed: of the random order in which they are asked.

        Returns:
          Their ids.

        Raises:
          DataError: the candidates of one cannot be compared.
        """
        ids = []
        with self._writing():
            for question in questions:
                question.check()
                key = question.key()
                position = zlib.crc32(f"{seed}/{key}".encode())
                candidates = _json(question.candidates) if question.candidates else None
                gold = None if question.gold is None else _json(question.gold)
                self._db.execute(
                    "INSERT INTO questions (key, messages, tools, place, candidates, gold, "
                    "position, doubt) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (key, _json(question.messages), _json(question.tools), question.where,
                     candidates, gold, position, question.doubt),
                )  # fmt: skip
                row = self._db.execute("SELECT id FROM questions WHERE key = ?", (key,)).fetchone()
                ids.append(row["id"])
        return ids

    def question(self, number: int) -> Question:
        """A question by its id.

        Raises:
          DataError: there is none.
        """
        if rows := self._rows("SELECT * FROM questions WHERE id = ?", (number,)):
            return _question(rows[0])
        raise DataError(f"there is no question {number}")

    def questions(self) -> list[Question]:
        """All questions that can be asked, gold ones too, in the order of their ids."""
        rows = self._rows(
            "SELECT * FROM questions WHERE candidates IS NOT NULL AND dropped = '' ORDER BY id"
        )
        return [_question(row) for row in rows]

    def waiting(self) -> list[Question]:
        """Questions whose candidates are still to be sampled, in random order."""
        rows = self._rows(
            "SELECT * FROM questions WHERE candidates IS NULL AND dropped = '' ORDER BY position"
        )
        return [_question(row) for row in rows]

    def fill(self, number: int, candidates: Sequence[Candidate]) -> None:
        """Gives a question its candidates, unless it has some.

        Raises:
          DataError: they cannot be compared.
        """
        msgspec.structs.replace(self.question(number), candidates=list(candidates)).check()
        with self._writing():
            self._db.execute(
                "UPDATE questions SET candidates = ? WHERE id = ? AND candidates IS NULL",
                (_json(candidates), number),
            )

    def drop(self, number: int, reason: str) -> None:
        """Leaves a question out that cannot be asked."""
        with self._writing():
            self._db.execute("UPDATE questions SET dropped = ? WHERE id = ?", (reason, number))

    def dropped(self) -> dict[str, int]:
        """{reason: number of questions that are left out}."""
        rows = self._rows(
            "SELECT dropped, COUNT(*) AS n FROM questions WHERE dropped <> '' GROUP BY 1 ORDER BY 2"
        )
        return {row["dropped"]: row["n"] for row in rows}

    def unjudged(self, judge: str) -> list[Question]:
        """Questions without an answer whose doubt is not that of the reward model `judge`."""
        rows = self._rows(
            "SELECT * FROM questions q WHERE candidates IS NOT NULL AND dropped = '' AND judge <> ?"
            " AND NOT EXISTS (SELECT 1 FROM answers WHERE question = q.id AND replaced = 0)"
            " ORDER BY position",
            (judge,),
        )
        return [_question(row) for row in rows]

    def set_doubt(self, number: int, doubt: float, judge: str) -> None:
        """Sets a question's doubt (`Question.doubt`), according to a reward model."""
        with self._writing():
            self._db.execute(
                "UPDATE questions SET doubt = ?, judge = ? WHERE id = ?", (doubt, judge, number)
            )

    # Answers.

    def next(self, annotator: str, each: int = 1, order: str = "random") -> Question | None:
        """The next question to an annotator; the same until it is answered. None: there is none.

        A question that nobody else looks at comes first; one that somebody has opened and left is
        asked again in the end.

        Args:
          each: people who answer a question. order: `random` or `uncertain` (doubt first).
        """
        names = {"name": annotator, "each": each}
        with self._writing():
            place = self._counts(annotator)[0]
            gold = _is_gold_place(annotator, place)
            queries = [f"{_ASKABLE} AND q.gold IS NOT NULL ORDER BY q.position"] * gold
            queries.append(
                f"{_ASKABLE} AND {_NEEDED} ORDER BY "
                "q.id = (SELECT question FROM opened WHERE annotator = :name) DESC, "
                f"COALESCE(a.n, 0) + COALESCE(o.n, 0) >= :each, {_ORDERS[order]}"
            )
            for query in queries:
                row = self._db.execute(f"SELECT q.* {query} LIMIT 1", names).fetchone()
                if row:
                    self._db.execute(
                        "INSERT OR REPLACE INTO opened VALUES (?, ?)", (annotator, row["id"])
                    )
                    return _question(row)
        return None

    def progress(self, annotator: str, each: int = 1) -> tuple[int, int]:
        """(questions that an annotator has answered or skipped, those still to ask)."""
        with self._lock:
            done, golds = self._counts(annotator)
            (needed,) = self._db.execute(
                f"SELECT COUNT(*) {_ASKABLE} AND {_NEEDED}", {"name": annotator, "each": each}
            ).fetchone()
        place = done
        while needed:  # so that a gold question does not change the sum, and is not recognised
            if golds and _is_gold_place(annotator, place):
                golds -= 1
            else:
                needed -= 1
            place += 1
        return done, place - done

    def _counts(self, annotator: str) -> tuple[int, int]:
        """(questions that an annotator has answered, gold ones that they have not)."""
        (done,) = self._db.execute(
            "SELECT COUNT(*) FROM answers WHERE annotator = ? AND replaced = 0", (annotator,)
        ).fetchone()
        (golds,) = self._db.execute(
            f"SELECT COUNT(*) {_ASKABLE} AND q.gold IS NOT NULL", {"name": annotator}
        ).fetchone()
        return done, golds

    def record(
        self, annotator: str, question: int, answer: Answer, id: str = "", replaces: str = "",
        time: str = "",
    ) -> Recorded:  # fmt: skip
        """Records an answer; it is on the disk when this returns.

        Args:
          id: of the answer, by default a new one; a second answer with an id is the first one sent
            again. replaces: the id of the annotator's answer to this question, "" if there is none.
          time: ISO 8601; by default now.

        Raises:
          Conflict: the annotator's answer to this question is not `replaces`.
          DataError: the answer does not fit the question, or there is no such question.
        """
        answer = answer.checked(len(self.question(question).candidates))
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        recorded = Recorded(id or uuid.uuid4().hex, question, annotator, time or now, answer)
        with self._writing():
            same = self._db.execute(
                "SELECT question, annotator FROM answers WHERE id = ?", (recorded.id,)
            ).fetchone()
            if same and tuple(same) == (question, annotator):
                return recorded
            current = self.current(annotator, question)
            if same or (current.id if current else "") != replaces:
                raise Conflict("this question was answered in another tab; look at that answer")
            self._db.execute("UPDATE answers SET replaced = 1 WHERE id = ?", (replaces,))
            self._db.execute(
                "INSERT INTO answers (id, question, annotator, time, body, judged) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (recorded.id, question, annotator, recorded.time, _json(answer),
                 answer.rank is not None),
            )  # fmt: skip
            self._db.execute(
                "DELETE FROM opened WHERE annotator = ? AND question = ?", (annotator, question)
            )
        return recorded

    def current(self, annotator: str, question: int) -> Recorded | None:
        """An annotator's answer to a question."""
        rows = self._rows(
            "SELECT * FROM answers WHERE annotator = ? AND question = ? AND replaced = 0",
            (annotator, question),
        )
        return _recorded(rows[0]) if rows else None

    def previous(self, annotator: str, question: int = 0) -> int | None:
        """The id of the question that an annotator answered last, or last before `question`."""
        rows = self._rows(
            "SELECT question FROM answers WHERE annotator = :name AND replaced = 0 AND number < "
            "COALESCE((SELECT number FROM answers WHERE annotator = :name AND question = :id "
            "AND replaced = 0), 9e18) ORDER BY number DESC LIMIT 1",
            {"name": annotator, "id": question},
        )
        return rows[0]["question"] if rows else None

    def answers(self) -> list[Recorded]:
        """The current answers, in the order in which they were recorded."""
        rows = self._rows("SELECT * FROM answers WHERE replaced = 0 ORDER BY number")
        return [_recorded(row) for row in rows]

    # What belongs to the whole set.

    def token(self, name: str, known: str = "") -> str:
        """The secret in an annotator's link, made at the first call. `known`: that of the link to
        another set, which is to stay the same."""
        with self._writing():
            self._db.execute(
                "INSERT INTO annotators VALUES (?, ?) ON CONFLICT DO NOTHING",
                (name, known or secrets.token_urlsafe(16)),
            )
        return self._rows("SELECT token FROM annotators WHERE name = ?", (name,))[0]["token"]

    def note(self, key: str, value: str | None = None) -> str | None:
        """A note about the set; with `value`, sets it first unless it is there."""
        if value is not None:
            with self._writing():
                self._db.execute(
                    "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO NOTHING", (key, value)
                )
        rows = self._rows("SELECT value FROM meta WHERE key = ?", (key,))
        return rows[0]["value"] if rows else None


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _question(row: sqlite3.Row) -> Question:
    return Question(
        json.loads(row["messages"]),
        msgspec.json.decode(row["candidates"] or "[]", type=list[Candidate]),
        json.loads(row["tools"]), row["place"], json.loads(row["gold"] or "null"), row["doubt"],
        row["id"],
    )  # fmt: skip


def _recorded(row: sqlite3.Row) -> Recorded:
    answer = msgspec.json.decode(row["body"], type=Answer)
    return Recorded(row["id"], row["question"], row["annotator"], row["time"], answer)


def _is_gold_place(annotator: str, place: int) -> bool:
    """Whether an annotator's question number `place` is a gold one, where there is one left: one
    of every GOLD_EVERY, somewhere among them."""
    block, within = divmod(place, GOLD_EVERY)
    return zlib.crc32(f"{annotator}/{block}".encode()) % GOLD_EVERY == within

"""The database: answers once each, whatever is sent twice, in two tabs, by two threads."""

import sqlite3
import threading

import pytest

from data.errors import DataError
from data.ranking.questions import Answer, Candidate, Question, is_right
from data.ranking.store import GOLD_EVERY, Conflict, Store


def question(text, count=2, **fields):
    candidates = [Candidate(f"{text} {i}", {"name": "ab"[i % 2]}) for i in range(count)]
    return Question([{"role": "user", "content": text}], candidates, **fields)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "a.db") as store:
        yield store


def answer_all(store, name, **options):
    asked = []
    while found := store.next(name, **options):
        store.record(name, found.id, Answer.choice(0, len(found.candidates)))
        asked.append(found.id)
    return asked


def test_each_question_goes_to_as_many_people_as_asked_and_to_nobody_twice(store):
    ids = store.add([question(f"q{i}") for i in range(5)])
    assert store.add([question("q1")]) == [ids[1]]
    asked = {name: answer_all(store, name, each=2) for name in ("ana", "ben", "eve")}
    assert sorted(asked["ana"]) == sorted(asked["ben"]) == ids and asked["eve"] == []
    assert store.progress("ana", 2) == (5, 0)


def test_the_open_question_stays_and_one_that_was_left_is_asked_again(store):
    store.add([question("q"), question("r")])
    first = store.next("ana")
    assert store.next("ana").id == first.id
    other = store.next("ben")
    assert other.id != first.id  # nobody else looks at it
    store.record("ben", other.id, Answer(rank=[0, 1]))
    assert store.next("ben").id == first.id  # ana has left
    store.record("ben", first.id, Answer())  # skipped: it still needs an answer
    assert store.next("ben") is None and store.next("ana").id == first.id


def test_an_answer_that_is_sent_again_is_recorded_once(store):
    (number,) = store.add([question("q")])
    for _ in range(2):
        store.record("ana", number, Answer(rank=[4, 2]), id="x" * 8)
    (recorded,) = store.answers()
    assert recorded.answer.rank == [1, 0]


def test_two_tabs_overwrite_nothing(store):
    (number,) = store.add([question("q")])
    store.record("ana", number, Answer(rank=[0, 1]), id="first")
    with pytest.raises(Conflict, match="another tab"):
        store.record("ana", number, Answer(rank=[1, 0]), id="second")
    store.record("ana", number, Answer(rank=[1, 0]), id="second", replaces="first")
    with pytest.raises(Conflict):
        store.record("ana", number, Answer(), id="third", replaces="first")
    assert [a.id for a in store.answers()] == ["second"]
    rows = sqlite3.connect(store.path).execute("SELECT id FROM answers ORDER BY number").fetchall()
    assert rows == [("first",), ("second",)]  # what was replaced is kept


def test_many_threads_and_two_connections_lose_nothing(store):
    ids = store.add([question(f"q{i}") for i in range(20)])
    other = Store(store.path)

    def work(name, store):
        for number in ids:
            store.record(name, number, Answer(rank=[0, 1]))

    threads = [
        threading.Thread(target=work, args=(f"name{i}", (store, other)[i % 2])) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(a.annotator, a.question) for a in other.answers()}) == 80
    other.close()


def test_what_a_kill_leaves_is_there(store):
    """A second connection reads an answer while the first has it open and uncheckpointed."""
    (number,) = store.add([question("q")])
    store.record("ana", number, Answer(rank=[0, 1]))
    with Store(store.path, create=False) as other:
        assert [a.annotator for a in other.answers()] == ["ana"]
        assert other.token("ana") == store.token("ana") != store.token("ben")


def test_back_through_the_answers(store):
    ids = store.add([question(f"q{i}") for i in range(3)])
    for number in ids:
        store.record("ana", number, Answer(rank=[0, 1]), id=f"answer{number}")
    assert store.previous("ana") == ids[2] and store.previous("ana", ids[2]) == ids[1]
    assert store.previous("ana", ids[0]) is None and store.previous("ben") is None


def test_the_least_sure_come_first(store):
    ids = store.add([question(f"q{i}", doubt=d) for i, d in enumerate((0.1, 0.5, None, 0.3))])
    asked = answer_all(store, "ana", order="uncertain")
    assert asked == [ids[1], ids[3], ids[0], ids[2]]


def test_gold_questions_are_mixed_in_for_everybody(store):
    golds = store.add([question(f"gold{i}", gold=[0, 1]) for i in range(2)])
    ids = store.add([question(f"q{i}") for i in range(3 * GOLD_EVERY)])
    total, seen = store.progress("ana")[1], []
    while found := store.next("ana"):
        done, left = store.progress("ana")
        assert done + left == total == len(ids) + 2  # the count does not tell them apart
        store.record("ana", found.id, Answer(rank=[0, 1]))
        seen.append(found.id)
    places = [seen.index(number) for number in golds]
    assert sorted(place // GOLD_EVERY for place in places) == [0, 1]
    assert is_right(Answer(rank=[0, 1]), [0, 1]) and not is_right(Answer(rank=[0, 0]), [0, 1])
    assert is_right(Answer(), [0, 1]) is None


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (Answer(rank=[0]), "a rank of 1"),
        (Answer(unsafe=[2]), "unsafe"),
        (Answer(order=[0, 0]), "order"),
    ],
)
def test_an_answer_fits_its_question(store, bad, match):
    (number,) = store.add([question("q")])
    with pytest.raises(DataError, match=match):
        store.record("ana", number, bad)
    with pytest.raises(DataError, match="no question 9"):
        store.record("ana", 9, Answer())
    assert store.answers() == []


def test_what_cannot_be_compared_is_refused(store):
    for texts in (["a"], ["a", " a "], ["a", ""], list("abcde")):
        with pytest.raises(DataError):
            store.add([Question([{"role": "user", "content": "q"}], list(map(Candidate, texts)))])
    assert store.questions() == []


def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "a.db"
    path.write_text("no database, and long enough to be looked at " * 30)
    with pytest.raises(DataError, match="no database of answers"):
        Store(path)
    assert path.read_text().startswith("no database")
    other = sqlite3.connect(tmp_path / "b.db")
    other.execute("CREATE TABLE questions (x)")
    other.commit()
    with pytest.raises(DataError, match="database of something else"):
        Store(tmp_path / "b.db")
    with pytest.raises(DataError, match="there is no"):
        Store(tmp_path / "c.db", create=False)

import numpy as np
import pytest

from train.tasks.scoring.packing import fill, pack
from train.tasks.scoring.pieces import make_pieces
from train.tasks.scoring.tokens import Passage


def test_two_choices_are_a_trunk_and_two_branches():
    """Context 1 2 3, choices 4 5 and 4 6 7: ids 1 2 3 4 are read once, and 6 alone in a branch."""
    passages = [Passage([1, 2, 3, 4, 5], 2), Passage([1, 2, 3, 4, 6, 7], 3)]
    (piece,) = make_pieces([passages], forks=True)
    assert piece.tokens.tolist() == [1, 2, 3, 4, 6]
    assert piece.positions.tolist() == [0, 1, 2, 3, 4]
    assert piece.branches.tolist() == [0, 0, 0, 0, 2]
    assert piece.places.tolist() == [2, 3, 2, 3, 4]
    assert piece.targets.tolist() == [4, 5, 4, 6, 7]
    assert piece.owners.tolist() == [0, 0, 1, 1, 1]
    alone = make_pieces([passages], forks=False)
    assert [p.tokens.tolist() for p in alone] == [[1, 2, 3, 4], [1, 2, 3, 4, 6]]
    rows = fill([[alone[0], alone[1]]], 2, 16, 4)
    assert rows.tokens[0].tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 6] + [0] * 7
    assert rows.segment_ids[0].tolist() == [1] * 4 + [2] * 5 + [0] * 7
    assert rows.places[0].tolist() == [2, 3, 6, 7, 8, 0, 0, 0] and not rows.tokens[1].any()
    assert rows.owners[0].tolist() == [0, 0, 1, 1, 1, -1, -1, -1]


def test_many_choices_are_divided_among_pieces_that_fit_a_row():
    rng = np.random.default_rng(0)
    context = rng.integers(1, 99, 900).tolist()
    passages = [Passage(context + rng.integers(1, 99, 400).tolist(), 400) for i in range(7)]
    pieces = make_pieces([passages], forks=True)
    assert len(pieces) == 4 and max(piece.size for piece in pieces) <= 2048
    assert sorted({int(i) for piece in pieces for i in piece.owners}) == list(range(7))


@pytest.mark.parametrize("longest", [40, 500, 1100, 3000])
def test_rows_hold_every_piece_once_and_waste_little(longest):
    rng = np.random.default_rng(0)
    lengths = rng.integers(longest // 2, longest, 200)
    passages = [Passage([i] * (n + 1), 1) for i, n in enumerate(lengths.tolist())]
    pieces = make_pieces([passages], forks=True)
    groups = list(pack(pieces, embed_dim=576))
    packed = [piece for group in groups for row in group.rows for piece in row]
    assert sorted(len(piece.tokens) for piece in packed) == sorted(lengths.tolist())
    for group in groups:
        sizes = [sum(piece.size for piece in row) for row in group.rows]
        assert max(sizes) <= group.length and group.length % 128 == 0 and not group.forks
    room = sum(group.length * len(group.rows) for group in groups)
    assert room < 1.25 * lengths.sum() and len(groups) <= 3


def test_the_same_examples_before_all_questions_are_computed_once():
    """Three questions of 4 choices after 200 ids: the questions are worth a trunk of their own
    only if they are longer than the examples."""
    rng = np.random.default_rng(0)
    examples = rng.integers(1, 99, 200).tolist()

    def questions(size):
        for _ in range(3):
            question = [*examples, *rng.integers(1, 99, size).tolist()]
            yield [Passage([*question, *rng.integers(1, 99, 5).tolist()], 5) for _ in range(4)]

    (piece,) = make_pieces(questions(10), forks=True)
    assert len(piece.tokens) == 200 + 12 * (10 + 4) and sorted(set(piece.owners)) == [*range(12)]
    pieces = make_pieces(questions(150), forks=True)
    assert [len(piece.tokens) for piece in pieces] == [200 + 150 + 4 * 4] * 3

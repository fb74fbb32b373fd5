import numpy as np
import pytest

from train.tasks.scoring.packing import fill, make_pieces, pack
from train.tasks.scoring.tokens import Passage


def test_two_choices_are_a_trunk_and_two_branches():
    """Context 1 2 3, choices 4 5 and 4 6 7: ids 1 2 3 4 are read once, and 6 alone in a branch."""
    passages = [(7, Passage([1, 2, 3, 4, 5], 2)), (8, Passage([1, 2, 3, 4, 6, 7], 3))]
    (piece,) = make_pieces(passages, forks=True)
    assert piece.tokens.tolist() == [1, 2, 3, 4, 6]
    assert piece.positions.tolist() == [0, 1, 2, 3, 4]
    assert piece.branches.tolist() == [0, 0, 0, 0, 2]
    assert piece.places.tolist() == [2, 3, 2, 3, 4]
    assert piece.targets.tolist() == [4, 5, 4, 6, 7]
    assert piece.owners.tolist() == [7, 7, 8, 8, 8]
    alone = list(make_pieces(passages, forks=False))
    assert [p.tokens.tolist() for p in alone] == [[1, 2, 3, 4], [1, 2, 3, 4, 6]]
    rows = fill([[alone[0], alone[1]]], 2, 16, 4)
    assert rows.tokens[0].tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 6] + [0] * 7
    assert rows.segment_ids[0].tolist() == [1] * 4 + [2] * 5 + [0] * 7
    assert rows.places[0].tolist() == [2, 3, 6, 7, 8, 0, 0, 0] and not rows.tokens[1].any()
    assert rows.owners[0].tolist() == [7, 7, 8, 8, 8, -1, -1, -1]


def test_many_choices_are_divided_among_pieces_that_fit_a_row():
    rng = np.random.default_rng(0)
    context = rng.integers(1, 99, 900).tolist()
    passages = [(i, Passage(context + rng.integers(1, 99, 400).tolist(), 400)) for i in range(7)]
    pieces = list(make_pieces(passages, forks=True))
    assert len(pieces) == 4 and max(piece.size for piece in pieces) <= 2048
    assert sorted({int(i) for piece in pieces for i in piece.owners}) == list(range(7))


@pytest.mark.parametrize("longest", [40, 500, 1100, 3000])
def test_rows_hold_every_piece_once_and_waste_little(longest):
    rng = np.random.default_rng(0)
    lengths = rng.integers(longest // 2, longest, 200)
    passages = [(i, Passage([1] * (n + 1), 1)) for i, n in enumerate(lengths.tolist())]
    pieces = [piece for passage in passages for piece in make_pieces([passage], forks=True)]
    groups = list(pack(pieces, embed_dim=576))
    packed = [piece for group in groups for row in group.rows for piece in row]
    assert sorted(len(piece.tokens) for piece in packed) == sorted(lengths.tolist())
    for group in groups:
        sizes = [sum(piece.size for piece in row) for row in group.rows]
        assert max(sizes) <= group.length and group.length % 128 == 0 and not group.forks
    room = sum(group.length * len(group.rows) for group in groups)
    assert room < 1.25 * lengths.sum() and len(groups) <= 3

"""The parts of a start-up, from a diary written by hand."""

from benchmarks.startup import __main__ as startup

DIARY = {
    "spawned": 100.0,
    "phases": [
        ["setting up", 102.0, 103.0, 1.5, 2.5],
        ["evaluating", 103.5, 107.5, 2.5, 8.5],
    ],
    "events": [
        ["trace", "outer", 103.5, 105.0],
        ["trace", "inner", 104.0, 104.5],  # within the other
        ["compile", "outer", 105.0, 107.0],
        ["compile", "small", 107.6, 107.8],
    ],
    "end": [108.0, 9.0],
}


def test_nested_intervals_count_once_and_the_parts_make_up_the_whole():
    parts = startup.parts(DIARY)
    assert next(iter(parts)) == "Python, imports, flags" and parts["all"]["seconds"] == 8.0
    evaluating = parts["evaluating"]
    assert evaluating == {"seconds": 4.0, "processor": 6.0, "trace": 1.5, "compile": 2.0}
    for key, whole in parts["all"].items():
        assert abs(sum(p[key] for name, p in parts.items() if name != "all") - whole) < 1e-9
    assert abs(parts["between these"]["compile"] - 0.2) < 1e-9


def test_the_tables_have_a_row_a_part_and_a_row_a_program():
    rows = startup.rows({"empty cache": [DIARY], "full cache": [DIARY]})
    assert ["evaluating", *["4.0, 6.0; 1.5, 2.0"] * 2] in rows
    assert startup.programs(DIARY, 1) == [["outer", "2.00"], ["all 2", "2.20"]]

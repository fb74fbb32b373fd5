"""The table of preparing and loading: which sides are compared, and which way."""

from benchmarks.data import __main__ as command


def test_a_ratio_is_of_times_when_preparing_and_of_rates_when_loading():
    preparing = {"ours": [2.0, 4.0], "datasets.map, save_to_disk": [6.0, 8.0]}
    rates = {name: [3e6, 5e6] for name in (*command.OURS, command.GRAIN, *command.KINDS)}
    rates[command.OURS[1]] = [1.5e6, 2.5e6]
    rows = command.compared(preparing, rates).rows
    assert rows[0] == [
        "preparing, s", "3.00 (2.00 to 4.00)",
        "datasets.map, save_to_disk: 7.00 (6.00 to 8.00)", "2.50",
    ]  # fmt: skip
    assert [row[-1] for row in rows[1:]] == ["1"] * 4 + ["0.5"] * 4 + ["1"]
    assert rows[1][1] == "4.0 (3.0 to 5.0)" and rows[2][:2] == ["", ""]
    assert rows[-1][2].startswith("datasets, the same, columns of fixed length")


def test_without_datasets_ours_stands_beside_grain():
    rates = {name: [1e6] for name in (*command.OURS, command.GRAIN)}
    rows = command.compared({"ours": [1.0]}, rates).rows
    assert [row[2] for row in rows] == [f"{command.GRAIN}: 1.0"] * 2

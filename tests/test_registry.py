"""Registries: rows by name, and the groups of settings that grow with them."""

import dataclasses
from typing import Annotated

import pytest

import ranges
import registry
from ranges import ConfigError, Positive, Range
from registry import Registry


@dataclasses.dataclass(frozen=True)
class Staircase:
    stairs: Annotated[int, Range(1, 100)] = 4
    drop: Positive = 0.5

    def __post_init__(self):
        if self.stairs * self.drop > 100:
            raise ConfigError("too steep")


@pytest.fixture
def schedules():
    table = Registry("schedule", "optimizer.schedule")
    table.register("constant", "a row")
    return table


def test_a_row_is_found_by_its_name_and_by_no_other(schedules):
    schedules.register("staircase")(print)
    assert list(schedules) == ["constant", "staircase"]
    assert schedules.find("staircase") is schedules["staircase"] is print
    with pytest.raises(ConfigError, match=r"optimizer\.schedule='constent'; .*mean constant"):
        schedules.find("constent")
    with pytest.raises(ConfigError, match="two of the schedule 'constant'"):
        schedules.register("constant", "another")


def test_groups_of_settings_grow_with_the_rows(schedules):
    schedules.register("cosine", "a row", settings=dataclasses.make_dataclass(
        "Cosine", [("final", Positive, 0.1)], frozen=True
    ))  # fmt: skip

    @registry.open_to(schedules.fields)
    @dataclasses.dataclass(frozen=True)
    class Optimizer:
        schedule: str = "constant"
        rate: Positive = 1.0

        def __post_init__(self):
            ranges.check(self, "optimizer.")

    @dataclasses.dataclass(frozen=True)
    class Run:
        steps: int = 3
        optimizer: Optimizer = Optimizer(rate=2.0)

    Run.__annotations__["optimizer"] = Optimizer  # no module holds it

    assert registry.current(Run) is Run
    assert Optimizer().final == 0.1

    schedules.register("staircase", "a row", settings=Staircase)
    grown = registry.current(Run)
    run = grown()
    assert isinstance(run, Run) and grown.__name__ == "Run"
    assert dataclasses.asdict(run) == dict(
        steps=3, optimizer=dict(schedule="constant", rate=2.0, final=0.1, stairs=4, drop=0.5)
    )
    assert registry.grow(Run(steps=5)) == dataclasses.replace(run, steps=5)
    assert schedules.arguments("staircase", run.optimizer) == {"settings": Staircase()}
    assert schedules.arguments("constant", run.optimizer) == {}

    with pytest.raises(ConfigError, match=r"optimizer\.stairs=0; it must be at least 1"):
        dataclasses.replace(run.optimizer, stairs=0)
    with pytest.raises(ConfigError, match="too steep"):
        schedules.arguments("staircase", dataclasses.replace(run.optimizer, drop=99.0))


def test_settings_need_defaults_and_names_of_their_own(schedules):
    with pytest.raises(ConfigError, match=r"Bare\.stairs has no default"):
        bare = dataclasses.make_dataclass("Bare", [("stairs", int)], frozen=True)
        schedules.register("bare", "a row", settings=bare)
    schedules.register("one", "a row", settings=Staircase)
    schedules.register("two", "a row", settings=Staircase)
    with pytest.raises(ConfigError, match="there are two settings 'drop' in one group; rename one"):
        schedules.fields()


def test_a_row_s_setting_does_not_take_the_place_of_a_group_s_own(schedules):
    @registry.open_to(schedules.fields)
    @dataclasses.dataclass(frozen=True)
    class Optimizer:
        stairs: int = 1

    schedules.register("staircase", "a row", settings=Staircase)
    with pytest.raises(ConfigError, match="Optimizer has a setting 'stairs' already; rename the"):
        registry.current(Optimizer)

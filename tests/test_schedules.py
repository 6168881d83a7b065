import pytest
import reference

from prunella import Constant, Cubic, Ladder, Linear, OneShot, UsageError

RAMPS = [(0, 40, 10), (4, 68, 5), (9, 31, 5), (7, 8, 3), (10, 60, 1)]


@pytest.mark.parametrize(("begin", "end", "every"), RAMPS)
@pytest.mark.parametrize("after", ["freeze", "reselect"])
@pytest.mark.parametrize(("kind", "oracle"), [(Cubic, "cubic"), (Linear, "linear")])
def test_ramps_agree_with_the_transcription(kind, oracle, begin, end, every, after):
    schedule = kind(0.8, begin=begin, end=end, every=every, initial=0.2, after=after)
    for step in range(80):
        expected = getattr(reference, oracle)(step, 0.8, begin, end, initial=0.2)
        assert schedule.sparsity(step) == pytest.approx(expected, abs=1e-12)
        assert schedule.updates(step) == reference.updates(step, begin, end, every, after)


@pytest.mark.parametrize(("begin", "end", "every"), RAMPS)
@pytest.mark.parametrize("after", ["freeze", "reselect"])
def test_the_final_sparsity_is_always_reached(begin, end, every, after):
    schedule = Cubic(0.9, begin=begin, end=end, every=every, after=after)
    updates = [step for step in range(100) if schedule.updates(step)]
    assert updates[0] == schedule.first_update()
    assert schedule.final_update() in updates
    assert schedule.final_update() <= end + 1
    assert schedule.sparsity(schedule.final_update()) == 0.9
    assert schedule.resolve(schedule.final_update() + 1) == schedule
    with pytest.raises(UsageError, match="last mask selection falls on step"):
        schedule.resolve(schedule.final_update())


def test_constant_and_one_shot():
    assert [Constant(0.5, begin=3, end=9).sparsity(t) for t in (2, 3, 4, 9, 20)] == [0, *[0.5] * 4]
    shot = OneShot(0.5, begin=0.25).resolve(100)
    assert [t for t in range(100) if shot.updates(t)] == [25]
    assert shot.sparsity(25) == 0.5
    assert shot.frozen(25)
    with pytest.raises(UsageError, match="OneShot selects once"):
        OneShot(0.5, after="reselect")


def test_fractions_need_the_length_and_steps_do_not():
    assert Cubic(0.9).resolve(507) == Cubic(0.9, begin=51, end=355)
    assert Cubic(0.9, begin=20, end=1.0).resolve(100) == Cubic(0.9, begin=20, end=99)
    assert Cubic(0.9, begin=20, end=1.0, after="reselect").resolve(100).end == 98
    steps = Cubic(0.9, begin=0, end=5)
    assert steps.resolve(None) == steps.resolve(6) == steps
    with pytest.raises(UsageError, match="length is not known"):
        Cubic(0.9).resolve(None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"final": 1.0}, r"final sparsity 1.0 is outside \[0, 1\)"),
        ({"final": -0.1}, "final sparsity -0.1"),
        ({"final": float("nan")}, "final sparsity nan"),
        ({"final": 90}, "final sparsity 90"),
        ({"initial": 1.5}, "initial sparsity 1.5"),
        ({"begin": 0.7, "end": 0.7}, "begins at 0.7 and ends at 0.7"),
        ({"begin": 100, "end": 50}, "begins at 100 and ends at 50"),
        ({"begin": -1}, "begin=-1 is no position"),
        ({"end": 1.5}, "end=1.5 is no position"),
        ({"begin": float("nan")}, "begin=nan is no position"),
        ({"every": 0}, "every=0"),
        ({"every": 2.5}, r"every=2\.5"),
        ({"initial": 0.6}, r"initial sparsity 0\.6 is above the final 0\.5"),
        ({"after": "thaw"}, "after='thaw'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(UsageError, match=message):
        Cubic(**{"final": 0.5} | settings)


def test_more_warmup_and_cooldown_than_steps():
    with pytest.raises(UsageError, match="begins at 200 and ends at 70 in a run of 100 steps"):
        Cubic(0.5, begin=200, end=0.7).resolve(100)
    with pytest.raises(UsageError, match="total_steps=0"):
        Cubic(0.5).resolve(0)
    with pytest.raises(UsageError, match="in a run of 1 steps"):
        Cubic(0.5).resolve(1)


@pytest.mark.parametrize("steps", [22, 97, 1000])
@pytest.mark.parametrize("levels", [(0.5,), (0.3, 0.6, 0.9), Ladder.levels])
def test_a_ladder_reaches_every_level_and_rests_there(
    levels: tuple[float, ...], steps: int
) -> None:
    ladder = Ladder(levels=levels, every=3).resolve(steps)
    sparsities = [ladder.sparsity(t) for t in range(steps)]
    assert sparsities == sorted(sparsities) and sparsities[0] == 0
    selected = [t for t in range(steps) if ladder.updates(t)]
    ends = [*ladder.rests().values(), steps]
    assert list(ladder.rests()) == list(levels[:-1])
    start = ladder.begin
    for level, end in zip(levels, ends, strict=True):
        # The last selection before the end of a level's time is exactly at the level.
        last = max(t for t in selected if t < end)
        assert ladder.sparsity(last) == ladder.sparsity(end - 1) == level
        assert start < last < end
        assert end - last >= (end - start) / 2 - 1.5
        start = end
    assert ladder.final == levels[-1] and ladder.final_update() == selected[-1]
    assert [ladder.frozen(t) for t in range(steps)] == [t >= selected[-1] for t in range(steps)]
    assert ladder.first_update() == selected[0]


def test_ladders_that_cannot_be_climbed() -> None:
    for levels in ((), (0.5, 0.5), (0.8, 0.5), (0.0, 0.5), (0.5, 1.0), (-0.1,)):
        with pytest.raises(UsageError, match="must rise"):
            Ladder(levels=levels)
    with pytest.raises(UsageError, match="train longer"):
        Ladder(begin=0, end=10)
    with pytest.raises(UsageError, match="begin must come before end"):
        Ladder(begin=10, end=10)

"""How many are done at once, by what the last took."""

from listener.pace import Pace


def test_it_begins_with_the_most_and_keeps_it_while_that_is_fast() -> None:
    pace = Pace(500, aim=2.0)
    pace.took(500, 0.5)
    assert pace.size == 500


def test_what_was_too_slow_is_tried_with_a_quarter_down_to_one() -> None:
    pace, sizes = Pace(500, aim=2.0), []
    for _ in range(6):
        pace.too_slow(pace.size)
        sizes.append(pace.size)
    assert sizes == [125, 31, 7, 1, 1, 1]


def test_a_small_batch_that_was_too_slow_tells_of_large_ones() -> None:
    pace = Pace(500, aim=2.0)
    pace.too_slow(8)
    assert pace.size == 2


def test_what_took_longer_than_it_should_shrinks_to_what_the_rate_allows() -> None:
    pace = Pace(2000, aim=5.0)
    pace.took(2000, 20.0)
    assert pace.size == 500
    pace.took(1, 60.0)
    assert pace.size == 1


def test_what_is_fast_grows_to_the_double_and_to_the_most() -> None:
    pace, sizes = Pace(20, aim=2.0), []
    pace.too_slow(20)
    for _ in range(4):
        pace.took(pace.size, 0.01)
        sizes.append(pace.size)
    assert sizes == [10, 20, 20, 20]


def test_it_does_not_grow_to_what_would_be_too_slow() -> None:
    """A second each: two are in time, three would not be."""
    pace = Pace(500, aim=2.0)
    pace.too_slow(4)
    for _ in range(5):
        pace.took(pace.size, 1.0 * pace.size)
    assert pace.size == 2


def test_a_small_portion_that_was_fast_tells_nothing_of_large_ones() -> None:
    pace = Pace(500, aim=2.0)
    pace.too_slow(100)
    pace.took(3, 0.01)
    assert pace.size == 25

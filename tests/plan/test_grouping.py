"""Which small videos share a file: everything small does, nothing is in two files, and full files are left alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan.grouping import Held, plan_groups


def waiting(name: str, size: int = 10, rows: int = 4) -> Held:
    return Held(f"{name}-id", name, rows, f"_motionmill/ungrouped/{name}-id.parquet", size, rows, False)


def settle(files: list[tuple[Held, ...]], first: int = 0) -> list[Held]:
    """The videos as they lie once those files are made."""
    settled = []
    for number, file in enumerate(files, first):
        path = f"flow/group-{number}.parquet" if len(file) > 1 else f"flow/{file[0].name}.parquet"
        size, rows = sum(one.share for one in file), sum(one.rows for one in file)
        settled += [replace(one, path=path, size=size, object_rows=rows, settled=True) for one in file]
    return settled


names = st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=10)
sizes = st.integers(1, 60)


@given(st.dictionaries(st.sampled_from("abcdefghijkl"), sizes, max_size=12), st.randoms())
def test_each_video_is_in_one_file_whatever_the_order_they_came_in(videos: dict[str, int], random: object) -> None:
    held = [waiting(name, size) for name, size in videos.items()]
    files = plan_groups(held, below=60, up_to=100)
    shuffled = held.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan_groups(shuffled, 60, 100) == files
    assert sorted(one.name for file in files for one in file) == sorted(videos)
    assert all(sum(one.size for one in file) <= 100 for file in files)
    assert [one.name for file in files for one in file] == sorted(videos), "neighbours by name share files"


@given(st.dictionaries(st.sampled_from("abcdefghijkl"), sizes, max_size=12))
def test_what_is_grouped_stays_as_it_is(videos: dict[str, int]) -> None:
    files = plan_groups([waiting(name, size) for name, size in videos.items()], 60, 100)
    assert plan_groups(settle(files), 60, 100) == []


def test_a_small_file_takes_in_what_has_been_added_and_a_full_one_does_not() -> None:
    small = settle([(waiting("b"), waiting("d"))])
    full = settle([(waiting("e", 40), waiting("f", 40))], 1)
    files = plan_groups([*small, *full, waiting("c")], 60, 100)
    assert [[one.name for one in file] for file in files] == [["b", "c", "d"]]


def test_a_file_with_rows_of_a_video_that_is_gone_is_made_anew() -> None:
    held = settle([(waiting("a", 40), waiting("b", 40), waiting("c", 15))])
    assert plan_groups(held, 60, 100) == []
    assert [[one.name for one in file] for file in plan_groups(held[1:], 60, 100)] == [["b", "c"]]
    assert [[one.name for one in file] for file in plan_groups(held[:1], 60, 100)] == [["a"]]


def test_a_single_small_video_leaves_its_waiting_place_and_is_then_left_alone() -> None:
    files = plan_groups([waiting("a")], 60, 100)
    assert [[one.name for one in file] for file in files] == [["a"]]
    assert plan_groups(settle(files), 60, 100) == []


def test_large_videos_are_never_moved() -> None:
    large = replace(waiting("a", 80), path="flow/a.parquet", settled=True)
    assert [[one.name for one in file] for file in plan_groups([large, waiting("b")], 60, 100)] == [["b"]]

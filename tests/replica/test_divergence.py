"""Who is told to be wrong when replicas differ."""

from __future__ import annotations

from raftkv.divergence import DivergenceWatch

VOTERS = ("n1", "n2", "n3")


def _told(node: str, *digests: str) -> tuple[tuple[int, bytes], ...]:
    return tuple((index, digest.encode()) for index, digest in enumerate(digests, start=1))


def test_replicas_that_agree_are_left_alone() -> None:
    """Reports of different lengths agree where they meet."""
    watch = DivergenceWatch("n1")
    watch.heard("n2", _told("n2", "a", "b"), False)
    watch.heard("n3", _told("n3", "a"), False)
    assert watch.judge(_told("n1", "a", "b", "c"), VOTERS) is None


def test_the_minority_is_wrong_and_the_first_index_is_named() -> None:
    """Two of three agree: the third is wrong from the first index at which it differs."""
    watch = DivergenceWatch("n1")
    watch.heard("n2", _told("n2", "a", "b", "c"), False)
    watch.heard("n3", _told("n3", "a", "x", "y"), False)
    verdict = watch.judge(_told("n1", "a", "b", "c"), VOTERS)
    assert verdict is not None
    assert (verdict.index, verdict.wrong) == (2, ("n3",))


def test_a_leader_can_find_itself_in_the_minority() -> None:
    """Leading makes nobody right."""
    watch = DivergenceWatch("n1")
    for node in ("n2", "n3"):
        watch.heard(node, _told(node, "a", "b"), False)
    verdict = watch.judge(_told("n1", "a", "x"), VOTERS)
    assert verdict is not None
    assert verdict.wrong == ("n1",)


def test_without_a_majority_nobody_is_wrong() -> None:
    """One against one, the third silent: an alarm, and no rebuilding from a replica that may be the bad one."""
    watch = DivergenceWatch("n1")
    watch.heard("n2", _told("n2", "x"), False)
    verdict = watch.judge(_told("n1", "a"), VOTERS)
    assert verdict is not None
    assert verdict.wrong == ()


def test_a_fenced_or_lost_node_is_not_judged() -> None:
    """What a node told before its state was replaced, or before it could no longer be heard, counts no more."""
    watch = DivergenceWatch("n1")
    watch.heard("n2", _told("n2", "x"), False)
    watch.heard("n2", (), True)
    watch.heard("n3", _told("n3", "y"), False)
    watch.forget("n3")
    assert watch.judge(_told("n1", "a"), VOTERS) is None

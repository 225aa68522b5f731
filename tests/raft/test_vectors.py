"""The interaction scripts of etcd's Raft library, replayed (see `etcd_script` for what is compared, and how it is translated).

The scripts are not part of this project. They are looked for beside the checkout, or where ``RAFTKV_VECTORS`` says; without them the
tests are skipped, and say so.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.raft.etcd_script import Replay, read_script

VECTORS = Path(os.environ.get("RAFTKV_VECTORS") or Path(__file__).parents[3] / "shared" / "vectors")
SCRIPTS = VECTORS / "etcd-raft" / "testdata"
needs_vectors = pytest.mark.skipif(not SCRIPTS.is_dir(), reason=f"no vectors at {VECTORS}; set RAFTKV_VECTORS")

REPLAYED: dict[str, int] = {
    "async_storage_writes": 42,
    "async_storage_writes_append_aba_race": 5,
    "campaign": 15,
    "checkquorum": 21,
    "forget_leader_read_only_lease_based": 3,
    "heartbeat_resp_recovers_from_probing": 11,
    "lagging_commit": 15,
    "prevote": 31,
    "prevote_checkquorum": 46,
    "probe_and_replicate": 114,
    "replicate_pause": 20,
    "single_node": 5,
    "slow_follower_after_compaction": 12,
    "snapshot_succeed_via_app_resp": 19,
    "snapshot_succeed_via_app_resp_behind": 18,
}
"""Each script with how many facts of it are compared at the least, so that a replay that compares nothing does not pass."""

CHANGES = "changes the membership, which this core does not do yet"
FORGETS = "ForgetLeader without an election is a verb that this core lacks; peer_lost starts one"
EXCLUDED = {
    "campaign_learner_must_vote": CHANGES,
    "confchange_disable_validation": CHANGES,
    "confchange_v1_add_single": CHANGES,
    "confchange_v1_remove_leader": CHANGES,
    "confchange_v1_remove_leader_stepdown": CHANGES,
    "confchange_v2_add_double_auto": CHANGES,
    "confchange_v2_add_double_implicit": CHANGES,
    "confchange_v2_add_single_auto": CHANGES,
    "confchange_v2_add_single_explicit": CHANGES,
    "confchange_v2_replace_leader": CHANGES,
    "confchange_v2_replace_leader_stepdown": CHANGES,
    "forget_leader": FORGETS,
    "forget_leader_prevote_checkquorum": FORGETS,
}


@needs_vectors
@pytest.mark.parametrize("name", sorted(REPLAYED))
def test_script(name: str) -> None:
    """Both cores agree on every fact of the script, wherever it comes to rest or asks."""
    replay = Replay()
    replay.run(read_script(SCRIPTS / f"{name}.txt"))
    assert not replay.differences, "\n".join(replay.differences)
    assert replay.compared >= REPLAYED[name]


@needs_vectors
def test_every_script_is_replayed_or_excluded() -> None:
    """No script is forgotten: each of the 28 is replayed, or excluded with a reason."""
    found = {path.stem for path in SCRIPTS.glob("*.txt")}
    assert set(REPLAYED) | set(EXCLUDED) == found


def test_the_lists_cover_all_scripts() -> None:
    """Replayed and excluded are 28 together, and no script is both."""
    assert not set(REPLAYED) & set(EXCLUDED)
    assert len(REPLAYED) + len(EXCLUDED) == 28
    assert all(EXCLUDED.values())

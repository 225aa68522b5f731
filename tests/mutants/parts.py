"""Faults in single parts, found by the part's own tests: the router's runs, the crash tests of the log, checks of codecs and borders.

Where a test plants its own fault (a disk that forgets, a clock that runs away) it is named here and stays where it is.
"""

from __future__ import annotations

import hmac
import random
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from raftkv.codec import handshake, peer, resp
from raftkv.codec.frames import FrameDecoder, FrameSender
from raftkv.codec.peer import Transfer
from raftkv.codec.resp import RequestParser
from raftkv.kv import commands, hash_commands, hashed_elements, list_elements, set_commands, sorted_set
from raftkv.kv.collection import Collection
from raftkv.kv.commands import MAX_NESTING
from raftkv.kv.draws import Draws
from raftkv.kv.glob import Pattern
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.replies import Reply
from raftkv.kv.sessions import LIMITS, Sessions
from raftkv.kv.space_commands import Scan
from raftkv.raft import Raft
from raftkv.raft.reads import Reads as Rounds
from raftkv.router import proposals
from raftkv.router.reads import Reads
from raftkv.server.clients import ClientServer
from raftkv.sim.store import ModelStore
from raftkv.storage import identity, replay, segment
from raftkv.storage.plan import Plan
from raftkv.storage.recovery import (
    CopiesAction,
    Copy,
    DirectoryAction,
    RotAction,
    TailAction,
    TailFacts,
    decide_copies,
    decide_directory,
    decide_tail,
)
from raftkv.storage.staging import Staging
from raftkv.storage.wal import Wal
from raftkv.transfer import SnapshotSender
from tests import test_tidy
from tests.codec import test_frames, test_handshake, test_peer, test_resp
from tests.kv import test_hashes_and_sets, test_lists, test_nesting, test_scan, test_sessions, test_sorted_sets
from tests.kv import test_planted_faults as kv
from tests.mutants.mutant import Checks, Mutant, Proof, RouterRuns, Shelf, nothing, title_of
from tests.raft import test_thesis
from tests.replica import test_full_disk, test_transfer
from tests.router import test_planted_faults as router
from tests.router import test_proposals, test_reads
from tests.server import test_clients
from tests.storage import test_checkpoint, test_rot, test_small_files, test_store_conformance
from tests.storage import test_planted_faults as storage
from tests.storage.test_crash import WORKLOADS

SHELF = Shelf()
plant = SHELF.plant

_APPLIED = r"was applied|gave|in the end|answered the same"
_ROUTER: dict[str, tuple[tuple[str, ...], str]] = {
    "resend_under_another_session": (("23", "57"), _APPLIED),
    "never_send_again": (("86",), "still waits|" + _APPLIED),
    "call_what_left_definite": (("83",), r"CLUSTERDOWN|in the end"),
    "send_what_was_called_definite": (("83",), r"CLUSTERDOWN|in the end"),
    "give_back_numbers_that_left": (("86",), _APPLIED),
    "forget_what_could_not_leave": (("86",), "still waits"),
    "answer_the_wrong_group": (("82",), _APPLIED),
    "take_what_a_snapshot_applied_for_new": (("65",), _APPLIED),
    "read_without_waiting_for_writes": (("58",), "GET gave"),
    "write_without_waiting_for_reads": (("87",), "gave"),
    "use_numbers_again": (("25",), "gave|still waits"),
    "read_without_a_round": (("26",), "GET gave|GET shared gave"),
    "read_before_the_point_is_applied": (("73",), "GET gave|GET shared gave"),
    "take_what_a_client_retries_for_new": (("23", "57"), "on roam|roam:"),
    "deliver_replies_as_they_come": (("85",), "too many|gave|still waits|answered"),
}

_PROOFS: list[tuple[tuple[str, ...], Callable[..., object]]] = [
    (("1", "storage 1"), storage.test_hazard_1_term_and_vote_written_one_after_the_other),
    (("2", "storage 1"), storage.test_hazard_2_a_vote_that_is_not_synced),
    (("2", "88"), storage.test_hazard_2_slots_that_take_turns),
    (("3", "storage 1"), storage.test_hazard_3_a_write_that_returns_before_its_sync),
    (("3", "55"), storage.test_hazard_3_and_55_a_report_that_leaves_before_the_sync),
    (("15",), storage.test_hazard_15_an_overwritten_entry_that_comes_back),
    (("32",), storage.test_hazard_32_a_crash_between_snapshot_and_trim),
    (("32",), storage.test_hazard_32_a_beginning_that_is_not_recorded),
    (("35",), storage.test_hazard_35_a_rename_without_a_directory_sync),
    (("35",), storage.test_hazard_35_a_rename_before_the_content_is_synced),
    (("54", "storage 2"), storage.test_hazard_54_a_rotten_last_group_taken_for_torn),
    (("54", "storage 3"), storage.test_hazard_54_a_seal_that_is_not_heeded),
    (("54", "70"), storage.test_hazard_54_a_suspicion_that_a_restart_ends),
    (("90", "storage 8"), storage.test_a_tail_that_is_trusted_in_place_after_a_failed_sync),
    (("storage 8",), storage.test_a_log_that_goes_on_after_an_error),
    (("91", "storage 6"), storage.test_creation_that_writes_the_identity_first),
    (("35",), storage.test_names_that_are_trusted_before_they_are_synced),
    (("22",), kv.test_22_a_local_clock_is_noticed),
    (("22",), kv.test_22_a_local_setting_is_noticed),
    (("23",), kv.test_23_a_retry_that_counts_twice_is_noticed),
    (("57",), kv.test_57_a_session_that_does_not_survive_the_failover_is_noticed),
    (("27",), kv.test_27_a_command_that_stops_the_apply_loop_is_noticed),
    (("28",), kv.test_28_an_entry_applied_twice_is_noticed),
    (("28",), router.test_a_callback_in_the_middle_of_applying_is_caught),
    (("51",), kv.test_51_time_that_stands_still_is_noticed),
    (("61",), kv.test_61_new_rules_before_their_time_are_noticed),
    (("62",), test_frames.test_a_sender_with_one_queue_is_caught),
]

_PROOFS_OF_KINDS: list[tuple[tuple[str, ...], Callable[..., object], str, tuple[Any, ...]]] = [
    (("21",), kv.test_21_the_applied_index_apart_from_the_data_is_noticed, "kind", (kv.SplitPosition, kv.SplitValues)),
    (("50",), kv.test_50_fencing_by_the_wrong_side_is_noticed, "judge", (kv.most_votes, kv.believe_the_first)),
    (("51",), kv.test_51_a_leader_a_year_ahead_is_noticed, "kind", (kv.WallClock, kv.LargestClock)),
    (("59",), kv.test_59_half_of_a_failed_command_is_noticed, "apply", (kv.buggy, kv.failing)),
    (
        ("63",),
        kv.test_63_a_model_that_is_not_like_rocksdb_is_noticed,
        "kind",
        (kv.NeverLosing, kv.AlwaysLosing, kv.LosingFromTheMiddle, kv.LiveScans),
    ),
]


def _known() -> list[Mutant]:
    """The mutants of which everything is elsewhere."""
    made: list[Mutant] = []
    for one in router.PLANTS:
        rows, match = _ROUTER[one.__name__]
        made.append(Mutant(rows, f"router: {one.__name__}", title_of(one), one, RouterRuns(match)))
    for rows, test in _PROOFS:
        made.append(Mutant(rows, test.__name__.removeprefix("test_"), title_of(test), nothing, Proof(test)))
    for rows, test, argument, kinds in _PROOFS_OF_KINDS:
        for kind in kinds:
            name = f"{test.__name__.removeprefix('test_')}: {kind.__name__}"
            made.append(Mutant(rows, name, title_of(kind), nothing, Proof(partial(test, **{argument: kind}))))
    return made


_A_JUMP = Checks((partial(test_sessions.test_a_jump_of_the_clock_makes_no_session_old, 2 * LIMITS.age_ms),), name="checks of the machine")


@plant("93", by=_A_JUMP)
def sessions_make_up_for_a_jump(patch: pytest.MonkeyPatch) -> None:
    """What a jump has beyond the most that one batch may advance is made up for by the batches that follow."""
    owed: dict[int, int] = {}

    def clock_after(sessions: Sessions, clock_ms: int, passed_ms: int) -> int:
        due_ms = owed.get(id(sessions), 0) + (passed_ms if clock_ms else sessions.limits.advance_ms)
        step_ms = min(due_ms, sessions.limits.advance_ms)
        owed[id(sessions)] = due_ms - step_ms
        return clock_ms + step_ms

    patch.setattr(Sessions, "clock_after", clock_after)


@plant("94", by=Checks((test_proposals.test_what_is_nested_too_deeply_does_not_enter_the_log,), "nested too deeply to be read"))
def commands_of_any_depth_enter_the_log(patch: pytest.MonkeyPatch) -> None:
    """A leader takes what another node forwards, however deeply it is nested."""
    patch.setattr(proposals, "may_enter_log", lambda commands: True)


@plant("94", by=Checks((partial(test_nesting.test_what_some_stack_might_not_hold_may_not_enter_the_log, MAX_NESTING + 1),)))
def the_leaders_stack_decides_what_is_too_deep(patch: pytest.MonkeyPatch) -> None:
    """A leader takes whatever it can decode itself."""
    patch.setattr(commands, "nested_deeper", lambda data, most: False)


@plant("84", by=Checks((test_thesis.test_6_4_1_a_transfer_gives_up_the_lease,), name="checks of the core"))
def a_lease_outlives_a_transfer(patch: pytest.MonkeyPatch) -> None:
    """A leader that hands over keeps its lease, although the others' promise is void."""
    patch.setattr(Rounds, "give_up_lease", lambda rounds: None)


# Transfers and checkpoints.


@plant("34", by=Checks((test_transfer.test_a_transfer_brings_all_of_the_state,)))
def the_log_is_cut_under_a_transfer(patch: pytest.MonkeyPatch) -> None:
    """While a snapshot is being sent the log does not wait for it, and when it is there it is too old."""
    patch.setattr(SnapshotSender, "floor", property(lambda sender: None))


_RESUMED = (
    test_transfer.test_an_interrupted_transfer_goes_on_where_it_was,
    test_checkpoint.test_an_interrupted_transfer_goes_on_where_it_was,
)


@plant("34", by=Checks(_RESUMED))
def a_transfer_begins_again_from_nothing(patch: pytest.MonkeyPatch) -> None:
    """What has arrived of a snapshot is forgotten when the transfer is interrupted."""
    patch.setattr(Staging, "_load_progress", lambda staging: setattr(staging, "_progress_bytes", 0))


@plant("storage 4", by=Checks((test_checkpoint.test_a_chunk_that_differs_is_found_and_fetched_again,), "DID NOT RAISE"))
def files_of_a_snapshot_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    """The files of a snapshot are taken as they came."""
    patch.setattr(Staging, "_verify", lambda staging, number, info, file: None)


@plant("storage 7", by=Checks((test_full_disk.test_a_leader_without_space_hands_over_to_who_has_some,)))
def a_leader_without_space_stays(patch: pytest.MonkeyPatch) -> None:
    """The cluster takes no writes while its leader has no space, although others have."""
    patch.setattr(Raft, "give_way", lambda raft, able: None)


# The log and the small files.


@plant("89", by=Checks((partial(storage.sweep, WORKLOADS["appends"]),), "Corrupt"))
def a_seal_is_written_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    """A group and the seal that says that it is durable go to the disk together."""
    original = Wal._write_group

    def write(wal: Any, plan_: Plan) -> None:
        segment = wal._manifest.segments[-1].id
        file = wal._files[segment]
        wal._files[segment] = storage.UnsyncedFile(file)
        try:
            original(wal, plan_)
        finally:
            wal._files[segment] = file
        wal.seal()

    patch.setattr(Wal, "_write_group", write)


_ROT = (
    test_rot.test_rot_is_named_by_file_offset_and_entry,
    partial(test_rot.test_a_flipped_byte_anywhere_in_the_log_is_never_a_silent_loss, sealed=True),
)


@plant("storage 3", by=Checks(_ROT))
def rot_is_cut_off(patch: pytest.MonkeyPatch) -> None:
    """What is bad before the end of the log is dropped, with all that follows it."""

    def cut(facts: TailFacts) -> TailAction:
        action = decide_tail(facts)
        return TailAction.DROP if action is TailAction.CORRUPT else action

    patch.setattr(segment, "decide_rot", lambda facts: RotAction.CORRUPT)
    patch.setattr(replay, "decide_tail", cut)
    patch.setattr(replay._Replay, "_check_closed", lambda self, entry, scan: None)


@plant("storage 5", by=Checks((test_small_files.test_without_a_sound_copy_the_node_does_not_start,), "DID NOT RAISE"))
def a_rotten_identity_is_taken_for_none(patch: pytest.MonkeyPatch) -> None:
    """A node whose identity cannot be read is a new node."""

    def decide(first: Copy, second: Copy, *, differ: bool) -> CopiesAction:
        action = decide_copies(first, second, differ=differ)
        return CopiesAction.NONE if action is CopiesAction.CORRUPT else action

    patch.setattr(identity, "decide_copies", decide)


@plant("storage 6", by=Checks((partial(test_rot.test_a_missing_file_is_named_and_refused, "hard_state"),)))
def a_missing_file_is_made_anew(patch: pytest.MonkeyPatch) -> None:
    """A log of which a file is missing is taken for one that is being created."""
    refused = (DirectoryAction.HARD_STATE_LOST, DirectoryAction.MANIFEST_LOST)

    def decide(**facts: Any) -> DirectoryAction:
        action = decide_directory(**facts)
        return DirectoryAction.CREATE if action in refused else action

    patch.setattr(replay, "decide_directory", decide)


@plant("63", by=Checks((test_store_conformance.test_a_crash_of_the_model_loses_nothing_or_something,)))
def the_model_store_loses_nothing(patch: pytest.MonkeyPatch) -> None:
    """The model of the store keeps in a crash what RocksDB may lose."""
    crash = ModelStore.crash

    def kind(store: ModelStore, rng: Any) -> None:
        store.flush()
        crash(store, rng)

    patch.setattr(ModelStore, "crash", kind)


# The router's numbers, and SCAN.


@plant("81", by=Checks((test_reads.test_two_processes_never_use_the_same_numbers,)))
def numbers_of_reads_begin_at_nothing(patch: pytest.MonkeyPatch) -> None:
    """Each process numbers its reads from 1, so an answer to the one before it fits."""
    original = Reads.__init__

    def init(reads: Reads, replica: Any, settings: Any, send: Any, wake: Any, seed: int) -> None:
        original(reads, replica, settings, send, wake, 0)

    patch.setattr(Reads, "__init__", init)


@plant("77", by=Checks((partial(test_scan.test_a_scan_returns_every_key_once, 3),)))
def a_scan_goes_on_after_the_next_key(patch: pytest.MonkeyPatch) -> None:
    """A cursor names the place after the key that comes next."""
    read = Scan.read

    def skipping(scan: Scan, keys: Keyspace) -> Reply:
        reply = read(scan, keys)
        if isinstance(reply, list) and isinstance(reply[0], bytes) and reply[0] != b"0":
            return [b"%d" % (int(reply[0]) + 1), reply[1]]
        return reply

    patch.setattr(Scan, "read", skipping)


# Collections.


@plant("hashes and sets 1", by=Checks((partial(test_hashes_and_sets.test_nothing_is_left_of_what_is_gone, "set h v|set s v", False),)))
def a_value_leaves_elements_behind(patch: pytest.MonkeyPatch) -> None:
    """What takes the place of a collection leaves its elements where they are."""
    patch.setattr(Changes, "drop_elements", lambda changes, collection: None)


_REMOVED = partial(test_hashes_and_sets.test_nothing_is_left_of_what_is_gone, "hdel h f g x|srem s m n x", False)


@plant("hashes and sets 2", by=Checks((_REMOVED,)))
def removed_elements_still_count(patch: pytest.MonkeyPatch) -> None:
    """An element is removed, and the collection still counts it."""
    original = hashed_elements.remove_named

    def remove(changes: Changes, collection: Collection, names: Any) -> int:
        count = collection.count
        removed = original(changes, collection, names)
        if removed:
            collection.count = count
            changes.save(collection)
        return removed

    patch.setattr(hash_commands, "remove_named", remove)
    patch.setattr(set_commands, "remove_named", remove)


@plant("hashes and sets 3", "22", by=Checks((test_hashes_and_sets.test_members_are_popped_until_none_is_left,)))
def replicas_draw_for_themselves(patch: pytest.MonkeyPatch) -> None:
    """Each node that applies SPOP draws its own random number."""
    own = random.Random(1)
    patch.setattr(set_commands, "Draws", lambda number: Draws(own.getrandbits(63)))


@plant("lists 1", by=Checks((test_lists.test_the_store_holds_the_elements_and_nothing_else,)))
def what_is_cut_off_a_list_stays(patch: pytest.MonkeyPatch) -> None:
    """Only the value of the key says that a list is shorter; the rows of what was at its ends are left to lie."""
    patch.setattr(list_elements, "_drop", lambda changes, elements, start, stop: None)


@plant("sorted sets 1", by=Checks((test_sorted_sets.test_no_row_is_left_behind,)))
def the_place_of_a_changed_member_stays(patch: pytest.MonkeyPatch) -> None:
    """A member of a sorted set that gets another score, or is removed, also stays where the old score had put it."""
    patch.setattr(sorted_set, "drop_place", lambda changes, found, member, score: None)


# The borders.


@plant("security 1", by=Checks((test_tidy.test_nothing_is_pickled,), "pickle"))
def a_module_unpickles(patch: pytest.MonkeyPatch) -> None:
    """A module of the product imports pickle."""
    original = test_tidy.imports

    def imports(source: Any) -> list[Any]:
        found = list(original(source))
        return [*found, (found[0][0], "pickle", "")] if found else found

    patch.setattr(test_tidy, "imports", imports)


@plant("security 2", by=Checks((test_resp.test_a_claimed_count_reserves_nothing,)))
def a_claimed_count_reserves_memory(patch: pytest.MonkeyPatch) -> None:
    """The parser of requests makes room for as many arguments as are announced."""
    begin = RequestParser._begin
    room: list[Any] = []

    def reserve(parser: Any, digits: bytes, last: int) -> None:
        room.append([None] * min(int(digits or b"0"), 1 << 20))
        begin(parser, digits, last)

    patch.setattr(RequestParser, "_begin", reserve)


@plant("security 2", by=Checks((test_frames.test_a_payload_beyond_the_bound_is_refused,), "DID NOT RAISE"))
def payloads_have_no_bound(patch: pytest.MonkeyPatch) -> None:
    """A peer may send a payload of any size."""
    patch.setattr(FrameDecoder, "_check_size", lambda decoder, stream, length: None)


@plant("security 3", by=Checks((test_clients.test_replies_of_one_iteration_are_bounded_too,)))
def output_has_no_bound(patch: pytest.MonkeyPatch) -> None:
    """Replies to a client that does not read are kept, however many they are."""
    original = ClientServer.__init__

    def init(server: Any, *arguments: Any, **named: Any) -> None:
        original(server, *arguments, **named)
        server.max_output_bytes = 1 << 62

    patch.setattr(ClientServer, "__init__", init)


@plant("security 4", by=Checks((test_scan.test_the_cost_of_a_pattern_ends_a_call,)))
def a_pattern_costs_nothing(patch: pytest.MonkeyPatch) -> None:
    """The steps that matching takes are not counted."""
    patch.setattr(Pattern, "cost", lambda pattern, key: 0)


@plant("security 5", by=Checks((test_resp.test_no_text_ends_a_line_early,)))
def texts_are_written_as_they_are(patch: pytest.MonkeyPatch) -> None:
    """Line breaks in the text of an error end the line of the reply."""
    patch.setattr(resp, "_LINE_BREAKS", {})


@plant("security 6", by=Checks((test_handshake.test_an_acceptor_without_the_secret_is_refused,)))
def any_proof_is_believed(patch: pytest.MonkeyPatch) -> None:
    """Who says that he knows the secret is believed."""
    patch.setattr(handshake, "hmac", SimpleNamespace(compare_digest=lambda one, other: True, new=hmac.new, digest=hmac.digest))


@plant("security 8", by=Checks((partial(test_peer.test_a_value_that_is_cut_off_is_refused, *test_peer.VALUES[0]),), "DID NOT RAISE"))
def noise_is_taken_for_a_value(patch: pytest.MonkeyPatch) -> None:
    """What cannot be decoded becomes a value of some kind."""
    original = peer._decoder

    def decode(data: bytes) -> Any:
        try:
            return original.decode(data)
        except msgspec.DecodeError:
            return Transfer("")

    patch.setattr(peer, "_decoder", SimpleNamespace(decode=decode))


@plant("62", by=Checks((test_frames.test_control_overtakes_bulk,)))
def bulk_goes_first(patch: pytest.MonkeyPatch) -> None:
    """What is large is sent before what is small, if it came before it."""
    take = FrameSender.take

    def bulky(sender: Any, max_bytes: int) -> bytes:
        control, bulk = sender._queues
        if not bulk:
            return take(sender, max_bytes)
        sender._queues = (type(control)(), bulk)
        try:
            return take(sender, max_bytes)
        finally:
            sender._queues = (control, bulk)

    patch.setattr(FrameSender, "take", bulky)


MUTANTS = [*_known(), *SHELF.mutants]

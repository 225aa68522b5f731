"""The hazards: what has gone wrong in real Raft systems, by the numbers under which the tests and the comments know them.

A storm proves something about a hazard only if its situation arose. `sim.probes` counts that from outside of the product; a hazard whose
count stays at 0 is not covered. Changes of membership (37 to 43) have their rows when storms change membership.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct


class Hazard(Struct, frozen=True):
    """One row: what is dangerous, and the situation that is counted."""

    number: int
    title: str
    situation: str


_ROWS: Final = (
    (1, "crash between writing term and vote", "a node dies while it writes its hard state"),
    (2, "vote never persisted", "a node that voted before its restart is asked by another candidate of that term"),
    (3, "reply leaves before the fsync that it speaks of", "power fails while messages wait for an fsync"),
    (4, "step-down in the same term clears the vote", "a candidate or leader steps down within its term"),
    (5, "vote response of an older term is counted", "one arrives"),
    (6, "refusal taken for a vote", "a candidate is refused in its term"),
    (7, "own acknowledgement or vote counted in a later term", "one becomes durable when the term has changed"),
    (8, "term changed in the middle of a proposal", "a leader steps down with entries that are not committed"),
    (9, "entry of an earlier term committed by counting", "a leader learns that a majority holds such an entry"),
    (10, "late append truncates a matching suffix", "an append arrives that ends inside of a log that matches it"),
    (11, "acknowledging beyond what was verified", "an append verifies less than the log holds"),
    (12, "rejection moves the commit index", "an append that does not match brings a newer commit index"),
    (13, "commit index goes backwards", "a leader's message brings an older commit index"),
    (14, "match index goes backwards", "an acknowledgement arrives after a newer one"),
    (15, "index overwritten while it is being written", "a conflict below entries that are on their way to the disk"),
    (16, "delayed rejection read as a log that shrank", "a rejection of what is acknowledged already"),
    (17, "leader cannot read its log", "what a leader is to send was cut off before it could be read"),
    (18, "single voter commits before its fsync", "power fails in a cluster of one while an entry is being written"),
    (19, "acknowledgement counted by a later leadership", "one of an earlier term arrives at a node that leads again"),
    (20, "follower commits a tail that nobody verified", "a commit index beyond what the message verified, and a longer log"),
    (21, "applied index apart from the data", "a node starts with a state that is older than it was"),
    (22, "applying depends on something local", "equal states of nodes whose wall clocks differ by more than a second"),
    (23, "retry without a session counts twice", "a command is in the log again"),
    (24, "lease holder paused or its clock jumps", "a node that no longer leads, and believes that it does, is asked for a read"),
    (25, "ReadIndex id used again", "an answer to an earlier round arrives"),
    (26, "read before the first commit of the term", "a new leader is asked for a read before that"),
    (27, "command that raises stops the apply loop", "a command fails while it is applied"),
    (28, "client callback that raises", "a reply for a client that is gone"),
    (29, "conflicting entry at the snapshot's index is kept", "a snapshot replaces a log that has another entry there"),
    (30, "old snapshot cuts off a newer suffix", "a snapshot arrives at a node that has more"),
    (31, "position moves without the data", "a node dies while a snapshot takes the place of its state"),
    (32, "crash between snapshot and log trim", "a node starts with a state that came from a snapshot and a log that does not know of it"),
    (33, "old membership survives a snapshot", "a snapshot brings another configuration"),
    (34, "log purged during a transfer", "the log is cut while a snapshot is being sent"),
    (35, "rename without a directory fsync", "power fails while a rename is not durable"),
    (36, "log cut behind a state in memory", "power fails after the log was cut, with a state that is not flushed"),
    (44, "partial partition", "the leader loses one node that hears the others"),
    (45, "PreVote rejects the only electable node", "a node that believes in a dead leader is asked"),
    (46, "disk hangs while heartbeats go on", "a leader's disk hangs for longer than an election"),
    (47, "transfer flag is never cleared", "a transfer is not over after an election timeout"),
    (48, "caught-up follower stays in probe", "a follower that is probed acknowledges"),
    (49, "returning node deposes a healthy leader", "a leader hears of a newer term"),
    (50, "fencing without a majority", "replicas differ"),
    (51, "leader a year ahead stamps the log", "a node whose wall clock is off by more than a day begins to lead"),
    (52, "connections break during a read lease", "a follower loses a live leader while read leases are on"),
    (53, "two survivors hint at once", "two nodes lose the connection to the leader within 50 ms"),
    (54, "last group rotten and taken for torn", "a node starts and doubts the end of its log"),
    (55, "state flushed beyond the durable log", "power fails while the state holds the newest durable entry and more is being written"),
    (56, "older state decides membership", "a node starts with a configuration in its log that its state does not know"),
    (57, "command sent again without its session", "a group goes to another leader than before"),
    (58, "commands of a connection over two paths", "a pipeline of writes and reads at a node that does not lead"),
    (59, "command fails half-way", "a command fails in the middle of a group"),
    (62, "large value ahead of a heartbeat", "something small leaves while something large is on its way"),
    (63, "model store kinder than RocksDB", "a crash loses batches that were not flushed"),
)

HAZARDS: Final[dict[int, Hazard]] = {number: Hazard(number, title, situation) for number, title, situation in _ROWS}
"""All rows by number."""

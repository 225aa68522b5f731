"""Messages and entries as one short line each, for golden traces.

An entry is named index@term. A configuration is shown by what differs between the ones a trace can meet.
"""

from __future__ import annotations

from raftkv.raft.membership import decode_configuration
from raftkv.raft.messages import (
    Append,
    AppendRejected,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    PreVote,
    PreVoteResponse,
    SnapshotRequest,
    TimeoutNow,
    Vote,
    VoteResponse,
)
from raftkv.raft.types import Configuration, Entry, EntryId, EntryKind


def entry_id(entry: EntryId) -> str:
    """``3@2``: the entry at index 3 of term 2."""
    return f"{entry.index}@{entry.term}"


def entry_text(entry: Entry) -> str:
    """``3@2 x``: with what it carries."""
    if entry.kind is EntryKind.NOOP:
        return f"{entry_id(entry.id)} noop"
    if entry.kind is EntryKind.CONFIGURATION:
        return f"{entry_id(entry.id)} configuration({configuration_text(decode_configuration(entry.payload))})"
    text = entry.payload.decode("ascii", "replace")
    return f"{entry_id(entry.id)} {text if len(text) <= 12 else f'{text[:8]}…{len(text)}'}"


def configuration_text(configuration: Configuration) -> str:
    """``n1:101 n2:102``: each member with its incarnation, then who does not simply vote."""
    parts = [f"{member.id}:{member.incarnation}" for member in configuration.members]
    if configuration.outgoing:
        parts.append(f"voters {'+'.join(configuration.voters)} outgoing {'+'.join(configuration.outgoing)}")
    if configuration.learners:
        parts.append(f"learners {'+'.join(configuration.learners)}")
    if configuration.lease_reads:
        parts.append("lease")
    return " ".join(parts)


def body(message: Message) -> str:
    """What a message says beyond its kind and its term."""
    match message:
        case PreVote():
            return f"for term {message.campaign_term}, log ends at {message.last_index}@{message.last_term}"
        case PreVoteResponse():
            return f"{'granted' if message.granted else 'rejected'} for term {message.campaign_term}"
        case Vote():
            transfer = ", transfer" if message.transfer else ""
            return f"log ends at {message.last_index}@{message.last_term}{transfer}"
        case VoteResponse():
            return "granted" if message.granted else "rejected"
        case Append():
            entries = f" [{', '.join(map(entry_text, message.entries))}]" if message.entries else ""
            return f"after {message.prev_index}@{message.prev_term}{entries} commit {message.commit}"
        case AppendResponse():
            return f"match {message.match}{'' if message.counts else ', does not count'}"
        case AppendRejected():
            hint = f"{message.hint_index}@{message.hint_term}"
            doubt = "" if message.counts else ", does not count"
            return f"not after {message.rejected_index}, try {hint}, log ends at {message.last_index}{doubt}"
        case Heartbeat():
            return f"round {message.round} commit {message.commit}"
        case HeartbeatResponse():
            return f"round {message.round}{'' if message.counts else ', does not count'}"
        case InstallSnapshot():
            return f"at {message.snapshot.index}@{message.snapshot.term}"
        case SnapshotRequest():
            return message.reason
        case TimeoutNow():
            return ""


def message_text(message: Message) -> str:
    """``n1 → n2 Append t2 after 1@1 [2@2 x] commit 1``."""
    return f"{message.sender} → {message.to} {type(message).__name__} t{message.term} {body(message)}".rstrip()

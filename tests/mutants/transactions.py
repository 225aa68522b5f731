"""Faults planted in transactions: in what is watched, in what is applied, and in what a connection queues."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from raftkv.kv import commands, transactions
from raftkv.kv.applying import apply_one
from raftkv.kv.keyspace import Changes, Values
from raftkv.kv.replies import Failure, Reply
from raftkv.kv.rows import value_key
from raftkv.kv.transactions import Transaction
from raftkv.router.connection import Connection
from raftkv.router.transactions import ClientTransaction, Transactions
from tests.kv import test_transactions as machine
from tests.mutants import storms
from tests.mutants.mutant import Checks, Shelf, Storms
from tests.router import test_transactions as router

SHELF = Shelf()
plant = SHELF.plant

_apply = Transaction.apply

TRANSFERS = replace(storms.QUIET, load=replace(storms.QUIET.load, transfers=0.6, clients=8))
"""Clients that move money, all at the same accounts."""


@plant("transaction 1", by=Storms(("transactions",), TRANSFERS))
def what_is_watched_may_change(patch: pytest.MonkeyPatch) -> None:
    """A transaction is applied although a watched key has changed."""
    patch.setattr(Transaction, "apply", lambda command, changes: _apply(Transaction((), command.commands), changes))


def _blind(keys: Values, key: bytes) -> int:
    value = keys.value(key)
    return -1 if value is None else value.revision


@plant("transaction 1", by=Storms(("transactions",), TRANSFERS))
def deletions_are_no_changes(patch: pytest.MonkeyPatch) -> None:
    """A key that was not there, came, and was deleted, is as it was for a transaction that watches it."""
    patch.setattr(Values, "revision", _blind)


@plant("transaction 1", by=Checks((partial(machine.check_a_key_that_came_and_went_is_noticed, ["set k 1", "flushall"], False),)))
def deleting_all_keys_leaves_no_trace(patch: pytest.MonkeyPatch) -> None:
    """What FLUSHALL deletes is taken for never having been there."""
    patch.setattr(Changes, "_is_empty", lambda changes: True)


@plant("transaction 1", by=Checks((partial(machine.test_a_key_that_expires_has_changed, False),)))
def what_expires_leaves_no_trace(patch: pytest.MonkeyPatch) -> None:
    """The row of an expired key goes away, and with it what is known of it."""
    patch.setattr(Changes, "expire", lambda changes, key, row: changes.delete_row(value_key(key)))


@plant("transaction 1", by=Checks((router.test_a_watch_that_failed_stops_the_transaction,)))
def a_watch_that_failed_is_none(patch: pytest.MonkeyPatch) -> None:
    """Who could not be told what a key was is taken for one who watches nothing."""
    patch.setattr(ClientTransaction, "watch_lost", property(lambda transaction: False, lambda transaction, lost: None))


@plant("transaction 2", by=Storms(("transactions", "linearizable reads", "final state"), TRANSFERS))
def a_stopped_transaction_is_done_by_half(patch: pytest.MonkeyPatch) -> None:
    """What was watched has changed, which is found when the first command is done, and the rest is not."""

    def apply(command: Transaction, changes: Changes) -> Reply:
        if any(changes.revision(key) != revision for key, revision in command.watches):
            apply_one(command.members()[0], changes)
            return None
        return _apply(command, changes)

    patch.setattr(Transaction, "apply", apply)


@plant("transaction 2", by=Checks((machine.test_a_command_that_fails_leaves_the_others_in_force,)))
def a_command_that_fails_undoes_the_transaction(patch: pytest.MonkeyPatch) -> None:
    """All commands of a transaction share one savepoint."""
    patch.setattr(transactions, "apply_one", lambda command, changes: command.apply(changes))


@plant("transaction 2", by=Checks((router.test_a_transaction_is_one_command_of_the_log,)))
def exec_sends_commands_one_by_one(patch: pytest.MonkeyPatch) -> None:
    """The commands of a transaction are writes of their own, between which others may come."""

    def execute(self: Transactions, client: Connection, deadline_ms: int, refusal: Failure | None) -> bool:
        items: list[Any] = client.transaction.items or []
        client.transaction.abandon()
        for item in items:
            self._write(client, item, 10, deadline_ms)
        return True

    patch.setattr(Transactions, "_exec", execute)


@plant("transaction 3", by=Checks((partial(router.test_an_overloaded_node_executes_no_part_of_a_transaction_on_its_own, 2),)))
def a_refused_multi_begins_nothing(patch: pytest.MonkeyPatch) -> None:
    """What an overloaded node refuses is forgotten, also when it was the beginning of a transaction."""
    patch.setattr(Transactions, "refuse", lambda transactions, client, name, failure: client.reply(failure))


@plant("transaction 3", by=Checks((partial(router.test_replies_are_those_of_redis, "unknown"),)))
def a_wrong_command_spoils_nothing(patch: pytest.MonkeyPatch) -> None:
    """The rest of a transaction is done although one of its commands was refused."""
    patch.setattr(ClientTransaction, "spoil", lambda transaction: None)


@plant("94", by=Checks((partial(machine.test_what_is_no_list_of_commands_is_refused_by_the_leader_and_harmless, b"junk"),)))
def anything_is_taken_for_a_transaction(patch: pytest.MonkeyPatch) -> None:
    """A leader does not look at what the transactions of another node are made of."""
    patch.setattr(commands, "_may_be_transaction", lambda data: True)


@plant("28", by=Checks((router.test_what_concerns_the_connection_is_not_executed_while_an_entry_is_applied,)))
def exec_is_answered_while_an_entry_is_applied(patch: pytest.MonkeyPatch) -> None:
    """What concerns the connection is executed as soon as the transaction has been, in the middle of applying."""
    fill = Connection._fill

    def at_once(connection: Connection, ticket: int, replies: list[Reply]) -> None:
        fill(connection, ticket, replies)
        connection.settle()

    patch.setattr(Connection, "_fill", at_once)


@plant("security 2", by=Checks((router.test_a_transaction_is_as_large_as_an_entry_at_most,)))
def a_connection_queues_without_bound(patch: pytest.MonkeyPatch) -> None:
    """What is queued between MULTI and EXEC has no limit."""
    queue = Transactions._queue

    def unbounded(self: Transactions, transaction: ClientTransaction, *arguments: Any) -> Reply:
        size, transaction._size = transaction._size, -(1 << 40)
        try:
            return queue(self, transaction, *arguments)
        finally:
            transaction._size += size + (1 << 40)

    patch.setattr(Transactions, "_queue", unbounded)


@plant("security 3", by=Checks((machine.test_the_replies_take_a_bounded_amount_of_memory,)))
def the_replies_to_a_transaction_have_no_bound(patch: pytest.MonkeyPatch) -> None:
    """A transaction of many reads of a large value makes replies larger than the memory of every node."""
    patch.setattr(transactions, "reply_bytes", lambda reply: 0)

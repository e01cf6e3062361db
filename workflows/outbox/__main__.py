"""Looks at the outbox: `python -m workflows.outbox list | show ID | retry ID | dead`."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from workflows.command_line import DONE, FAILED, WRONG_USE, add_common
from workflows.log import LogError, Store, open_store
from workflows.outbox.collecting import read_found
from workflows.outbox.dispatcher import retry
from workflows.outbox.errors import NoSuchDelivery
from workflows.outbox.state import Delivery, Event, open_outbox

Command = Callable[[Store, argparse.Namespace], int]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m workflows.outbox", description=__doc__)
    verbs = made.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, command: Command, about: str, *positional: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=about, description=about)
        for argument in positional:
            added.add_argument(argument.lower(), metavar=argument)
        add_common(added)
        added.set_defaults(command=command)
        return added

    verb("list", _list, "what waits, what could not be delivered, and what was delivered lately")
    verb("show", _show, "one notification and its receipts", "ID")
    again = verb("retry", _retry, "try again from the start to reach those that were not reached", "ID")
    again.add_argument("--receiver", default="", metavar="NAME", help="only this one")
    verb("dead", _dead, "what could not be delivered; fails if there is any")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says and returns the exit code."""
    arguments = parser().parse_args(argv)
    command: Command = arguments.command
    try:
        return command(open_store(arguments.storage), arguments)
    except (NoSuchDelivery, LogError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USE


def _list(store: Store, arguments: argparse.Namespace) -> int:
    state = open_outbox(store).refresh()
    _print([*state.recent, *state.dead.values(), *state.pending.values()], arguments.json)
    return DONE


def _dead(store: Store, arguments: argparse.Namespace) -> int:
    dead = list(open_outbox(store).refresh().dead.values())
    _print(dead, arguments.json)
    return FAILED if dead else DONE


def _show(store: Store, arguments: argparse.Namespace) -> int:
    event = open_outbox(store).refresh().find(arguments.id)
    if event is None:
        raise NoSuchDelivery(arguments.id, "is not in the outbox: neither waiting, nor dead, nor delivered lately")
    found = read_found(store, event.log, event.index, event.position)
    told = found.notification.to_json() if found else None
    if arguments.json:
        print(json.dumps({**_row(event), "notification": told}))
        return DONE
    _print([event], as_json=False)
    for delivery in event.deliveries.values():
        print(f"  {_receipt(delivery)}")
    if told:
        print(f"\n{told['text']}\n\n{json.dumps(told['facts'], indent=2, sort_keys=True)}")
    return DONE


def _retry(store: Store, arguments: argparse.Namespace) -> int:
    names = retry(store, arguments.id, by=getpass.getuser(), receiver=arguments.receiver)
    print(json.dumps({"id": arguments.id, "receivers": names}) if arguments.json else f"again to {', '.join(names)}")
    return DONE


def _print(events: Iterable[Event], as_json: bool) -> None:
    if as_json:
        print(json.dumps([_row(event) for event in events]))
        return
    for event in events:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.collected_at))
        print(f"{at}  {event.status:<9}  {event.event:<20}  {event.id}  {event.title}")


def _row(event: Event) -> dict[str, Any]:
    return {**asdict(event), "status": event.status}


def _receipt(delivery: Delivery) -> str:
    last = "" if delivery.last_at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(delivery.last_at))
    answer = f"HTTP {delivery.http_status}" if delivery.http_status else ""
    words = (delivery.receiver, delivery.status, f"attempt {delivery.attempts}", last, answer, delivery.error)
    return "  ".join(word for word in words if word)


if __name__ == "__main__":
    sys.exit(main())

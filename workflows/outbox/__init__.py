"""Tells people and programs what happened: notifications from every log, delivered at least once, with receipts."""

from __future__ import annotations

from workflows.outbox.collecting import Found, event_id, read_found
from workflows.outbox.dispatcher import Dispatched, Dispatcher, retry
from workflows.outbox.errors import InvalidNotice, NoSuchDelivery
from workflows.outbox.notices import NOTICES, post_notice
from workflows.outbox.settings import OutboxSettings, Receiver, load_outbox_settings
from workflows.outbox.state import OUTBOX, SCHEDULE_S, Delivery, Event, OutboxState, open_outbox
from workflows.settings_file import SettingsError

__all__ = [
    # dispatch
    "Dispatcher",
    "Dispatched",
    "Found",
    "event_id",
    "read_found",
    "retry",
    # what stands in the log
    "OUTBOX",
    "SCHEDULE_S",
    "Delivery",
    "Event",
    "OutboxState",
    "open_outbox",
    # notices from outside
    "NOTICES",
    "post_notice",
    # settings
    "OutboxSettings",
    "Receiver",
    "load_outbox_settings",
    # errors
    "InvalidNotice",
    "NoSuchDelivery",
    "SettingsError",
]

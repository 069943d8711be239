"""The triggers on Immich's tables that tell which assets and people changed.

Seven tables have three statement-level triggers each, one per event, and all call one function in the schema
``_face_sync``; what it does, and why Immich never fails because of it, stands in
``sql/triggers/notify_change.sql``. Here they are put in, looked at and taken out.

An eighth kind, the guard, is a row trigger on ``asset`` that keeps originals alive; it is there only where a job
needs it (``preflight.guard_needed``, and ``sql/triggers/guard_original.sql``).

A short hash of each definition is kept in the COMMENT of the function or trigger. Status compares the hashes;
install replaces what differs, so that a new version of this program brings its own definitions.
"""

from listener.triggers.definitions import EVENTS, FUNCTIONS, TABLES, render_install_sql
from listener.triggers.install import InstallResult, TriggerError, install, uninstall
from listener.triggers.status import FunctionStatus, TableStatus, TriggerStatus, put_back_is_wanted, status

__all__ = [
    "EVENTS",
    "FUNCTIONS",
    "TABLES",
    "FunctionStatus",
    "InstallResult",
    "TableStatus",
    "TriggerError",
    "TriggerStatus",
    "install",
    "put_back_is_wanted",
    "render_install_sql",
    "status",
    "uninstall",
]

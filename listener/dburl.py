"""Reads ``DB_URL`` in the forms that Immich takes, which are those of node's pg-connection-string, and libpq's own.

Immich uses of an address the host, the port, the user, the password, the database and how TLS is meant. What else it
passes over is passed over here, too, or given to libpq; a parameter that neither knows is named, and refused.
"""

from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import certifi
from psycopg import pq

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# As node's client has them: on, off, and encrypted without a look at the certificate, which is libpq's "require".
_SSL = {"true": "require", "1": "require", "false": "disable", "0": "disable", "no-verify": "require"}
# Nobody chooses where Immich has its tables, nor the encoding of a connection; and this is libpq, not compatible to it.
_WITHOUT_EFFECT = frozenset({"uselibpqcompat", "schema", "encoding", "client_encoding", "pgbouncer"})
_FORM = "postgresql://user:password@host:port/database"
TO_DO = f"Set it to {_FORM}, with %23, %2F, %3F and %40 for #, /, ? and @ in the password, or leave it out"


class DatabaseUrlError(Exception):
    """Why an address cannot be used; the text names a parameter perhaps, and never the password."""


def parse(url: str) -> dict[str, str]:
    """Return what libpq is to be given. Raises DatabaseUrlError."""
    if url.startswith("/"):
        # The folder of a socket, a space, and the database.
        folder, _, database = url.partition(" ")
        return _whole({"host": folder, "dbname": database.strip()})
    try:
        parts = urlsplit(url)
        if "@" in parts.path + parts.query + parts.fragment or ("/" in parts.path[1:] and parts.scheme != "socket"):
            # Else what is behind them would be taken for the host, the database or a parameter, and be shown.
            raise DatabaseUrlError("has an @ or a / at a strange place")
        given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        if parts.scheme == "socket":
            found = {"host": unquote(parts.path), "dbname": given.pop("db", ""), **_account(parts)}
        elif parts.scheme in {"postgresql", "postgres"} and url.partition(":")[2].startswith("//"):
            found = {"dbname": unquote(parts.path.removeprefix("/")), **_account(parts), **_hosts(parts)}
        else:
            raise DatabaseUrlError("is not the address of a database")
    except ValueError:
        # Its own words may quote the password.
        raise DatabaseUrlError("is not the address of a database") from None
    if parts.fragment:
        raise DatabaseUrlError("is cut off by a #")
    return _whole({**found, **_parameters(given)})


def with_ssl_mode(parts: Mapping[str, str], mode: str) -> dict[str, str]:
    """Return what libpq is to be given for a mode of TLS. Authorities are those that node knows, unless it is told."""
    authorities = {} if not mode.startswith("verify") else {"sslrootcert": certifi.where()}
    return {**authorities, **parts, "sslmode": mode}


def _whole(found: Mapping[str, str]) -> dict[str, str]:
    parts = {key: value for key, value in found.items() if value}
    if "host" not in parts and "hostaddr" not in parts:
        raise DatabaseUrlError("names no host")
    if "dbname" not in parts:
        raise DatabaseUrlError("names no database")
    return with_ssl_mode(parts, parts["sslmode"]) if "sslmode" in parts else parts


def _account(parts: SplitResult) -> dict[str, str]:
    # By the last @, as node does it: one in a password needs not be escaped.
    account, at, _ = parts.netloc.rpartition("@")
    user, colon, password = account.partition(":")
    return ({"user": unquote(user)} if at else {}) | ({"password": unquote(password)} if colon else {})


def _hosts(parts: SplitResult) -> dict[str, str]:
    """Return hosts and ports; libpq takes several of them."""
    hosts, ports = [], []
    for place in parts.netloc.rpartition("@")[2].split(","):
        host, port = place, ""
        if place.startswith("["):
            host, _, port = place[1:].partition("]")
            port = port.removeprefix(":")
        elif ":" in place:
            host, _, port = place.rpartition(":")
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise DatabaseUrlError("has no number behind the host's colon")
        hosts.append(unquote(host))
        ports.append(port)
    return {"host": ",".join(hosts), "port": ",".join(ports) if any(ports) else ""}


def _parameters(given: Mapping[str, str]) -> dict[str, str]:
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    taken = {}
    for name, value in given.items():
        if name in _WITHOUT_EFFECT:
            continue
        if name in {"ssl", "sslmode"}:
            mode = _SSL.get(value.lower(), value.lower())
            if mode not in SSL_MODES:
                words = ", ".join((*SSL_MODES, "no-verify"))
                raise DatabaseUrlError(f"has a parameter {name} with an unknown value. Known are {words}")
            taken["sslmode"] = mode
        elif name in known:
            taken[name] = value
        else:
            shown = name if name.isprintable() and len(name) <= 40 else "of a strange name"
            raise DatabaseUrlError(f"has a parameter {shown}, which is not known here. Leave it out")
    return taken

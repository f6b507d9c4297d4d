"""PostgreSQL and MariaDB from Debian's packages, started by the tests on 127.0.0.1, and pristine databases in them.

Each test process starts a server when a test first needs it and stops it at its end. A database is used by one test at
a time and then filled anew, which is much faster than making one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa

from ckeys.database import migrate
from consumer_keys.store import dialect
from consumer_keys.store.schema import metadata
from tests.machine import free_port, missing

SERVERS = ("postgresql", "mariadb")
KINDS = ("sqlite", *SERVERS)
START_SECONDS_MAX = 90.0
Rows = dict[str, list[dict[str, Any]]]


class Content(NamedTuple):
    """What a database can begin with: an SQLite file, and its rows for the other two."""

    file: Path
    rows: Rows


class Lend(Protocol):
    """Gives the URL of a database with the schema, and a content if one is named, by names of the borrower's own."""

    def __call__(self, name: str, content: Content | None = None) -> str: ...


def find(name: str, pattern: str) -> str:
    """The newest file that the pattern finds; without one the test is skipped, or fails where CKEYS_REQUIRE says so."""
    found = sorted(Path("/").glob(pattern), key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))])
    if not found:
        missing(name, "installed")
    return str(found[-1])


class Server(ABC):
    """One database server with its own folder, gone at `close`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ckeys-database-"))
        self.folder.chmod(0o711)
        self._process: subprocess.Popen[bytes] | None = None
        self._free: list[str] = []
        self._engines: dict[str, sa.Engine] = {}  # of the databases that may be lent; without connections
        self._made = 0
        try:
            self._prepare()
            while True:
                self.port = free_port(1)
                self.start()
                self._admin = sa.create_engine(self.url(self.first), isolation_level="AUTOCOMMIT", pool_pre_ping=True)
                try:
                    self._wait()
                    break
                except AssertionError as error:  # somebody else took the port in between
                    if "in use" not in str(error):
                        raise
        except BaseException:
            self.close()
            raise

    death = signal.SIGINT  # what ends the server at once when this process dies
    first: str  # the database that is there from the beginning

    @abstractmethod
    def _prepare(self) -> None:
        """Makes the data folder."""

    @abstractmethod
    def _command(self) -> list[str]:
        """What runs in the foreground until it gets SIGTERM (and `death` if this process dies)."""

    @abstractmethod
    def url(self, name: str) -> str:
        """DATABASE_URL of a database."""

    @abstractmethod
    def sessions(self, name: str) -> list[int]:
        """The sessions that are connected to a database."""

    @abstractmethod
    def kill(self, session: int) -> None:
        """Ends a session from the server's side, whatever it is doing."""

    @abstractmethod
    def admit(self, name: str, *, allowed: bool) -> None:
        """Allows or refuses new connections to a database."""

    def start(self) -> None:
        """Starts the server; `close` and `stop` end it, and so does the death of this process."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", f"--pdeathsig={self.death.name}", *self._command()], stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, cwd=self.folder,
            )  # fmt: skip

    def stop(self, number: int = signal.SIGINT) -> None:
        """Ends the server, which disconnects everybody."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_SECONDS_MAX)
            self._process = None

    def crash(self) -> None:
        """Kills the server and every process of it at once: what it holds in memory is gone."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one in (pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        self._process.wait(START_SECONDS_MAX)
        self._process = None

    def restart(self) -> None:
        """Starts a stopped server; returns when it answers."""
        self.start()
        self._wait()

    def close(self) -> None:
        """Ends the server and removes its files."""
        if hasattr(self, "_admin"):
            self._admin.dispose()
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                self.admin("SELECT 1")
            except sa.exc.OperationalError:
                if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                    raise AssertionError((self.folder / "log").read_text(errors="replace")[-2000:]) from None
                time.sleep(0.05)
            else:
                return

    def admin(self, statement: str) -> list[Any]:
        """Runs a statement as the administrator."""
        with self._admin.connect() as connection:
            result = connection.execute(sa.text(statement))
            return list(result) if result.returns_rows else []

    def empty(self) -> str:
        """A new database without a schema; its name."""
        self._made += 1
        name = f"ckeys_{self._made}"
        self.admin(f"CREATE DATABASE {name}")
        return name

    def drop(self, name: str) -> None:
        """Removes a database that `empty` made."""
        for session in self.sessions(name):
            self.kill(session)
        self.admin(f"DROP DATABASE {name}")

    @contextmanager
    def databases(self) -> Iterator[Lend]:
        """Lends databases; a name gets the same one each time."""
        lent: dict[str, str] = {}

        def lend(name: str, content: Content | None = None) -> str:
            if name not in lent:
                lent[name] = self._free.pop() if self._free else self._migrated()
                engine = self._engines[lent[name]]
                restore(engine, self._pristine if content is None else content.rows)
                engine.dispose()
            return self.url(lent[name])

        yield lend
        self._free += lent.values()

    def _migrated(self) -> str:
        name = self.empty()
        migrate(self.url(name))
        self._engines[name] = dialect.make_engine(self.url(name))
        if not hasattr(self, "_pristine"):
            self._pristine = rows_of(self._engines[name])
        return name


class PostgreSQL(Server):
    """PostgreSQL refuses to run as root, so it runs as nobody there."""

    first = "postgres"

    def __init__(self, *, durable: bool = False) -> None:
        self._bin = Path(find("postgresql", "usr/lib/postgresql/*/bin/postgres")).parent
        self._flags = (
            [] if durable else ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]
        )
        super().__init__()

    def _prepare(self) -> None:
        data = self.folder / "data"
        data.mkdir(0o700)
        if os.geteuid() == 0:
            shutil.chown(data, "nobody", "nogroup")
            (self.folder / "sockets").mkdir(0o777)
            (self.folder / "sockets").chmod(0o777)
        else:
            (self.folder / "sockets").mkdir()
        command = [self._bin / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8",
                   "--locale=C.UTF-8", "--no-sync"]  # fmt: skip
        subprocess.run([*self._dropped(), *map(str, command)], check=True, capture_output=True, cwd=self.folder)

    def _dropped(self) -> list[str]:
        return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []

    def _command(self) -> list[str]:
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200", *self._flags]
        dropped = [part for part in self._dropped() if part != "setpriv"]
        # The outer setpriv cannot hand its death signal through a change of user, so both are one call.
        return [*dropped, str(self._bin / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), "-k",
                str(self.folder / "sockets"), *options]  # fmt: skip

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def sessions(self, name: str) -> list[int]:
        return [row[0] for row in self.admin(f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}'")]

    def kill(self, session: int) -> None:
        self.admin(f"SELECT pg_terminate_backend({session}, 5000)")

    def admit(self, name: str, *, allowed: bool) -> None:
        self.admin(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {str(allowed).lower()}")


class MariaDB(Server):
    """MariaDB; each database has a user of its own, so that it alone can be locked out."""

    first = ""
    death = signal.SIGTERM  # it does not listen to SIGINT

    def __init__(self, *, durable: bool = False) -> None:
        self._install = find("mariadb", "usr/bin/mariadb-install-db")
        self._server = find("mariadb", "usr/sbin/mariadbd")
        self._flags = ["--innodb-flush-log-at-trx-commit=1" if durable else "--innodb-flush-log-at-trx-commit=0"]
        super().__init__()

    def _prepare(self) -> None:
        subprocess.run(
            [self._install, "--no-defaults", f"--datadir={self.folder / 'data'}", "--skip-test-db",
             "--auth-root-authentication-method=normal", *self._user()],
            check=True, capture_output=True,
        )  # fmt: skip

    def _user(self) -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []

    def _command(self) -> list[str]:
        return [
            self._server, "--no-defaults", *self._user(), f"--datadir={self.folder / 'data'}",
            f"--socket={self.folder / 'socket'}", f"--pid-file={self.folder / 'pid'}", f"--tmpdir={self.folder}",
            "--bind-address=127.0.0.1", f"--port={self.port}", "--skip-name-resolve", "--skip-log-bin",
            "--max-connections=200", "--innodb-log-file-size=16M", "--innodb-buffer-pool-size=64M", *self._flags,
        ]  # fmt: skip

    def stop(self, number: int = signal.SIGTERM) -> None:
        super().stop(number)

    def empty(self) -> str:
        name = super().empty()
        self.admin(f"CREATE USER {name}@'127.0.0.1'")
        self.admin(f"GRANT ALL ON {name}.* TO {name}@'127.0.0.1'")
        return name

    def url(self, name: str) -> str:
        user = name or "root"
        # Without TLS, for which PyMySQL would read all root certificates at each connection.
        return f"mysql+pymysql://{user}@127.0.0.1:{self.port}/{name}?ssl_disabled=true"

    def sessions(self, name: str) -> list[int]:
        return [row[0] for row in self.admin(f"SELECT id FROM information_schema.processlist WHERE db = '{name}'")]

    def kill(self, session: int) -> None:
        self.admin(f"KILL {session}")

    def admit(self, name: str, *, allowed: bool) -> None:
        self.admin(f"ALTER USER {name}@'127.0.0.1' ACCOUNT {'UNLOCK' if allowed else 'LOCK'}")


class Files:
    """SQLite databases in files of which each is used by one test at a time, which lends them as a server does.

    Copying is much quicker than migrating anew, and the engine of a file keeps the statements that it has compiled.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self.empty = folder, folder / "empty.db"
        migrate(f"sqlite:///{self.empty}")

    @contextmanager
    def databases(self) -> Iterator[Lend]:
        """Lends databases; a name gets the same one each time."""
        lent: dict[str, Path] = {}

        def lend(name: str, content: Content | None = None) -> str:
            if name not in lent:
                lent[name] = path = self._folder / f"{len(lent)}.db"
                for part in ("", "-wal", "-shm"):
                    Path(f"{path}{part}").unlink(missing_ok=True)
                shutil.copy(self.empty if content is None else content.file, path)
            return f"sqlite:///{lent[name]}"

        yield lend


class Servers:
    """Servers by kind, each started when it is first asked for."""

    def __init__(self) -> None:
        self._running: dict[str, Server] = {}

    def __getitem__(self, kind: str) -> Server:
        if kind not in self._running:
            self._running[kind] = {"postgresql": PostgreSQL, "mariadb": MariaDB}[kind]()
        return self._running[kind]

    def close(self) -> None:
        """Stops all."""
        for server in self._running.values():
            server.close()
        self._running.clear()


# Those of this test process; the fixture `servers` stops them.
running = Servers()


def server_of(engine: sa.Engine) -> Server:
    """The server behind an engine."""
    return running["mariadb" if engine.dialect.name == "mysql" else engine.dialect.name]


def rows_of(engine: sa.Engine) -> Rows:
    """Every row of every table, in an order of their own."""
    with engine.connect() as connection:
        return {
            table.name: sorted((dict(row) for row in connection.execute(sa.select(table)).mappings()), key=repr)
            for table in metadata.sorted_tables
        }


# The rows belong together; PostgreSQL, which has no statistics of a table that a test just filled, would read the whole
# of it for each row that goes. MariaDB deletes thousands of rows in its time.
UNCHECKED = {"postgresql": ("SET LOCAL session_replication_role = replica", "SET LOCAL statement_timeout = 0")}


def restore(engine: sa.Engine, rows: Rows) -> None:
    """Makes these rows the content of the database, which may be in use."""
    with engine.begin() as connection:
        for statement in UNCHECKED.get(engine.dialect.name, ()):
            connection.exec_driver_sql(statement)
        for table in reversed(metadata.sorted_tables):
            connection.execute(sa.delete(table))
        for table in metadata.sorted_tables:
            if rows[table.name]:
                connection.execute(sa.insert(table), rows[table.name])

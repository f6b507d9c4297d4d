"""The local run: every route of the template on 127.0.0.1, each request as a Function URL event; and the timers."""

import importlib.util
import json
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from http.server import ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler
from typing import Any, TextIO
from urllib.parse import parse_qsl
from uuid import uuid4

from ckeys.cron import PLATFORM_ZONE
from ckeys.events import Event, Handler, function_url_event, invoke, timer_event
from ckeys.template import Function, MethodNotAllowed, NotFound, Template, Timer
from ckeys.wire import Request, RequestError, Response, encode, problem, read_request, response_of, text_of

IDLE_SECONDS_MAX = 60.0
LINGER_SECONDS_MAX = 2.0
WAIT_SECONDS_MAX = 60.0
LocalRoute = Callable[[Event], Any]

_LOG_LOCK = threading.Lock()  # the front and the timers share a stream


class LoadError(ValueError):
    """A function's code cannot be loaded; the message names the function."""


def load_handlers(functions_dir: Path, template: Template) -> dict[str, Handler]:
    """Import every function of the template; LoadError names the first that cannot be imported.

    Each `index.py` gets a module name of its own: on the platform all of them are `index`, one per process.
    """
    return {function.name: _load_handler(functions_dir, function) for function in template.functions}


def _load_handler(functions_dir: Path, function: Function) -> Handler:
    file_name, _, attribute = function.handler.partition(".")
    path = functions_dir / function.name / f"{file_name}.py"
    module_name = f"functions_{function.name}_{file_name}"
    if not path.is_file():
        raise LoadError(f"The function {function.name} has no file {path}.")
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"The function {function.name} has a file that Python cannot import: {path}.")
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as fault:
        del sys.modules[module_name]
        raise LoadError(f"The function {function.name} cannot be imported: {type(fault).__name__}: {fault}.") from fault
    handler = getattr(module, attribute, None)
    if not callable(handler):
        raise LoadError(f"The function {function.name} has no handler {function.handler}.")
    loaded: Handler = handler
    return loaded


def write_log(stream: TextIO, entry: Mapping[str, object]) -> None:
    """Write one entry as one line of JSON, with the time before everything else."""
    line = json.dumps({"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), **entry})
    with _LOG_LOCK:
        stream.write(line + "\n")
        stream.flush()


def _origin(fault: BaseException) -> str:
    """What failed and where. Never the message: it may quote a value that must not be logged."""
    frames = traceback.extract_tb(fault.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(fault).__name__ + place


class Front(ThreadingHTTPServer):
    """The local HTTP server. `start()` returns at once; `stop()` leaves no thread and no socket behind."""

    request_queue_size = 1024
    allow_reuse_port = False
    daemon_threads = True

    def __init__(
        self,
        template: Template,
        handlers: Mapping[str, Handler],
        *,
        port: int = 0,
        local_routes: Mapping[tuple[str, str], LocalRoute] | None = None,
        log: TextIO | None = None,
    ) -> None:
        """Bind the port (0: any free one); OSError if it is taken. `local_routes` come before the template's."""
        self.template, self.handlers, self.local_routes = template, handlers, local_routes or {}
        self.log = log or sys.stderr
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._connections_lock = threading.Lock()
        self._acceptor = threading.Thread(target=self.serve_forever, args=(0.05,), name="front", daemon=True)
        super().__init__(("127.0.0.1", port), _Connection)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def start(self) -> None:
        """Accept connections from now on."""
        self._acceptor.start()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Stop accepting, let running requests finish, close every connection."""
        if self._acceptor.is_alive():
            self.shutdown()
            self._acceptor.join()
        self.server_close()
        deadline = time.monotonic() + timeout_seconds
        with self._connections_lock:
            connections = list(self._connections.items())
        for _, connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)  # an idle connection reads its end; a busy one can still write
        for thread, _ in connections:
            thread.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> "Front":
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in its own thread, which `stop` knows of from the start."""
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        with self._connections_lock:
            thread.start()
            self._connections[thread] = request

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._connections_lock:
                del self._connections[threading.current_thread()]

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  the signature is socketserver's
        """Report a fault of this server itself on one line."""
        fault = sys.exc_info()[1]
        write_log(self.log, {"event": "fault", "error": _origin(fault) if fault else ""})

    def answer(self, request: Request, remote: str, request_id: str, entry: dict[str, Any]) -> Response:
        """The response to a request; `entry` is its line in the log, which learns the function and the error."""
        try:
            return self._dispatch(request, remote, request_id, entry)
        except RequestError as fault:
            return problem(fault.status, fault.code, fault.detail, request_id)
        except (Exception, SystemExit) as fault:  # noqa: BLE001  a function must not end the server
            entry["error"] = _origin(fault)
            return problem(500, "InternalError", "The function failed; the log says where.", request_id)

    def _dispatch(self, request: Request, remote: str, request_id: str, entry: dict[str, Any]) -> Response:
        local = self.local_routes.get((request.method, request.path))
        if local is not None:
            return response_of(local(_event(request, remote)))
        found = self.template.match(request.method, request.path)
        if isinstance(found, NotFound):
            return problem(404, "RouteNotFound", "No route has this path.", request_id)
        if isinstance(found, MethodNotAllowed):
            allow = ", ".join(found.allowed)
            return problem(405, "MethodNotAllowed", f"This path allows {allow}.", request_id, [("Allow", allow)])
        name = entry["function"] = found.route.function
        event = {**_event(request, remote), "pathParameters": found.params}
        handler, namespace = self.handlers[name], self.template.namespace
        return response_of(invoke(self.template.function(name), handler, event, request_id, namespace=namespace))


def _event(request: Request, remote: str) -> Event:
    query: dict[str, str | list[str]] = {}
    # Bad UTF-8 is replaced, not refused: a gateway that asks about a request hands on whatever query it got.
    for key, value in parse_qsl(request.query, keep_blank_values=True, errors="replace"):
        earlier = query.get(key)
        if earlier is None:
            query[key] = value
        else:
            query[key] = [*(earlier if isinstance(earlier, list) else [earlier]), value]
    headers = {**request.headers, "x-scf-remote-addr": remote}  # ours; a client's copy is overwritten
    return function_url_event(request.method, request.path, query, headers, text_of(request.body))


class _Connection(StreamRequestHandler):
    """One connection: requests one after the other until either side has had enough."""

    server: Front
    timeout = IDLE_SECONDS_MAX
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with suppress(OSError):  # the client has gone, or was silent for too long: there is nobody to tell
            while self._serve_one():
                pass

    def _serve_one(self) -> bool:
        request_id = str(uuid4())
        try:
            request = read_request(self.rfile, self._proceed)
        except RequestError as fault:
            response = problem(fault.status, fault.code, fault.detail, request_id)
            write_log(self.server.log, {"event": "access", "request_id": request_id, "status": fault.status})
            self.wfile.write(encode(response, head_only=False, keep_alive=False))
            self._linger()
            return False
        if request is None:
            return False
        entry: dict[str, Any] = {"event": "access", "request_id": request_id}
        entry |= {"method": request.method, "path": request.path}
        started = time.perf_counter()
        response = self.server.answer(request, str(self.client_address[0]), request_id, entry)
        duration_ms = round((time.perf_counter() - started) * 1000, 2)
        write_log(self.server.log, {**entry, "status": response.status, "duration_ms": duration_ms})
        self.wfile.write(encode(response, head_only=request.method == "HEAD", keep_alive=request.keep_alive))
        return request.keep_alive

    def _proceed(self) -> None:
        self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _linger(self) -> None:
        """Read what the client still sends: closing on unread bytes resets the connection, and our answer is lost."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(LINGER_SECONDS_MAX)
        deadline = time.monotonic() + LINGER_SECONDS_MAX
        while time.monotonic() < deadline and self.connection.recv(65536):
            pass


class TimerLoop:
    """Fires each enabled timer of a template at its times in UTC+8, as the platform does.

    One tick of a timer runs at a time; a time that passes meanwhile is skipped. (The platform would start a second
    instance.) A handler that raises is logged, and the next tick comes all the same.
    """

    def __init__(
        self, template: Template, handlers: Mapping[str, Handler], clock: Callable[[], datetime], log: TextIO
    ) -> None:
        """`clock` returns the time with its zone; `log` gets one line of JSON per tick."""
        self._template, self._handlers, self._clock, self._log = template, handlers, clock, log
        self._timers = {timer.name: timer for function in template.functions for timer in function.timers}
        self._locks = {name: threading.Lock() for name in self._timers}
        self._stopping = threading.Event()
        self._created_at = clock()
        self._threads = [
            threading.Thread(target=self._watch, args=(timer,), name=f"timer-{timer.name}", daemon=True)
            for timer in self._timers.values()
            if timer.enabled
        ]

    def start(self) -> None:
        """Fire timers from now on; what was due before is not made up for."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Fire nothing more, and wait for the ticks that are running."""
        self._stopping.set()
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def run_now(self, name: str) -> Any:
        """Run a timer's function now, after a running tick if there is one, and return what it returns or raise."""
        if name not in self._timers:
            raise LookupError(f"There is no timer {name}.")
        return self._tick(self._timers[name])

    def local_routes(self) -> dict[tuple[str, str], LocalRoute]:
        """`POST /_local/timers/<name>` for every timer: run it now, answer with what it returns."""

        def route(name: str) -> LocalRoute:
            return lambda _event: self.run_now(name)

        return {("POST", f"/_local/timers/{name}"): route(name) for name in self._timers}

    def _watch(self, timer: Timer) -> None:
        due = timer.cron.next_after(self._now())
        while due is not None:
            wait_seconds = (due - self._now()).total_seconds()
            if wait_seconds > 0:
                # In slices, because time that a laptop sleeps does not count as waiting.
                if self._stopping.wait(min(wait_seconds, WAIT_SECONDS_MAX)):
                    return
                continue
            with suppress(Exception, SystemExit):  # logged by _tick
                self._tick(timer)
            if self._stopping.is_set():
                return
            due = timer.cron.next_after(max(due, self._now()))

    def _now(self) -> datetime:
        return self._clock().astimezone(PLATFORM_ZONE)

    def _tick(self, timer: Timer) -> Any:
        entry: dict[str, object] = {"event": "timer", "timer": timer.name, "function": timer.function}
        entry["request_id"] = request_id = str(uuid4())
        function, namespace = self._template.function(timer.function), self._template.namespace
        with self._locks[timer.name]:
            started = time.perf_counter()
            try:
                event = timer_event(timer, self._created_at)
                return invoke(function, self._handlers[timer.function], event, request_id, namespace=namespace)
            except BaseException as fault:
                entry["error"] = _origin(fault)
                raise
            finally:
                write_log(self._log, {**entry, "duration_ms": round((time.perf_counter() - started) * 1000, 2)})

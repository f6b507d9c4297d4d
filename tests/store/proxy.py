"""A TCP proxy that can lose an answer: the server has done what it was told, and nobody hears of it.

It can also fall silent, as a network does that has forgotten a connection, or a server that hangs.
"""

from __future__ import annotations

import contextlib
import socket
import threading


class LosingProxy:
    """Passes everything on until `lose` is set; then the answer to the next COMMIT is lost with its connection."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.lose, self.lost = False, 0
        self.stay_down = False  # no new connections after a loss
        self.mute = False  # new connections are taken, and then nothing more comes
        self._muted: set[socket.socket] = set()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def fall_silent(self) -> None:
        """From now on nothing passes over the connections that there are; they stay open."""
        self._muted.update(self._sockets)

    def close(self) -> None:
        """Ends every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            self._end(one)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.stay_down and self.lost:
                client.close()
                continue
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            if self.mute:
                self.fall_silent()
            doomed = threading.Event()
            for source, target, up in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._pump, args=(source, target, doomed, up))
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, target: socket.socket, doomed: threading.Event, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source in self._muted:
                    continue
                if up and self.lose and b"COMMIT" in data:
                    self.lose = False
                    doomed.set()
                if not up and doomed.is_set():
                    self.lost += 1
                    break
                target.sendall(data)
        if source in self._muted:
            return  # not even its end is heard of
        self._end(source)
        self._end(target)

    @staticmethod
    def _end(one: socket.socket) -> None:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()

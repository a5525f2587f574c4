"""A server on a real socket of this machine, whose connections are served in threads of their own."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any, ClassVar


class FakeServer:
    """Takes connections until it is closed; ``_serve`` of a subclass answers one and closes it."""

    receive_buffer: ClassVar[int | None] = None

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self._stopped = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, name="fake-server")]
        self._threads[0].start()

    def stop_listening(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def listen_again(self) -> None:
        self._listener = self._listen(self.port)

    def drop(self) -> None:
        """Ends the connections that are open."""
        for sock in list(self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._stopped.set()
        self.stop_listening()
        self.drop()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.receive_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        listener.bind(("127.0.0.1", port))
        listener.listen(16)
        return listener

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                self._stopped.wait(0.005)
                continue
            self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), name="fake-connection")
            thread.start()
            self._threads.append(thread)

    def _serve(self, sock: socket.socket) -> None:
        raise NotImplementedError

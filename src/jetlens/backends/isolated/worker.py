"""The process that holds the session: ``python -m jetlens.backends.isolated.worker SOCKET PARENT``."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict
from typing import Any, Final

from jetlens.backends.base import Session, SessionOptions
from jetlens.backends.checks import reason
from jetlens.backends.isolated.channel import Channel, Region, aligned_size
from jetlens.engines.options import BuildOptions
from jetlens.registry import resolve

__all__ = ["BEAT_S", "main"]

BEAT_S: Final = 0.1
"""How often the worker says that it lives."""
_PR_SET_PDEATHSIG: Final = 1


def main(channel: Channel) -> None:
    """Opens the session that the first message describes, and answers runs until the other end is closed."""
    message, (model_file, beat_file) = channel.receive()
    _beat(Region(beat_file))
    model = Region(model_file)
    try:
        options = SessionOptions(**{**message["options"], "build": _build_options(message["options"]["build"])})
        session, chosen = resolve(message["opener"])(model.bytes()[: message["size"]], message["backend"], options)
    except Exception as error:  # whatever a runtime raises is told, and ends this process
        channel.send({"refused": [kind.__name__ for kind in type(error).__mro__], "why": str(error)[:2000], "short": reason(error)})
        return
    model.close()
    specs = {side: [asdict(row) for row in getattr(session, side)] for side in ("inputs", "outputs")}
    channel.send({"chosen": chosen, "facts": asdict(session.facts), **specs})
    _answer(channel, session)


def _answer(channel: Channel, session: Session) -> None:
    """One run after the other."""
    given: Region | None = None
    answers: Region | None = None
    while True:
        try:
            message, files = channel.receive()
        except EOFError:
            return
        if files:
            given = Region(files[0])
            given.close()
        assert given is not None
        try:
            outputs = session.run(given.load(message["run"]))
            size = aligned_size(outputs)
            files = []
            if answers is None or size > answers.size:
                answers = Region.make(size)
                files = [answers.file]
            rows = answers.store(outputs)
        except Exception as error:  # the session may be broken now: another process goes on with a new one
            channel.send({"failed": reason(error)})
            return
        channel.send({"done": rows}, files)
        if files:
            answers.close()


def _build_options(values: dict[str, Any]) -> BuildOptions:
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return BuildOptions(**given)


def _beat(region: Region) -> None:
    """Counts in shared memory for as long as this process runs: one that was stopped does not."""
    count = region.array("int64", (1,))

    def work() -> None:
        while True:
            count[0] += 1
            time.sleep(BEAT_S)

    threading.Thread(target=work, name="jetlens-beat", daemon=True).start()


def _die_with(parent: int) -> None:
    """Ends this process when the one that started it does, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # It may have died before that call.
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    _die_with(int(sys.argv[2]))
    main(Channel(socket.socket(fileno=int(sys.argv[1]))))
    sys.stderr.flush()
    # What runtimes do on their way out may hang.
    os._exit(0)

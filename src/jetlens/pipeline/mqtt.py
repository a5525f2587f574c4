"""MQTT: events to a broker (MQTT 3.1.1, QoS 1) through paho-mqtt."""

from __future__ import annotations

import secrets
import ssl
import time
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from jetlens.errors import MissingDependencyError, UsageError
from jetlens.pipeline.sender import Sender, parse_address, plain, user_and_password
from jetlens.registry import require

__all__ = ["Mqtt"]

KEEPALIVE_S = 30
FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 5.0
"""Between attempts to reach a broker."""


class Mqtt(Sender):
    """Publishes each event until the broker acknowledged it, over a connection that stays; a broker may get one twice, none is overtaken."""

    def __init__(self, url: str, *, timeout_s: float = 5.0, waiting: int = 256) -> None:
        """``timeout_s`` and ``waiting`` as in Sender.

        Raises:
            UsageError: it is no mqtt or mqtts address with a topic.
            MissingDependencyError: paho-mqtt is not installed, or is older than 2.0.
        """
        self._parts, name = parse_address(url, "the MQTT broker's", ("mqtt", "mqtts"), "TOPIC")
        self._topic = unquote(self._parts.path.removeprefix("/"))
        if not self._topic or "?" in url or set("+#\0\N{REPLACEMENT CHARACTER}") & set(self._topic):
            raise UsageError("the MQTT broker's address needs one topic, mqtt://HOST/TOPIC, in UTF-8 without + and #; write a ? as %3F")
        self._paho = require("paho.mqtt.client", extra="mqtt", why="--mqtt")
        if not hasattr(self._paho, "CallbackAPIVersion"):
            raise MissingDependencyError("--mqtt needs paho-mqtt 2.0 or newer: pip install --upgrade 'jetlens[mqtt]'")
        self._tls = ssl.create_default_context() if self._parts.scheme == "mqtts" else None
        self._client: Any = None
        self._answers: list[str] = []
        super().__init__(name, timeout_s=timeout_s, waiting=waiting)

    def _deliver(self, content: bytes) -> str:
        delay_s = FIRST_DELAY_S
        while reason := self._attempt(content):
            self._hang_up()
            self._note(reason)
            if self._given_up.wait(delay_s):
                break
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)
        return reason

    def _attempt(self, content: bytes) -> str:
        try:
            if self._client is None and (refusal := self._connect()):
                return refusal
            self._client.publish(self._topic, content, qos=1)
            return self._await_answer()
        except Exception as error:  # whatever the library raises costs one attempt, never the thread
            return plain(error)

    def _connect(self) -> str:
        """Connects; the reason if the broker refused."""
        client = self._paho.Client(
            self._paho.CallbackAPIVersion.VERSION2, client_id=f"jetlens{secrets.token_hex(8)}", reconnect_on_failure=False
        )
        client.connect_timeout = self._timeout_s
        client.on_connect, client.on_publish = self._on_connect, self._on_publish
        if (pair := user_and_password(self._parts)) is not None:
            client.username_pw_set(*pair)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        self._client = client
        client.connect(self._parts.hostname, self._parts.port or (1883 if self._tls is None else 8883), KEEPALIVE_S)
        return self._await_answer()

    def _await_answer(self) -> str:
        """Runs the connection until the broker answered; the reason if it did not, or refused."""
        self._answers.clear()
        end_s = time.monotonic() + self._timeout_s
        while not self._answers:
            code = self._client.loop(0.1)
            if not self._answers and (code or self._given_up.is_set() or time.monotonic() >= end_s):
                return str(self._paho.error_string(code)) if code else "no answer in time"
        return self._answers[0]

    def _on_connect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        self._answers.append(f"refused: {code}" if code.is_failure else "")

    def _on_publish(self, *_: Any) -> None:
        self._answers.append("")

    def _idle(self) -> None:
        """Sends pings, and sees a connection end before the next event needs it."""
        with suppress(Exception):
            if self._client is None or not self._client.loop(0):
                return
        self._hang_up()

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                client.disconnect()

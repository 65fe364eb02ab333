"""A model behind a server that is started for it; how it is asked is that of every server of OpenAI's protocol."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import aiohttp
from yarl import URL

from cai.calls.model import Connection, Serving
from cai.errors import ModelFault, ServerDown
from cai.models.remote.envelope import known
from cai.models.remote.failures import loads
from cai.models.remote.openai import OpenAIModel
from cai.models.remote.presets import Preset
from cai.models.serving.launch import launch_of, own_arguments, replicas, served
from cai.models.serving.pool import POOL
from cai.models.serving.process import Server
from cai.records import Completion, Values

log = logging.getLogger("cai")
# Requests in flight, for each copy of the model: what vLLM 0.33 runs at once on GPUs below 70 GB. On larger ones it and
# SGLang run more; what is over waits in the server, by its priority.
CONCURRENCY = 256
USUAL = 2.0  # seconds for a look at the usual address


class ServedModel(OpenAIModel):
    """A model of a server that is started, unless one at the usual address serves it already.

    The name of a folder's model has the hash of its weights. Calls have their flow's age as their priority, which is no
    part of their key: whatever order they come in, the server takes those of the oldest flow first.
    """

    def __init__(self, name: str, connection: Connection, preset: Preset) -> None:
        self._files = served(f"{preset.name}:{name}", name)
        super().__init__(self._files.name, connection, preset)
        self._options = connection.serving
        self._asked_for = name
        self.concurrency = CONCURRENCY * replicas(own_arguments(preset.name, self._options.arguments))
        self._server: Server | None = None

    async def start(self) -> None:
        """Have a server that is ready; ServerDown if none can be started."""
        if not await self._serves_already():
            spec = f"{self.provider}:{self._asked_for}"
            launch = launch_of(self.provider, spec, self._files, self._options)
            self._server = await POOL.take(launch)
            self._base = URL(f"{self._server.url}/v1")
            self.endpoint = str(self._base)
        await super().start()
        for model in known_list((await self.look("GET", "/v1/models")).get("data")):
            if model.get("id") in (self.name, self._files.place) and isinstance(model.get("max_model_len"), int):
                self.context = model["max_model_len"]

    async def _serves_already(self) -> bool:
        """Whether a server that somebody else has started at the usual address serves the model."""
        if self._options != Serving():
            return False
        timeout = aiohttp.ClientTimeout(total=USUAL)
        with suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError):
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"{self.endpoint}/models") as answer,
            ):
                models = known(loads(await answer.read())).get("data")
                if any(model.get("id") == self.name for model in known_list(models)):
                    log.info("%s: asks the server at %s, which serves it already", self.spec, self.endpoint)
                    return True
        return False

    async def close(self) -> None:
        """Close the connections; the server may be asked by others."""
        await super().close()
        if self._server is not None:
            POOL.give_back(self._server)
            self._server = None

    def with_priority(self, payload: Values, order: int) -> Values:
        """The payload as it is sent for a flow of this age: smaller goes first."""
        if self._server is None:  # a server without priorities refuses them
            return payload
        return {"priority": order, **payload}

    async def send(self, payload: Values) -> Completion:
        """Ask once; ServerDown with the reason from its log if the server has ended."""
        server, adapter = self._server, self._files.adapter
        if server is not None and adapter is not None:
            payload = {**payload, **server.launch.kind.chosen(adapter)}
        try:
            return await super().send(payload)
        except ModelFault:
            if server is not None and server.has_ended():
                problem = f"{self.spec}: its server has ended: {server.why()}"
                raise ServerDown(f"{problem}; run the same command again, which starts it anew") from None
            raise

    def _proxy(self) -> str | None:
        return None  # the server is on this machine


def known_list(value: Any) -> list[Values]:
    """The objects of a list, if it is one."""
    return [known(each) for each in value] if isinstance(value, list) else []

"""A bare klein route that gives the bytes it is told to: what REST can be measured against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from klein import Klein
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.web.server import Site

from tests.bench.peers.jobs import Job, run


def jobs(reactor: Any) -> Mapping[str, Job]:
    async def listen(routes: Mapping[str, str]) -> str:
        app = Klein()
        for path, text in routes.items():
            app.route(path, endpoint=path)(_giving(text.encode()))
        site = Site(app.resource())
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(site)
        return f"http://127.0.0.1:{port.getHost().port}"

    return {"listen": listen}


def _giving(body: bytes) -> Any:
    def answer(request: Any, **fields: str) -> bytes:
        request.setHeader(b"Content-Type", b"application/json")
        return body

    return answer


if __name__ == "__main__":
    run(jobs)

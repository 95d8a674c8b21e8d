"""A web server of the test's own, over TLS, that says one thing."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.servers import authority, pem, private_pem


class WebServer:
    """
    Answers every GET alike, at 127.0.0.1, until it is closed or the tests end.

    @ivar domain: what C{meshkit peer discover} is given.
    @ivar authorities: path of the file with who has signed its certificate.
    @ivar asked: the paths that were asked for.
    """

    def __init__(self, folder: Path, body: bytes) -> None:
        """@param folder: for its files."""
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *values: object) -> None:
                """Nobody reads it."""

        self.asked = asked
        self.authorities = folder / "authorities.pem"
        self.authorities.write_bytes(pem(authority("ours")[0]))
        chain = folder / "web.pem"
        chain.write_bytes(private_pem("127.0.0.1"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.domain = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

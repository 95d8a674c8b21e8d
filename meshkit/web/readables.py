"""
The operations of a node as the resources of an MCP server.

What can be read without saying more than its path is a resource: every C{GET} that reads,
is no stream, and whose other fields have defaults.  The URI is C{meshkit://} and the path
behind C{/v1/}::

    meshkit://status                 GET /v1/status
    meshkit://feed/{+author}         GET /v1/feed/{author}
    meshkit://message/{+hash}        GET /v1/message/{hash}

It holds the text that the tool of the operation answers with, notice and mark included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec

from meshkit.operations import BoundOperation, Operation
from meshkit.web import untrusted
from meshkit.web.dispatch import Dispatcher
from meshkit.web.mcp.catalogue import Resource, ResourceTemplate
from meshkit.web.mcp.server import Server
from meshkit.web.requests import RequestReader

SCHEME: Final = "meshkit://"
_BASE: Final = "/v1/"

#: Gives the text of an answer: of an operation, to what was asked, for a call.
Answer = Callable[[BoundOperation, Any, Any], Any]


@lru_cache(maxsize=512)
def uri_of(operation: Operation) -> str | None:
    """@return: the URI, or the template of URIs, of an operation that is one."""
    if operation.method != "GET" or operation.permission != "read":
        return None
    if operation.stream or operation.raw or not operation.path.startswith(_BASE):
        return None
    in_path = operation.path_fields
    for field in msgspec.structs.fields(operation.request):
        if field.required and field.encode_name not in in_path:
            return None
    path = operation.path.removeprefix(_BASE)
    if in_path and path.endswith(f"{{{in_path[-1]}}}"):
        # An id may hold slashes, encoded or not, where nothing comes after it.
        path = path.removesuffix(f"{{{in_path[-1]}}}") + f"{{+{in_path[-1]}}}"
    return SCHEME + path


def add_resources(server: Server, operations: Dispatcher, answer: Answer) -> None:
    """Put what can be read on a server, once."""
    for bound in operations:
        uri = uri_of(bound.operation)
        if uri is not None:
            _add(server, uri, bound, operations.reader(bound.operation.name), answer)


def _add(
    server: Server, uri: str, bound: BoundOperation, reader: RequestReader, answer: Answer
) -> None:
    operation = bound.operation
    description = operation.doc
    if operation.untrusted:
        description = f"{description}  {untrusted.WARNING}"

    async def read(_uri: str, call: Any) -> str:
        # Only those that the template names can be there.
        text: str = await answer(bound, lambda: reader.from_query(call.variables, ""), call)
        return text

    def shown(caller: Any, _view: Any) -> bool:
        may: bool = caller.may(operation)
        return may

    if operation.path_fields:
        server.add_template(ResourceTemplate(uri, operation.name, read, description, shown=shown))
    else:
        server.add_resource(Resource(uri, operation.name, read, description, shown=shown))

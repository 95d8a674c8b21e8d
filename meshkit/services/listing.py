"""
What operations look like to whoever wants to call them: the answer of C{operations_list}.

C{meshkit call} knows of a node's operations what stands here, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from meshkit.operations import BoundOperation, Operation
from meshkit.services.operations import OperationField, OperationShown
from meshkit.web.callers import Caller
from meshkit.web.schemas import request_schema


class Listing:
    """The operations of one node."""

    def __init__(self, operations: Iterable[BoundOperation]) -> None:
        """@raise ValueError: if there is no schema of a request."""
        self._all = [(bound.operation, _shown(bound)) for bound in operations]

    def shown_to(self, caller: Caller) -> list[OperationShown]:
        """@return: all of them, and which are for the caller."""
        return [
            msgspec.structs.replace(shown, usable=caller.may(operation))
            for operation, shown in self._all
        ]


def _shown(bound: BoundOperation) -> OperationShown:
    operation = bound.operation
    return OperationShown(
        name=operation.name,
        part=bound.part,
        doc=operation.doc,
        permission=operation.permission,
        usable=False,
        method=operation.method,
        path=operation.path,
        kind="raw" if operation.raw else "stream" if operation.stream else "unary",
        paged=operation.paged,
        sends=operation.sends,
        fields=[_field(operation, info) for info in msgspec.structs.fields(operation.request)],
        request=request_schema(operation),
    )


def _field(operation: Operation, info: Any) -> OperationField:
    name = info.encode_name
    field = OperationField(name, "query", info.required)
    if name in operation.path_fields:
        field.place, field.required = "path", True
    elif name == operation.takes:
        field.place = "raw"
    elif operation.method == "POST" and operation.takes is None:
        field.place = "body"
    if name == operation.key:
        field.header = "Idempotency-Key"
    elif name == operation.resume:
        field.header = "Last-Event-ID"
    return field

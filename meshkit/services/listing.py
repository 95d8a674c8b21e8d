"""
What operations look like to whoever wants to call them: the answer of C{operations_list}.

C{meshkit call} knows of a node's operations what stands here, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import msgspec

from meshkit.operations import BoundOperation, Operation
from meshkit.services.operations import OperationField, OperationShown
from meshkit.web.callers import Caller
from meshkit.web.schemas import request_schema


class Listing:
    """The operations of one node."""

    def __init__(self, operations: Iterable[BoundOperation]) -> None:
        self._operations = tuple(operations)

    def shown_to(self, caller: Caller) -> list[OperationShown]:
        """
        @return: all of them, and which are for the caller.
        @raise ValueError: if there is no schema of a request.
        """
        return [
            msgspec.structs.replace(shown, usable=caller.may(bound.operation))
            for bound, shown in zip(self._operations, self._shown, strict=True)
        ]

    @cached_property
    def _shown(self) -> list[OperationShown]:
        # Made when it is wanted: that takes longer than many a start of a node.
        return [_shown(bound) for bound in self._operations]


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

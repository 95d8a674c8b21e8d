"""
What a part offers to people, programs and agents, declared once.

An L{Operation} is a declaration: a name, a typed request, a typed answer, a
sentence, a permission.  It knows nothing of HTTP libraries, of MCP or of Twisted.
The doors in C{meshkit.web} and the command line derive their routes, tools and
commands from it, so an operation written once can be reached through all of them
and none can disagree with another.

Requests and answers are L{msgspec.Struct}s.  A field of the request whose name
appears in braces in C{path} is taken from the path; for C{GET} and C{DELETE} the
others come from the query string, for C{POST} from the JSON body.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

Permission = Literal["read", "write", "admin"]
Method = Literal["GET", "POST", "DELETE"]


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request of an operation that takes nothing."""


class Operation(msgspec.Struct, frozen=True):
    """
    One thing that can be asked of a node.

    @ivar name: snake_case, unique in a node; the MCP tool and C{meshkit call} use it.
    @ivar method: HTTP method of the REST route.
    @ivar path: route with fields in braces, such as C{/v1/feed/{author}}.
    @ivar request: Struct type of the request.
    @ivar answer: type of the answer, as msgspec knows types.
    @ivar doc: one sentence for people and agents.
    @ivar permission: C{read}, C{write} or C{admin}.
    @ivar success: the HTTP status of a good answer.  C{204} sends no body.
    @ivar paged: the answer is a L{Page}; REST shows its items as C{data} and the rest
        as C{metadata}.
    """

    name: str
    method: Method
    path: str
    request: type[msgspec.Struct]
    answer: Any
    doc: str
    permission: Permission = "read"
    success: int = 200
    paged: bool = False


class Page(msgspec.Struct, frozen=True):
    """
    A stretch of a longer list.

    @ivar items: the items of this stretch, in order.
    @ivar total: how many there are in all.
    @ivar limit: how many were asked for at most.
    @ivar offset: how many were skipped.
    """

    items: list[Any]
    total: int
    limit: int
    offset: int


class BoundOperation(msgspec.Struct, frozen=True):
    """
    An operation together with the code that answers it.

    @ivar operation: the declaration.
    @ivar handler: called with a request Struct; gives the answer, a Deferred or a
        coroutine of it, or raises a L{meshkit.errors.MeshkitError}.
    """

    operation: Operation
    handler: Callable[[Any], Any]

# SPDX-License-Identifier: MIT
"""Errors by their canonical code; each carries what the server said of it."""
import grpc

from .v1 import session_pb2


class Error(Exception):
    """`code`: canonical status name; `reason`: lstm.v1.Reason name, or None; `retry_after`: seconds, or None."""

    code = "UNKNOWN"

    def __init__(self, message, code=None, reason=None, retry_after=None):
        super().__init__(message)
        self.code = code or type(self).code
        self.reason = reason
        self.retry_after = retry_after


class Cancelled(Error):
    code = "CANCELLED"


class InvalidArgument(Error):
    code = "INVALID_ARGUMENT"


class DeadlineExceeded(Error):
    code = "DEADLINE_EXCEEDED"


class NotFound(Error):
    code = "NOT_FOUND"


class PermissionDenied(Error):
    code = "PERMISSION_DENIED"


class ResourceExhausted(Error):
    code = "RESOURCE_EXHAUSTED"


class FailedPrecondition(Error):
    code = "FAILED_PRECONDITION"


class Aborted(Error):
    code = "ABORTED"


class Fenced(Aborted):
    """Another client holds the session now. What was not answered here is not applied for this one; send nothing more."""


class OutOfRange(Error):
    code = "OUT_OF_RANGE"


class Unimplemented(Error):
    code = "UNIMPLEMENTED"


class Internal(Error):
    code = "INTERNAL"


class Unavailable(Error):
    code = "UNAVAILABLE"


class DataLoss(Error):
    """The server has lost turns whose answers were had. The session has ended; nothing can be said of its state."""

    code = "DATA_LOSS"


class Diverged(DataLoss):
    """Turns that were sent again led to another state than the one whose answers were had."""


class Unauthenticated(Error):
    code = "UNAUTHENTICATED"


_BY_NAME = {c.code: c for c in (Cancelled, InvalidArgument, DeadlineExceeded, NotFound, PermissionDenied, ResourceExhausted, FailedPrecondition,
                                Aborted, OutOfRange, Unimplemented, Internal, Unavailable, DataLoss, Unauthenticated)}
_BY_NUMBER = {code.value[0]: code.name for code in grpc.StatusCode}
_BY_REASON = {session_pb2.DIVERGED: Diverged, session_pb2.LOST: DataLoss, session_pb2.EXPIRED: NotFound, session_pb2.FENCED: Fenced}

# The same turn may succeed a moment later.
TRANSIENT = {session_pb2.RETRY, session_pb2.WINDOW, session_pb2.BYTES, session_pb2.RATE, session_pb2.GAP, session_pb2.DRAINING}
# So may the same Open or Resume.
TRANSIENT_ATTACH = {session_pb2.RETRY, session_pb2.ELSEWHERE, session_pb2.DRAINING}
# A stream that ended with one of these is made again: proxies turn a dead server into any of them.
RECONNECT = {"UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED"}


def _reason(number):
    return session_pb2.Reason.Name(number) if number in session_pb2.Reason.values() else None


def from_reject(reject):
    name = _BY_NUMBER.get(reject.code, "UNKNOWN")
    return _BY_REASON.get(reject.reason, _BY_NAME.get(name, Error))(
        reject.message, name, _reason(reject.reason), reject.retry_after_ms / 1000 if reject.retry_after_ms else None)


def from_ended(ended):
    return _BY_REASON.get(ended.reason, Aborted)(ended.message, reason=_reason(ended.reason))


def from_rpc(error, what=""):
    name = error.code().name if error.code() else "UNKNOWN"
    return _BY_NAME.get(name, Error)(what + (error.details() or "the call failed"), name)

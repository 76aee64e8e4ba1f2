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


class InvalidArgument(Error):
    code = "INVALID_ARGUMENT"


class NotFound(Error):
    code = "NOT_FOUND"


class FailedPrecondition(Error):
    code = "FAILED_PRECONDITION"


class Aborted(Error):
    code = "ABORTED"


class OutOfRange(Error):
    code = "OUT_OF_RANGE"


class ResourceExhausted(Error):
    code = "RESOURCE_EXHAUSTED"


class Unavailable(Error):
    code = "UNAVAILABLE"


class DeadlineExceeded(Error):
    code = "DEADLINE_EXCEEDED"


_BY_NAME = {c.code: c for c in (InvalidArgument, NotFound, FailedPrecondition, Aborted, OutOfRange, ResourceExhausted, Unavailable,
                                DeadlineExceeded)}
_BY_NUMBER = {code.value[0]: code.name for code in grpc.StatusCode}

# The same turn may succeed a moment later.
TRANSIENT = {session_pb2.RETRY, session_pb2.WINDOW, session_pb2.BYTES, session_pb2.GAP}


def _make(name, message, reason=None, retry_after=None):
    return _BY_NAME.get(name, Error)(message, name, reason, retry_after)


def from_reject(reject):
    return _make(_BY_NUMBER.get(reject.code, "UNKNOWN"), reject.message, session_pb2.Reason.Name(reject.reason),
                 reject.retry_after_ms / 1000 if reject.retry_after_ms else None)


def from_rpc(error):
    return _make(error.code().name if error.code() else "UNKNOWN", error.details() or "the call failed")

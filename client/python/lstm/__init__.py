# SPDX-License-Identifier: MIT
"""Live sessions of recurrent networks.

    import lstm

    with lstm.connect("127.0.0.1:8001") as client:
        with client.session("telemetry") as s:
            y = s.step(x)                     # x [I]: one step; x [T, I]: T steps in one turn
            for y in s.stream(readings):      # pipelined within the session's window
                ...

Sessions survive dropped connections and killed servers: every turn is answered once, in order. `s.handle().to_bytes()` is where a
session stands, and `client.resume(...)` takes it up in another process.
"""
from .client import Client, connect
from .errors import (Aborted, Cancelled, DataLoss, DeadlineExceeded, Diverged, Error, FailedPrecondition, Fenced, Internal, InvalidArgument,
                     NotFound, OutOfRange, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable, Unimplemented)
from .protocol import Handle
from .session import Session
from . import aio

__all__ = ["Aborted", "Cancelled", "Client", "DataLoss", "DeadlineExceeded", "Diverged", "Error", "FailedPrecondition", "Fenced", "Handle",
           "Internal", "InvalidArgument", "NotFound", "OutOfRange", "PermissionDenied", "ResourceExhausted", "Session", "Unauthenticated",
           "Unavailable", "Unimplemented", "aio", "connect"]

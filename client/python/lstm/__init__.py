# SPDX-License-Identifier: MIT
"""Live sessions of recurrent networks.

    import lstm

    with lstm.connect("127.0.0.1:8001") as client:
        with client.session("telemetry") as s:
            y = s.step(x)                     # x [I]: one step; x [T, I]: T steps in one turn
            for y in s.stream(readings):      # pipelined within the session's window
                ...
"""
from .client import Client, connect
from .errors import (Aborted, DeadlineExceeded, Error, FailedPrecondition, InvalidArgument, NotFound, OutOfRange,
                     ResourceExhausted, Unavailable)
from .session import Session
from . import aio

__all__ = ["Aborted", "Client", "DeadlineExceeded", "Error", "FailedPrecondition", "InvalidArgument", "NotFound", "OutOfRange",
           "ResourceExhausted", "Session", "Unavailable", "aio", "connect"]

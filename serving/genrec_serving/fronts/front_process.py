"""A child of `supervisor`, which takes requests.

``python -m genrec_serving.fronts.front_process FD FD``, of the socket for messages and of the one
through which connections are handed over.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from multiprocessing.connection import Connection

import msgspec

from genrec_serving.fronts.control import Begin, options_from_dict
from genrec_serving.server_parts import prepare_process, tracing


def main() -> int:
    """Serve until told to stop; the exit status."""
    # They go to the whole group; the supervisor decides when this one ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    control = Connection(int(sys.argv[1]))
    begin = msgspec.msgpack.decode(control.recv_bytes(), type=Begin)
    options = options_from_dict(begin.options)
    prepare_process(options)
    # Imported after the environment is prepared.
    from genrec_serving.fronts.front_server import FrontServer

    messages = socket.socket(fileno=os.dup(control.fileno()))
    control.close()
    with tracing(options):
        server = FrontServer(options, begin)
        return server.run(messages, handed=socket.socket(fileno=int(sys.argv[2])))


if __name__ == "__main__":
    sys.exit(main())

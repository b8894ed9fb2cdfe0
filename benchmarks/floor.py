"""The least that a proxy in Python can cost: an epoll loop that joins each client to an engine's connection, unread.

``python benchmarks/floor.py LISTENER ENGINE``, both paths of unix sockets. It knows no HTTP, keeps nothing back, and
breaks when somebody is slow: a floor for the figures of the real one, not a proxy. It imports nothing of ours.
"""

from __future__ import annotations

import select
import socket
import sys


def main(listener: str, engine: str) -> None:
    """Serve for ever."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(listener)
    server.listen(4096)
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    waiting = select.epoll()
    waiting.register(server.fileno(), select.EPOLLIN)
    other: dict[int, tuple[socket.socket, socket.socket]] = {}
    while True:
        for descriptor, _ in waiting.poll():
            if descriptor == server.fileno():
                client = server.accept()[0]
                upstream = socket.socket(socket.AF_UNIX)
                upstream.connect(engine)
                for near, far in ((client, upstream), (upstream, client)):
                    waiting.register(near.fileno(), select.EPOLLIN)
                    other[near.fileno()] = near, far
            elif descriptor in other:
                near, far = other[descriptor]
                try:
                    size = near.recv_into(buffer)
                    far.sendall(view[:size])
                except ConnectionError:
                    size = 0
                if not size:
                    for end in near, far:
                        del other[end.fileno()]
                        end.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

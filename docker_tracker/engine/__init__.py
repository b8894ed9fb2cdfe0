"""What the Docker Engine API means: tables and pure functions. Knows no sockets and no Twisted."""

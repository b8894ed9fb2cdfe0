"""HTTP/1.1 without I/O: bytes to heads and bodies. Knows no Docker and no Twisted."""

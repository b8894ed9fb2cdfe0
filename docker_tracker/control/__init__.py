"""The control API: JSON over HTTP/1.1 on a unix socket of its own, which no job reaches."""

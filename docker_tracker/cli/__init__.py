"""The client command, ``docker-tracker``: the daemon imports nothing of it, and it imports neither that nor Twisted."""

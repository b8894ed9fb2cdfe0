"""The instance ID, where the daemon looks for it; the client command needs it, too. Layer: tracking."""

from docker_tracker.instance import NAME, read_or_make

__all__ = ["NAME", "read_or_make"]

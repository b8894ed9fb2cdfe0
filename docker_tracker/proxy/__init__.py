"""Moves the traffic: listeners, conversations, plans, splices. The coroutine decides, callbacks move bytes."""

"""Holds the job of ``docker-tracker run`` while the command runs, over restarts of the daemon. The client command."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import Final

from docker_tracker.cli.client import ApiError, Client, ClientError, Held, target

_RETRY_SECONDS: Final = 1.0


class Lease:
    """A hold on a job, kept by a thread. A context manager.

    :param lost: Is told, in that thread, why the job has ended before its time.
    """

    def __init__(self, client: Client, job_id: str, lost: Callable[[str], None]) -> None:
        self._client = client
        self._job_id = job_id
        self._lost = lost
        self._wake, self._alarm = os.pipe()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._held: Held | None = None

    def __enter__(self) -> Lease:
        """Take hold.

        :raises ApiError: the job cannot be held.
        :raises ClientError: the daemon is not there.
        """
        try:
            self._held = self._hold()
        except BaseException:
            self._close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Let go."""
        os.write(self._alarm, b"x")
        self._thread.join()
        self._close()

    def _close(self) -> None:
        os.close(self._wake)
        os.close(self._alarm)

    def _hold(self) -> Held:
        return self._client.hold(target("jobs", self._job_id, "lease"))

    def _keep(self) -> None:
        held = self._held
        while True:
            readable, _, _ = select.select(
                [self._wake, *([] if held is None else [held.fileno()])], [], [], _RETRY_SECONDS
            )
            if self._wake in readable:
                break
            if held is not None and readable and not held.alive():
                held.close()
                held = None
            if held is None:
                try:
                    held = self._hold()
                except ClientError:  # the daemon is being restarted
                    continue
                except ApiError as error:
                    self._lost(str(error))
                    return
        if held is not None:
            held.close()

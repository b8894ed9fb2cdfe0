"""Makes ``twistd docker-tracker`` known to Twisted. No ``__init__.py`` may stand in this folder."""

from twisted.application.service import ServiceMaker

docker_tracker = ServiceMaker(  # type: ignore[no-untyped-call]
    "docker-tracker",
    "docker_tracker.tap",
    "A Docker socket of one's own: all that is created through it is labelled, recorded and audited.",
    "docker-tracker",
)

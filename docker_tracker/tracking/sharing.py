"""Whose an image is that others have named or built on: theirs from when the job ends that made it. Layer: tracking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from docker_tracker.engine.inventory import Seen
from docker_tracker.interfaces import IJob, ILedger
from docker_tracker.job import JobState
from docker_tracker.records import Reference, Relation, Resource
from docker_tracker.tracking.removal import Thing, other_names

_MOST_NAMES: Final = 5  # of an image, that a report tells


class Sharing:
    """Finds images of a job that others have named or built on, and names of its that are another job's image's last.

    Such a thing goes over to the other job, if that is open: with it the image goes in the end.

    :param recorded: What the ledger has of the job, by kind and ID.
    :param images: Lists all that the engine has.
    :param dry_run: Whether nothing is to change hands.
    """

    def __init__(
        self,
        ledger: ILedger,
        job: IJob,
        recorded: Mapping[Reference, Resource],
        images: Callable[[], Awaitable[Sequence[Seen]]],
        dry_run: bool,
    ) -> None:
        self._ledger, self._job, self._recorded, self._dry_run = ledger, job, recorded, dry_run
        self._images = images
        self._built: dict[str, list[Seen]] | None = None
        self._makers: dict[str, IJob] | None = None
        #: Images that another job made which is ending, too: with their last name they may go.
        self.ending: set[str] = set()

    async def kept(self, things: Sequence[Thing]) -> dict[Reference, str]:
        """Return why images and names stay, with the steps to those images.

        :param things: Of the job, that are to go.
        :raises docker_tracker.errors.LedgerError: nobody knows what other jobs made.
        :raises docker_tracker.errors.EngineError: nobody knows what others have built.
        """
        found: dict[Reference, str] = {}
        images = {thing.reference: thing for thing in things if thing.kind == "image"}
        for image in images.values():
            if image.is_image_id:
                names = sorted(name for name in image.seen.names if "@" not in name and not self._made(name))
                built = (
                    [] if names else [each for each in await self._built_on(image) if not self._made(each.identifier)]
                )
                if not names and not built:
                    continue
                steps = _with_steps(image, images)
                reason = await (self._claimed(names, steps) if names else self._needed(built, steps))
                if reason:
                    found |= {step.reference: needed for step, needed in steps.items()} | {image.reference: reason}
            elif self._is_last(image):
                maker = (await self._others()).get(image.seen.identifier)
                if maker is not None and await self._hand_over([image], maker):
                    found[image.reference] = f"it is the last name of an image of job {maker.name}"
                elif maker is not None:
                    self.ending.add(image.seen.identifier)
        return found

    async def _claimed(self, names: Sequence[str], steps: Mapping[Thing, str]) -> str:
        """Return why an image stays; the empty string: those who have named it are ending, too."""
        makers = [(name, maker) for name in names if (maker := (await self._others()).get(name)) is not None]
        for name, maker in makers:
            if await self._hand_over([*steps], maker):
                return f"job {maker.name} has named it {name}"
        if makers:
            return ""
        before = [name for name in names if ("image", name) in self._recorded]
        if before:
            return f"its name was there before the job: {', '.join(before[:_MOST_NAMES])}"
        return f"others have named it {', '.join(names[:_MOST_NAMES])}"

    async def _needed(self, built: Sequence[Seen], steps: Mapping[Thing, str]) -> str:
        """Return why an image stays that others have built on; the empty string: they are ending, too."""
        others = await self._others()
        makers = [
            maker for each in built for called in sorted(each.called) if (maker := others.get(called)) is not None
        ]
        for maker in makers:
            if await self._hand_over([*steps], maker):
                return f"job {maker.name} has built on it"
        if makers:
            return ""
        return f"others have built on it: {', '.join(_called(each) for each in built[:_MOST_NAMES])}"

    async def _built_on(self, image: Thing) -> Sequence[Seen]:
        """Return what was built on an image, step by step, be it by the engine's cache of steps."""
        if self._built is None:
            self._built = {}
            for each in await self._images():
                self._built.setdefault(each.parent, []).append(each)
        return self._built.get(image.seen.identifier, ())

    async def _hand_over(self, things: Sequence[Thing], job: IJob) -> bool:
        if self._dry_run:
            return job.state is JobState.OPEN
        return await self._ledger.hand_over([thing.resource for thing in things if thing.resource is not None], job.id)

    def _made(self, identifier: str) -> bool:
        found = self._recorded.get(("image", identifier))
        return found is not None and found.relation is Relation.MADE

    def _is_last(self, tag: Thing) -> bool:
        parent = tag.resource.parent if tag.resource else ""
        image = tag.seen
        return parent in ("", image.identifier) and not (
            self._made(image.identifier) or other_names(image, tag.identifier)
        )

    async def _others(self) -> Mapping[str, IJob]:
        """Return the jobs, this one and those that are gone apart, that made images, by the images' IDs and names."""
        if self._makers is None:
            jobs = {job.id: job for job in await self._ledger.jobs() if job.id != self._job.id}
            self._makers = {
                each.identifier: jobs[each.job_id]
                for each in await self._ledger.resources(None, "image")
                if each.relation is Relation.MADE and each.job_id in jobs
            }
        return self._makers


def _called(image: Seen) -> str:
    return image.names[0] if image.names else image.identifier[:19]


def _with_steps(image: Thing, images: Mapping[Reference, Thing]) -> dict[Thing, str]:
    """Return an image and the steps of the build that led to it, each with why it stays if the image does."""
    found: dict[Thing, str] = {}
    thing: Thing | None = image
    reason = ""
    while thing is not None and thing not in found:
        found[thing] = reason
        reason = thing.needs
        thing = images.get(("image", str(thing.document.get("Parent"))))
    return found

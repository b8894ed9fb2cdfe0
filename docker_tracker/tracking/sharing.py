"""Whose an image is that others have named, got or built on: theirs from when its job ends. Layer: tracking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from docker_tracker.engine.inventory import Seen
from docker_tracker.interfaces import IJob, ILedger
from docker_tracker.job import JobState, Keep
from docker_tracker.records import Reference, Relation, Resource
from docker_tracker.tracking.removal import Thing, other_names

_MOST_NAMES: Final = 5  # of an image, that a report tells


class Sharing:
    """Finds images of a job that others need, and names of its that are another job's image's last.

    Such a thing goes over to the other job, if that is open: with it the image goes in the end.

    :param recorded: What the ledger has of the job, by kind and ID.
    :param images: Lists all that the engine has.
    :param rules: What the configuration keeps, whoever made it.
    :param dry_run: Whether nothing is to change hands.
    """

    def __init__(
        self,
        ledger: ILedger,
        job: IJob,
        recorded: Mapping[Reference, Resource],
        images: Callable[[], Awaitable[Sequence[Seen]]],
        rules: Sequence[Keep],
        dry_run: bool,
    ) -> None:
        self._ledger, self._job, self._recorded, self._dry_run = ledger, job, recorded, dry_run
        self._images, self._rules = images, rules
        self._built: dict[str, list[Seen]] | None = None
        self._makers: dict[str, IJob] | None = None
        self._users: dict[str, list[IJob]] = {}
        self._past: dict[str, str] = {}
        #: Images that another job made which has ended, or is ending: with their last name they may go.
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
            if image.reference not in found:
                found |= await self._in_use(image, images)
        for image in images.values():
            if image.reference in found:
                continue
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
                elif await self._may_go(image.seen.identifier, maker):
                    self.ending.add(image.seen.identifier)
        return found

    async def _in_use(self, image: Thing, images: Mapping[Reference, Thing]) -> dict[Reference, str]:
        """Return why an image stays that another job asked for and was given, with its names and steps.

        A build that the engine's cache had, the archive that both loaded: it was there, so that job did not make it.
        """
        await self._others()
        if not (users := self._users.get(image.identifier)):
            return {}
        whole = images.get(("image", image.seen.identifier))
        steps = {image: ""} if whole is None else _with_steps(whole, images)
        tags = [each for each in images.values() if whole is not None and each.seen.identifier == whole.identifier]
        for user in users:
            if await self._hand_over([*dict.fromkeys((*tags, *steps))], user):
                reason = f"job {user.name} uses it"
                needed = {step.reference: needed or reason for step, needed in steps.items()}
                return needed | {tag.reference: reason for tag in tags}
        return {}

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

    async def _may_go(self, image: str, maker: IJob | None) -> bool:
        """Whether a job that is ending, or gone, made an image, and nothing keeps it but its last name.

        No rule, no failure, and of one that is gone no open job.

        :param maker: If the job is not gone.
        """
        past = [self._past[image]] if image in self._past and image not in self._users else []
        makers = await self._ledger.some_jobs(past) if maker is None else [maker]
        rules = (*self._rules, *(rule for job in makers for rule in job.request.keep))
        waits = any(job.state is JobState.FAILED and job.request.keep_on_failure for job in makers)
        return bool(makers) and not waits and not any(rule.holds("image", image) for rule in rules)

    async def _others(self) -> Mapping[str, IJob]:
        """Return the jobs, this one and those that are gone apart, that made images, by the images' IDs and names.

        By the way find those that are open and were given images that were there, and the makers that are gone.
        """
        if self._makers is None:
            jobs = {job.id: job for job in await self._ledger.jobs() if job.id != self._job.id}
            images = await self._ledger.resources(None, "image")
            made = [each for each in images if each.relation is Relation.MADE and each.job_id != self._job.id]
            self._makers = {each.identifier: jobs[each.job_id] for each in made if each.job_id in jobs}
            self._past = {each.identifier: each.job_id for each in made if each.job_id not in jobs}
            for each in images:
                user = jobs.get(each.job_id)
                if each.relation is Relation.USED and user is not None and user.state is JobState.OPEN:
                    self._users.setdefault(each.identifier, []).append(user)
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

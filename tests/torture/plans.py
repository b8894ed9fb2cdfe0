"""What a round does, all of it decided by its seed."""

from __future__ import annotations

import random
from typing import Final

import attrs

from tests.torture import client, steps

#: How the victim's job comes to its end.
ENDINGS: Final = ("api", "process", "lease", "client killed", "run")

#: What is ended by order in any case; the others end by themselves, or race with the step that is waited for.
_ORDERED: Final = ("api", "client killed", "run")

_ANYWHERE: Final = (
    steps.KILL_TRACKER,
    steps.KILL_ENGINE,
    steps.RESTART_ENGINE,
    steps.RESET_ENGINE,
    steps.FILL_DISK,
    steps.STOP_TRACKER,
)
_OF_CLIENTS: Final = (steps.KILL_CLIENT, steps.RESET_CLIENT)


@attrs.frozen(kw_only=True)
class Plan:
    """One round.

    :ivar seed: All else follows from it, but what is given to `make`.
    :ivar step: At which something fails.
    :ivar nth: At which time that it is reached.
    :ivar deed: What fails.
    :ivar seconds: For how long: how long the disk is full, how long an engine is down.
    :ivar ending: How the job ends.
    :ivar acts: What its client makes.
    """

    seed: int
    step: str
    nth: int
    deed: str
    seconds: float
    ending: str
    acts: tuple[str, ...]

    @property
    def phase(self) -> str:
        """When the failure is due."""
        return steps.PHASES[self.step]

    def __str__(self) -> str:
        return (
            f"--seed {self.seed} --step {self.step}: {self.deed} at its time {self.nth} for {self.seconds:.2f} s; "
            f"the job ends by: {self.ending}; its client: {', '.join(self.acts)}"
        )


# The acts without which a step is not reached.
_NEEDED: Final = {
    "create-line": "build",
    "look": "anonymous",
    "start-forward": "long",
    "start-release": "exec",
    "reap-kill": "always",
    "reap-network": "network",
    "reap-volume": "volume",
    "reap-image": "build",
    "reap-plugin": "plugin",
    "reap-service": "service",
    "reap-secret": "secret",
    "reap-config": "secret",
}


def make(seed: int, swarm: bool, step: str | None = None, deed: str | None = None, most_acts: int = 8) -> Plan:
    """Make the plan of a seed.

    :param swarm: Whether the engine is in a swarm.
    :param step: Instead of a random one; it is then due the first time that it is reached.
    :param deed: Instead of a random one.
    """
    choice = random.Random(seed)
    possible = [each for each in steps.STEPS if swarm or each not in steps.SWARM_STEPS]
    chosen = choice.choice(possible)
    nth = choice.choice((1, 1, 1, 2, 3, 5)) if steps.PHASES[chosen] == "make" else choice.choice((1, 1, 1, 1, 2))
    if step is not None:
        chosen, nth = step, 1
    phase = steps.PHASES[chosen]
    deeds = [*_ANYWHERE, *(_OF_CLIENTS if phase == "make" else ())]
    if phase in ("start", "stop"):
        deeds = [steps.KILL_TRACKER, steps.KILL_ENGINE, steps.FILL_DISK]
    acts = client.choose(choice, swarm, most_acts)
    needed = _NEEDED.get(chosen.partition(":")[0], "long")
    if needed not in acts:
        acts.insert(choice.randint(0, len(acts)), needed)
    ending = choice.choice(_ORDERED if chosen.startswith("job-end:") else ENDINGS)
    chosen_deed = deed or choice.choice(deeds)
    if deed == steps.KILL_RUN:
        ending = "run"
    elif ending == "run" and chosen_deed == steps.KILL_CLIENT:
        chosen_deed = steps.KILL_RUN
    return Plan(
        seed=seed,
        step=chosen,
        nth=nth,
        deed=chosen_deed,
        seconds=choice.choice((0.0, 0.05, 0.3, 1.0)),
        ending=ending,
        acts=tuple(acts),
    )

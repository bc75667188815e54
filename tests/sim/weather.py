"""The faults between the operator and its cluster in one schedule, and the trace of what happened."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from finetune_operator.core.times import duration


@dataclass(frozen=True)
class Weather:
    """The probabilities of faults: drawn once for a schedule, and zero at its end."""

    refusals: float = 0.0
    """The probability that a call to the API server fails: 409, 429, 500, 503, or no answer in time."""
    slow: float = 0.0
    """The probability that a call takes seconds."""
    lost: float = 0.0
    """The probability that a watch loses an event."""
    doubled: float = 0.0
    late: float = 0.0
    """The probability that an event arrives seconds late, after newer ones."""
    denials: float = 0.0
    """The probability that a create begins a period in which no object of its kind can be created: quota, admission."""
    deaths: float = 0.0
    """The probability that the operator is killed at a call: before it, or after it took effect."""
    overlaps: bool = False
    """Whether a second operator may run beside the first."""

    @property
    def evidence_is_kept(self) -> bool:
        """Whether one operator that receives all events always runs."""
        return not (self.lost or self.late or self.deaths or self.overlaps)


GOOD = Weather()


def drawn(chance: random.Random) -> Weather:
    """Return a random weather: a quarter have no faults of their own, and few have all kinds."""
    refusals = Weather(refusals=chance.choice((0.02, 0.1, 0.25)), slow=chance.choice((0, 0.1)))
    denials = Weather(denials=chance.choice((0.1, 0.3)))
    events = Weather(lost=chance.choice((0.1, 0.3, 0.6)), doubled=0.1, late=chance.choice((0.05, 0.3)))
    deaths = Weather(deaths=chance.choice((0.01, 0.04, 0.1)))
    overlaps = Weather(overlaps=True, slow=chance.choice((0.05, 0.2)))
    every = replace(events, refusals=0.02, slow=0.02, denials=0.02, deaths=0.02, overlaps=True)
    kinds = (GOOD, refusals, denials, events, deaths, overlaps, every)
    return chance.choices(kinds, (26, 16, 10, 18, 12, 10, 8))[0]


@dataclass
class Trace:
    """The trace of a schedule in virtual time: always recorded, and read only after a failure."""

    time: Callable[[], float]
    lines: list[tuple[float, str, tuple[object, ...]]] = field(default_factory=list)

    def say(self, text: str, *words: object) -> None:
        """Record an event; `words` are formatted only when the trace is read."""
        self.lines.append((self.time(), text, words))

    def text(self, last: int | None = None) -> str:
        """Return one line for each event, or only the last ones."""
        shown = self.lines[-last:] if last else self.lines
        left_out = len(self.lines) - len(shown)
        head = [f"… {left_out} earlier lines"] if left_out else []
        return "\n".join(
            head + [f"{duration(int(time)):>7} +{time % 1:.3f}  {text.format(*words)}" for time, text, words in shown]
        )

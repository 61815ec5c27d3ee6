"""Steps of several processes and servers, event by event: who waits for whom, and how long.

In: what each part of a step takes (`Work`), how completions are drawn (`Decoding`), their lengths.
Out: seconds of each step, the share of them that processes wait for each other, how busy the
engines are.

A step of a process: wait for the loader → encode → every prompt to the engine with fewest of this
process's prompts unanswered (its own, or servers that all share, as thinker/rollout/vllm/pool.py) →
wait for all completions → first barrier (rewards see the rows of all) → rewards → log-probabilities
and backward pass → second barrier (gradients) → what all do together. Layers that are gathered one
by one (FSDP2, ZeRO-3) make processes wait inside the last part, too; the sum is the same.

An engine reads a prompt while nothing else goes on, then draws its completions beside those of
other prompts; each token costs what `Decoding` says for as many as are under way. A prompt counts
with the mean number of its completions that are not at their ends.
"""

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import numpy as np

from thinker.plan.step import Decoding


@dataclass(frozen=True, kw_only=True)
class Work:
    """Seconds of the parts of a step of one process, rollouts left out."""

    loader: float = 0.0
    """To read a batch, beside the step before."""
    data: float = 0.0
    """To read a batch, where no worker reads ahead."""
    before: float = 0.0
    """Up to the rollouts."""
    rewards: float = 0.0
    """Behind the first barrier."""
    after: float = 0.0
    """Log-probabilities and backward pass, whatever the completions are like."""
    after_token: float = 0.0
    """The same, for each token of the process's completions."""
    together: float = 0.0
    """Behind the second barrier."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A server that is lost. What it had is drawn anew by others; it is in again at the first step
    that begins when it is back, as the weights are pushed then."""

    server: int
    """Its number."""
    at: float
    """Seconds from the start of the run."""
    seconds: float
    """Until it is back."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Lognormal lengths of completions, cut off at the longest that is allowed."""

    mean: float
    """In tokens, before the cut."""
    spread: float
    """Standard deviation over mean; 0 makes all of them equal."""
    longest: int
    """`max_completion_length`."""

    def __post_init__(self) -> None:
        if not self.mean >= 1 or not math.isfinite(self.mean):
            raise ValueError(f"completions of {self.mean:g} tokens, expected at least 1")
        if not self.spread >= 0 or not math.isfinite(self.spread):
            raise ValueError(
                f"the spread of lengths is {self.spread:g}, expected 0 (all equal) or more"
            )
        if self.longest < self.mean:
            raise ValueError(
                f"the longest completion has {self.longest} tokens, expected no less than the mean "
                f"of {self.mean:g} (--longest, --completion-tokens)"
            )

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Whole numbers, 1 at least."""
        variance = math.log1p(self.spread**2)
        drawn = generator.lognormal(
            math.log(self.mean) - variance / 2, math.sqrt(variance), size=shape
        )
        return np.clip(np.rint(drawn), 1, self.longest).astype(int)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of the steps."""

    step_seconds: list[float]
    """Of each step."""
    waiting: float
    """Share of the processes' time in which they wait for others at one of the barriers."""
    busy: list[float]
    """Of each engine, the share of the time in which it reads or draws."""

    @property
    def mean_seconds(self) -> float:
        """Of a step."""
        return float(np.mean(self.step_seconds))


def simulate(
    work: Work,
    engine: Decoding,
    lengths: np.ndarray,
    *,
    num_servers: int = 0,
    slow: Mapping[int, float] | None = None,
    failures: Sequence[Failure] = (),
) -> Outcome:
    """Steps of processes whose completions have given lengths.

    lengths: (steps, processes, prompts, G) tokens. num_servers: that all processes share; 0: each
    has an engine of its own. slow: by process, what its own seconds are multiplied by, those of its
    own engine included. Raises ValueError where no server is left.

    >>> engine = Decoding(prompt_seconds=1, token_seconds=0.1, sequence_seconds=0, slots=9)
    >>> work = Work(before=2, after=3, together=4)
    >>> lengths = np.array([[[[10, 20]], [[10, 50]]]])  # a step of two processes, G = 2
    >>> simulate(work, engine, lengths).step_seconds  # 2 + 1 + 50 * .1 + 3 + 4
    [15.0]
    """
    return _Run(work, engine, lengths, num_servers, slow or {}, failures).run()


class _Clock:
    """Calls in the order of their times; those of one time in the order in which they came."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = count()
        self._calls: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, time: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._calls, (time, next(self._numbers), call))

    def next(self) -> bool:
        """Make one call; False where none is left."""
        if not self._calls:
            return False
        self.now, _, call = heapq.heappop(self._calls)
        call()
        return True


@dataclass(kw_only=True, eq=False)
class _Prompt:
    """One prompt with its completions."""

    process: int
    """Whose it is."""
    tokens: int
    """Of its longest completion."""
    sequences: float
    """Completions under way in the mean of those tokens."""
    places: int
    """How many it takes of an engine's slots."""
    left: float = 0.0
    """Tokens to go."""
    engine: int = 0
    """The number of the engine that has it."""


class _Engine:
    """Draws completions; answered: called with each prompt that is done."""

    def __init__(
        self, clock: _Clock, rates: Decoding, factor: float, answered: Callable[[_Prompt], None]
    ) -> None:
        self.clock, self.rates, self.factor, self.answered = clock, rates, factor, answered
        self.is_up = True
        self.back_at = 0.0
        self.busy_seconds = 0.0
        self._under_way: list[_Prompt] = []
        self._waiting: deque[_Prompt] = deque()
        self._since = 0.0  # up to then all tokens are counted
        self._reads_until = 0.0
        self._plan = 0  # number of the newest one; calls of older ones do nothing

    def take(self, prompt: _Prompt) -> None:
        self._count()
        self._waiting.append(prompt)
        self._go_on()

    def lose(self) -> list[_Prompt]:
        """Stop; what is not done."""
        self._count()
        lost = [*self._under_way, *self._waiting]
        self._under_way, self._waiting = [], deque()
        self._reads_until = self.clock.now
        self._plan += 1
        self.is_up = False
        return lost

    def _token_seconds(self) -> float:
        """Of one token now."""
        sequences = sum(prompt.sequences for prompt in self._under_way)
        return self.factor * (self.rates.token_seconds + sequences * self.rates.sequence_seconds)

    def _count(self) -> None:
        """The tokens drawn since the last call."""
        now, drawing = self.clock.now, max(self._since, min(self._reads_until, self.clock.now))
        if self._under_way:
            self.busy_seconds += now - self._since
            seconds = self._token_seconds()
            for prompt in self._under_way:
                prompt.left -= (now - drawing) / seconds if seconds else prompt.left
        self._since = now

    def _go_on(self) -> None:
        """Begin what fits, and plan for the next prompt that is done."""
        taken = sum(prompt.places for prompt in self._under_way)
        while self._waiting and (
            not taken or taken + self._waiting[0].places <= self.rates.slots + 1e-9
        ):
            prompt = self._waiting.popleft()
            prompt.left = float(prompt.tokens)
            self._under_way.append(prompt)
            taken += prompt.places
            reads = self.factor * self.rates.prompt_seconds
            self._reads_until = max(self.clock.now, self._reads_until) + reads
        self._plan += 1
        if self._under_way:
            number, left = self._plan, min(prompt.left for prompt in self._under_way)
            begins = max(self.clock.now, self._reads_until)
            self.clock.at(begins + left * self._token_seconds(), partial(self._due, number))

    def _due(self, number: int) -> None:
        if number != self._plan:
            return
        self._count()
        least = min(prompt.left for prompt in self._under_way)
        done = [prompt for prompt in self._under_way if prompt.left <= least + 1e-6]
        self._under_way = [prompt for prompt in self._under_way if prompt not in done]
        self._go_on()
        for prompt in done:
            self.answered(prompt)


@dataclass(kw_only=True, eq=False)
class _Process:
    """Where one of the processes is."""

    factor: float
    """Of its own seconds."""
    batch_at: float = 0.0
    """When the loader has the next batch; the first one is there at the start."""
    unanswered: Counter[int] = field(default_factory=Counter)
    """Prompts by the number of the engine that has them."""
    arrived_at: float = 0.0
    """At the barrier."""
    waited: float = 0.0
    """At barriers, in all."""


class _Run:
    """See `simulate`."""

    def __init__(self, work, engine, lengths, num_servers, slow, failures) -> None:
        self.work, self.lengths, self.clock = work, lengths, _Clock()
        self.steps, number, _, self.group = lengths.shape
        self.processes = [_Process(factor=slow.get(n, 1.0)) for n in range(number)]
        self.has_servers = num_servers > 0
        factors = [1.0] * num_servers or [process.factor for process in self.processes]
        self.engines = [_Engine(self.clock, engine, f, self._answered) for f in factors]
        self.step, self.began = 0, 0.0
        self.step_seconds: list[float] = []
        self._here = 0  # processes at the barrier
        for failure in failures:
            self.clock.at(failure.at, partial(self._fail, failure))

    def run(self) -> Outcome:
        self._begin()
        while len(self.step_seconds) < self.steps:
            assert self.clock.next(), "nothing happens, but steps are left"
        total = sum(self.step_seconds)
        return Outcome(
            step_seconds=self.step_seconds,
            waiting=sum(p.waited for p in self.processes) / (total * len(self.processes)),
            busy=[engine.busy_seconds / total for engine in self.engines],
        )

    def _begin(self) -> None:
        """All processes begin a step."""
        now, work = self.clock.now, self.work
        self.began = now
        for engine in self.engines:
            engine.is_up = engine.is_up or engine.back_at <= now
        for number, process in enumerate(self.processes):
            ready = max(now, process.batch_at)
            process.batch_at = ready + work.loader
            seconds = process.factor * (work.data + work.before)
            self.clock.at(ready + seconds, partial(self._ask, number))

    def _ask(self, number: int) -> None:
        """Give an engine each prompt of a process."""
        for group in self.lengths[self.step, number]:
            longest = int(group.max())
            prompt = _Prompt(
                process=number,
                tokens=longest,
                sequences=float(group.sum()) / longest,
                places=self.group,
            )
            self._give(prompt)

    def _give(self, prompt: _Prompt) -> None:
        """To the process's own engine, or to the server with fewest of its prompts; each process
        begins with another one."""
        if self.has_servers:
            unanswered, number = self.processes[prompt.process].unanswered, len(self.engines)
            order = ((prompt.process + n) % number for n in range(number))
            up = [n for n in order if self.engines[n].is_up]
            if not up:
                raise ValueError(f"no server is left after {self.clock.now:.0f} seconds")
            prompt.engine = min(up, key=lambda n: unanswered[n])
        else:
            prompt.engine = prompt.process
        self.processes[prompt.process].unanswered[prompt.engine] += 1
        self.engines[prompt.engine].take(prompt)

    def _answered(self, prompt: _Prompt) -> None:
        process = self.processes[prompt.process]
        process.unanswered[prompt.engine] -= 1
        if not process.unanswered.total():
            self._arrive(process, self._judge)

    def _fail(self, failure: Failure) -> None:
        """A server is lost, and others draw what it had."""
        engine = self.engines[failure.server]
        engine.back_at = self.clock.now + failure.seconds
        for prompt in engine.lose():
            self.processes[prompt.process].unanswered[failure.server] -= 1
            self._give(prompt)

    def _arrive(self, process: _Process, then: Callable[[], None]) -> None:
        """At a barrier; `then` is called when all are there."""
        process.arrived_at = self.clock.now
        self._here += 1
        if self._here == len(self.processes):
            self._here = 0
            for other in self.processes:
                other.waited += self.clock.now - other.arrived_at
            then()

    def _judge(self) -> None:
        """All rollouts are there: rewards, then the passes of each process."""
        work = self.work
        for number, process in enumerate(self.processes):
            tokens = float(self.lengths[self.step, number].sum())
            seconds = process.factor * (work.after + tokens * work.after_token)
            self.clock.at(
                self.clock.now + work.rewards + seconds,
                partial(self._arrive, process, self._reduce),
            )

    def _reduce(self) -> None:
        """All gradients are there."""
        self.clock.at(self.clock.now + self.work.together, self._end)

    def _end(self) -> None:
        self.step_seconds.append(self.clock.now - self.began)
        self.step += 1
        if self.step < self.steps:
            self._begin()

"""The shards of a job on a Ray cluster: actors that each supervise a worker process, and a driver that writes parts.

Ray runs and finds the actors; what happens to a shard is decided here. An actor is asked every few seconds whether it
is there. One that does not answer within its lease is given up, as after a cut cable, and its shard goes to another. A
shard that was done twice is written once. Nodes need headway, the model and the pictures; the job's folder is the
driver's alone.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import HeadwayError
from .drawn import take_drawn
from .plan import Picture, Plan
from .runners import Progress, write_part
from .shard import Limits, NodeFaultError, Supervisor
from .sources import need

log = logging.getLogger("headway")

LEASE = 30.0  # seconds without an answer after which an actor counts as lost
_ASK = 5.0  # seconds between two questions
_LOSSES = 5  # of the actors of one shard, after which the job ends
_PATIENCE = 60.0  # seconds without any actor after which the log says so


class Actor:
    """Runs on a node, in a process of Ray's."""

    def __init__(self, plan: Plan, options: dict[str, Any]) -> None:
        self._done, self._lock = 0, threading.Lock()
        self._drawn = Path(tempfile.mkdtemp(prefix="headway-drawn-")) if plan.settings.pictures else None
        self._supervisor = Supervisor(plan, tell=self._tell, drawn=self._drawn, **options)

    def _tell(self, done: int) -> None:
        self._done += done

    def node(self) -> str:
        """The node it runs on, once the model is loaded."""
        import ray

        self._supervisor.open()
        return str(ray.get_runtime_context().get_node_id())

    def run(self, pictures: Sequence[Picture], shard: int) -> tuple[list[str], dict[str, bytes]]:
        """(the rows of a shard, its drawn pictures by their names); one after the other."""
        with self._lock:
            self._done = 0
            rows = self._supervisor.run(pictures, shard=shard)
            return rows, {} if self._drawn is None else take_drawn(self._drawn)

    def done(self) -> int:
        """Pictures of the shard so far; the answer itself renews the lease."""
        return self._done


@dataclass(eq=False)
class _Member:
    """An actor as the driver knows it. starting: the future of its start; tasks: shards by their futures, the first is
    in work and the other waits, so that the actor never does."""

    actor: Any
    starting: Any
    node: str = ""
    tasks: dict[Any, int] = field(default_factory=dict)
    question: Any = None
    heard: float = field(default_factory=time.monotonic)
    asked: float = 0.0
    done: int = 0


def run_ray(
    plan: Plan,
    shards: Sequence[int],
    address: str = "auto",
    workers: int | None = None,
    *,
    device: str = "auto",
    plugins: Sequence[str] = (),
    limits: Limits | None = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Write the parts of `shards` with the actors of a cluster.

    address: of the cluster; "auto": the one that runs, else one of this machine.
    workers: actors; None: one for each GPU, or for the threads of a worker where there is none.
    Raises: HeadwayError without ray, where no actor can start, or where a shard loses its actors again and again.
    """
    ray = need("ray", "--ray", "ray")
    options = {"device": device, "plugins": list(plugins), "limits": limits}
    with _connected(ray, address):
        _Driver(ray, plan, shards, workers, options, progress).run()


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        if address != "auto":
            raise HeadwayError(f"no Ray cluster answers at {address}: {error}") from None
        ray.init(include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


class _Driver:
    def __init__(
        self, ray: Any, plan: Plan, shards: Sequence[int], workers: int | None, options: dict[str, Any],
        progress: Progress,
    ) -> None:  # fmt: skip
        self.ray, self.plan, self.workers, self.options = ray, plan, workers, options
        self.waiting, self.left = deque(shards), set(shards)
        self.losses: Counter[int] = Counter()
        self.members: list[_Member] = []
        self.bad_nodes: dict[str, str] = {}
        self.total = sum(plan.size_of(shard) for shard in shards)
        self.progress: Callable[[], None] = lambda: progress(self._pictures_done(), self.total)
        self.heard, self.looked = time.monotonic(), 0.0

    def run(self) -> None:
        try:
            while self.left:
                self._hire()
                futures = {f: m for m in self.members for f in [*m.tasks, *([] if m.node else [m.starting])]}
                ready = self.ray.wait([*futures], num_returns=len(futures), timeout=0.02)[0] if futures else []
                if futures and not ready:
                    ready = self.ray.wait([*futures], timeout=1.0)[0]
                elif not futures:
                    time.sleep(1.0)
                for future in ready:
                    if futures[future] in self.members:
                        self._hear(futures[future], future)
                self._ask()
                for member in self.members:
                    self._give(member)
                self.progress()
        finally:
            for member in self.members:
                self.ray.kill(member.actor)

    def _hire(self) -> None:
        """As many actors as there is work and room for, looked at every second."""
        if self.members and time.monotonic() - self.looked < 1.0:
            return
        self.looked = time.monotonic()
        room = self._room()
        if not room and self.bad_nodes and not self.members:
            raise NodeFaultError(next(iter(self.bad_nodes.values())))
        for _ in range(min(room if self.workers is None else self.workers, len(self.left)) - len(self.members)):
            gpus = self._per_actor()[1]
            want: dict[str, Any] = {"num_cpus": self._per_actor()[0], "num_gpus": gpus, "max_restarts": 0}
            if self.bad_nodes:
                want["label_selector"] = {"ray.io/node-id": f"!in({','.join(self.bad_nodes)})"}
            remote = self.ray.remote(Actor).options(max_concurrency=3, **want)
            actor = remote.remote(self.plan, self.options)
            self.members.append(_Member(actor, actor.node.remote()))
        if any(member.node for member in self.members):
            self.heard = time.monotonic()
        elif time.monotonic() - self.heard > _PATIENCE:
            self.heard = time.monotonic()
            log.warning("no actor has started yet: each needs %s CPUs and %s GPUs on a node", *self._per_actor())

    def _per_actor(self) -> tuple[int, int]:
        """(CPUs, GPUs) of an actor."""
        gpus = self.options["device"] != "cpu" and self.ray.cluster_resources().get("GPU", 0) >= 1
        return self.plan.settings.threads, int(gpus)

    def _room(self) -> int:
        """Actors that fit on the nodes that are there and sound."""
        cpus, gpus = self._per_actor()
        sound = [n["Resources"] for n in self.ray.nodes() if n["Alive"] and n["NodeID"] not in self.bad_nodes]
        fits = [int(n.get("CPU", 0) // cpus) for n in sound]
        return sum(min(fit, int(n.get("GPU", 0))) if gpus else fit for fit, n in zip(fits, sound))

    def _hear(self, member: _Member, future: Any) -> None:
        """What an actor gives back: its node, the rows of a shard, or how it failed."""
        errors = self.ray.exceptions
        try:
            result = self.ray.get(future, timeout=LEASE)
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, NodeFaultError) and member.node:
                log.warning("a node is left out: %s", cause)
                self.bad_nodes[member.node] = str(cause)
                self._lose(member, count=False)
            else:
                raise cause if isinstance(cause, HeadwayError) else error from None
        except errors.RayError as error:
            log.warning("an actor is lost, its shard goes to another: %s", type(error).__name__)
            self._lose(member)
        else:
            member.heard = time.monotonic()
            if future is member.starting:
                member.node, self.losses[-1] = result, 0
                return
            shard, member.done = member.tasks.pop(future), 0
            self._give(member)  # before the disk is waited for
            write_part(self.plan, shard, *result)
            self.left.discard(shard)

    def _give(self, member: _Member) -> None:
        """The next shard, and while there are many one more, so that the actor need not wait for the driver."""
        while member.node and self.waiting:
            many = len(self.waiting) > 2 * len(self.members)
            if len(member.tasks) >= (2 if many else 1):
                return
            if not member.tasks:
                member.heard = time.monotonic()
            shard = self.waiting.popleft()
            member.tasks[member.actor.run.remote(self.plan.pictures(shard), shard)] = shard

    def _ask(self) -> None:
        """Whether the actors that work are still there."""
        now = time.monotonic()
        for member in [m for m in self.members if m.tasks]:
            if member.question is not None and self.ray.wait([member.question], timeout=0)[0]:
                with suppress(self.ray.exceptions.RayError):  # its future says it too, or the lease ends
                    member.done, member.heard = self.ray.get(member.question, timeout=1), now
                member.question = None
            if member.question is None and now - member.asked > _ASK:
                member.question, member.asked = member.actor.done.remote(), now
            if now - member.heard > LEASE:
                log.warning("an actor has not answered for %g s, its shard goes to another", LEASE)
                self._lose(member)

    def _lose(self, member: _Member, *, count: bool = True) -> None:
        self.members.remove(member)
        self.ray.kill(member.actor)
        shard = next(iter(member.tasks.values()), None)
        self.losses[-1 if shard is None else shard] += count
        self.waiting.extendleft(reversed(member.tasks.values()))
        if self.losses[-1 if shard is None else shard] >= _LOSSES:
            what = "before they had a shard" if shard is None else f"over shard {shard}"
            raise HeadwayError(f"{_LOSSES} actors were lost {what}; the same command goes on, and Ray's log says why")

    def _pictures_done(self) -> int:
        return self.total - sum(self.plan.size_of(shard) for shard in self.left) + sum(m.done for m in self.members)

"""The teachers that follow the student, and batch-norm statistics over several processes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from simcvd_bundle.data.halves import check_stages


class MeanTeacherHandler:
    """Teacher weights are the exponential moving average of the student's, after every optimiser step.

    The decay is ``min(1 - 1 / t, decay)`` at iteration t from 1 on, so the first step copies the student (UA-MT's rule
    with the paper's 0.999). Parameters are averaged; batch-norm statistics stay the teacher's own. At the start of a
    fresh run the teacher becomes an exact copy of the student, whatever weights that has been given meanwhile; up to
    iteration ``start`` it stays one, statistics included.

    ignite's ``EMAHandler`` is not used: by default the teacher's buffers are the student's (pytorch/ignite#2590).

    Args:
        student: modules whose parameters are averaged (not their DDP wrappers).
        teacher: modules of the same form that hold the average; they need storage of their own.
        decay: upper bound of the decay, 0.999 in the paper.
        start: iterations at the beginning in which no teacher is needed.

    Raises:
        ValueError: when ``decay`` is not in [0, 1), ``start`` is negative, or teacher and student share storage.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, decay: float = 0.999, start: int = 0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {decay}.")
        if start < 0:
            raise ValueError(f"train::teacher_start is a number of iterations and must not be negative, got {start}.")
        shared = {t.data_ptr() for t in student.state_dict().values() if t.numel()} & {
            t.data_ptr() for t in teacher.state_dict().values() if t.numel()
        }
        if shared:
            raise ValueError("MeanTeacherHandler: student and teacher share storage; make the teacher a deep copy.")
        self.student = student
        self.teacher = teacher.requires_grad_(False)
        self.decay = decay
        self.start_iteration = start

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def start(self, engine: Engine) -> None:
        """Copy the student, unless the run is resumed."""
        if engine.state.iteration == 0:
            self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.train()

    def __call__(self, engine: Engine) -> None:
        """Move the teacher by one step."""
        iteration = engine.state.iteration
        if iteration <= self.start_iteration:
            self.teacher.load_state_dict(self.student.state_dict())
            return
        decay = min(1 - 1 / max(iteration, 1), self.decay)
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(list(self.teacher.parameters()), list(self.student.parameters()), iteration)


class AlternatingTeachersHandler:
    """Two mean teachers, of which one is moved at a time, for periods of random length.

    Periods have 1 to ``longest`` iterations, drawn anew from ``seed``, so a resumed run has the same ones.

    Source: Zhao et al., ECCV 2024, arXiv:2311.17325 (AD-MT).

    Args:
        student: modules, of which ``network`` is averaged (not its DDP wrapper).
        teacher: modules, of which ``network`` has the two ``members`` (``TwoTeachers``).
        decay: upper bound of the decay, see ``MeanTeacherHandler``.
        start: iterations at the beginning in which no teacher is needed.
        seed: of the lengths of the periods.
        longest: iterations of the longest period (AD-MT: 19).

    Raises:
        ValueError: when ``longest`` is below 1, and as ``MeanTeacherHandler``.
    """

    def __init__(
        self, student: nn.ModuleDict, teacher: nn.ModuleDict, decay: float = 0.99, start: int = 0, seed: int = 0,
        longest: int = 19,
    ) -> None:  # fmt: skip
        if longest < 1:
            raise ValueError(f"AlternatingTeachersHandler: longest must be at least 1, got {longest}.")
        members: Iterable[nn.Module] = teacher["network"].members  # type: ignore[assignment]
        self.teachers = [MeanTeacherHandler(student["network"], member, decay, start) for member in members]
        self.generator = torch.Generator().manual_seed(seed)
        self.longest = longest
        self.ends: list[int] = []

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        for teacher in self.teachers:
            engine.add_event_handler(Events.STARTED, teacher.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Move the teacher whose turn it is; before ``start`` both."""
        iteration = engine.state.iteration
        turn = self.turn(iteration)
        for index, teacher in enumerate(self.teachers):
            if index == turn or iteration <= teacher.start_iteration:
                teacher(engine)

    def turn(self, iteration: int) -> int:
        """Which teacher's turn it is, 0 or 1, from iteration 1 on."""
        while not self.ends or self.ends[-1] < iteration:
            length = int(torch.randint(1, self.longest + 1, (), generator=self.generator))
            self.ends.append((self.ends[-1] if self.ends else 0) + length)
        return bisect_left(self.ends, iteration) % 2


class StageTeacherHandler:
    """The teacher of a stage is the student as it was when the stage began, and stays so until the next one.

    Stages follow each other without end after iteration ``start``. The teacher predicts as a trained network does:
    running statistics of its batch norms, no dropout.

    Source: Huo et al., CVPR 2021, arXiv:2006.13461 (ATSO).

    Args:
        student: modules that are copied (not their DDP wrappers).
        teacher: modules of the same form with storage of their own.
        start: iterations before the first stage, in which no teacher is needed.
        stage_length: iterations of a stage.

    Raises:
        ValueError: when ``start`` is negative or ``stage_length`` below 1.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, start: int, stage_length: int) -> None:
        check_stages(start, stage_length)
        self.student = student
        self.teacher = teacher.requires_grad_(False).eval()
        self.start, self.stage_length = start, stage_length

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.STARTED | Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Copy the student when a stage begins; a resumed run has its teacher from the checkpoint."""
        stages, passed = divmod(engine.state.iteration - self.start, self.stage_length)
        if stages >= 0 and passed == 0:
            self.teacher.load_state_dict(self.student.state_dict())


class BatchNormStatisticsHandler:
    """Give all processes the mean of their batch-norm statistics at the end of every epoch.

    During an epoch every process keeps the statistics of its own share of the batches, in student and teacher. Running
    means and variances are linear in what the batches add, so this is the same as a mean taken at every iteration. In
    the list of handlers it belongs before validation and checkpoints, which then see one student and one teacher in all
    processes. No effect in a single process.

    Args:
        networks: student (not its DDP wrapper) and teacher.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = networks

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Average the buffers."""
        if idist.get_world_size() == 1:
            return
        for buffer in (buffer for network in self.networks for buffer in network.buffers()):
            if buffer.is_floating_point():  # the number of batches is the same everywhere
                torch.distributed.all_reduce(buffer)
                buffer.div_(idist.get_world_size())

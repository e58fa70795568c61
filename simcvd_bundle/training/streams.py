"""The random streams of a training: a function of seed and iteration."""

from __future__ import annotations

import numpy as np
import torch
from ignite.engine import Engine, Events

from simcvd_bundle.data.iterations import IterationSampler


class RandomStreamsHandler:
    """Make all randomness of a training a function of the seed and the iteration.

    The sampler continues at the trainer's iteration, and torch (noise, dropout) is seeded anew before every iteration.
    A resumed run therefore draws what the uninterrupted one would have drawn, and no generator state needs saving.

    Args:
        sampler: sampler of the training loader.
        seed: seed of the run.
        rank: process number, so that processes draw different noise.
    """

    def __init__(self, sampler: IterationSampler, seed: int = 0, rank: int = 0) -> None:
        self.sampler = sampler
        self.seed = seed
        self.rank = rank

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.position)
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def position(self, engine: Engine) -> None:
        """Tell the sampler where a loader iterator made from now on begins."""
        self.sampler.start = engine.state.iteration

    def __call__(self, engine: Engine) -> None:
        """Seed torch for this iteration."""
        sequence = np.random.SeedSequence([self.seed, self.rank, engine.state.iteration])
        torch.manual_seed(int(sequence.generate_state(1)[0]))

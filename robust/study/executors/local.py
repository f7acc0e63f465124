"""Jobs in this process, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from robust.study.executors.base import Finished, Job, Poll, Work, attempt, check_jobs


class Local:
    """Runs jobs in this process; Ctrl-C ends the run."""

    name = "local"

    def run(self, jobs: Sequence[Job], work: Work, *, poll: Poll | None = None) -> Iterator[Finished]:
        """As `Executor.run` says."""
        check_jobs(jobs)
        return self._run(jobs, work, poll)

    def _run(self, jobs: Sequence[Job], work: Work, poll: Poll | None) -> Iterator[Finished]:
        for job in jobs:
            yield attempt(partial(work, job.payload)).finished(job.key)
            if poll is not None:
                poll()

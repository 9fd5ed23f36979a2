"""Makes processes in the main thread, whoever asks.

bubblewrap ends a container when *the thread that made it* ends (``PR_SET_PDEATHSIG``). The main thread is the only
one that lives as long as the agent, so it alone makes processes; others ask and wait for the answer.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue


class Spawner:
    """A queue of processes to make; :meth:`run` serves it in the main thread."""

    def __init__(self) -> None:
        self._requests: SimpleQueue[
            tuple[Sequence[str], Mapping[str, str], Sequence[int], Future[subprocess.Popen[bytes]]] | None
        ] = SimpleQueue()

    def run(self) -> None:
        """Make processes until :meth:`stop`."""
        while (request := self._requests.get()) is not None:
            words, environment, descriptors, answer = request
            try:
                answer.set_result(
                    subprocess.Popen(
                        list(words),
                        env=dict(environment),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        pass_fds=tuple(descriptors),
                        start_new_session=True,
                        bufsize=0,
                    )
                )
            except (OSError, ValueError) as error:
                answer.set_exception(error)

    def stop(self) -> None:
        """Let :meth:`run` return; safe to call from a signal handler."""
        self._requests.put(None)

    def spawn(
        self, words: Sequence[str], environment: Mapping[str, str], *, descriptors: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """Make a process whose output comes through pipes.

        Raises
        ------
        OSError
            If it cannot be made.
        """
        answer: Future[subprocess.Popen[bytes]] = Future()
        self._requests.put((words, environment, descriptors, answer))
        return answer.result()

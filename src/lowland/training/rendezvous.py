"""How the processes of one run find each other: at the address that the launcher's variables give."""

import os
import socket
import sys
import time
from datetime import timedelta
from threading import Event, Thread

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from lowland.errors import ElsewhereError, RunError
from lowland.interrupts import leave
from lowland.patience import EVERY

_SILENT = 10.0  # seconds in which the others usually come
_LOOK = 0.1
_PATIENCE = 2.0  # for the thread to end


def meet(patience: timedelta) -> None:
    """Begin `torch.distributed` together with all others of this run, for whom it waits.

    Who is still missing is said on stderr after ten seconds, then every half minute. Ctrl-C ends the wait: what torch
    waits in is deaf to it, and is in a thread of its own.

    Args:
        patience: of all that the processes do together later.

    Raises:
        RunError: if no connection can be had.
    """
    # Loaded later, its functions would take the group for their default argument, and its threads would outlive it.
    import torch.distributed.nn  # noqa: F401

    meeting = _Meeting(patience)
    meeting.thread.start()
    began = time.monotonic()
    next_line = began + _SILENT
    try:
        while not meeting.over.wait(_LOOK):
            if time.monotonic() >= next_line:
                next_line += EVERY
                meeting.say(time.monotonic() - began)
    except KeyboardInterrupt:
        meeting.give_up()
        raise
    if meeting.failure is not None:
        raise meeting.failure


class _Meeting:
    def __init__(self, patience: timedelta):
        self.patience = patience
        self.rank, self.count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.host, self.port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.over = Event()
        self.failure: Exception | None = None
        self.thread = Thread(target=self._work, daemon=True)
        self._given_up = Event()
        self._missing: list[int] = [0] if self.rank else []
        self._why = ""

    def say(self, seconds: float) -> None:
        """For whom this process waits; of those who wait for the same one, the first says so."""
        missing = self._missing
        if not missing:
            return
        who = f"process {missing[0]}" if len(missing) == 1 else f"{len(missing)} processes, {missing[0]} among them,"
        print(
            f"process {self.rank} has waited {seconds:.0f} s for {who} of WORLD_SIZE={self.count} at "
            f"{self.host}:{self.port}{self._why}: start it with the same MASTER_ADDR and MASTER_PORT, or stop with "
            "Ctrl-C",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    def give_up(self) -> None:
        """End the thread, or else this process on the spot: Python must not end while a thread is inside of torch."""
        self._given_up.set()
        self.thread.join(_PATIENCE)
        if self.thread.is_alive():
            leave()

    def _wait(self) -> None:
        if self._given_up.wait(_LOOK):
            raise ElsewhereError

    def _work(self) -> None:
        try:
            self._begin()
        except Exception as error:
            self.failure = error
        self.over.set()

    def _begin(self) -> None:
        store = self._store()
        store.set(f"here/{self.rank}", "")
        others = [rank for rank in range(self.count) if rank != self.rank]
        while not store.check([f"here/{rank}" for rank in others]):
            if self.rank == 0:
                self._missing = [rank for rank in others if not store.check([f"here/{rank}"])]
            self._wait()
        self._missing = []
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=store, rank=self.rank, world_size=self.count, timeout=self.patience,
        )  # fmt: skip

    def _store(self) -> dist.Store:
        """Where they tell each other their addresses."""
        try:
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun has it, and is there already
                store, _, _ = next(rendezvous("env://", self.rank, self.count, timeout=self.patience))
            elif self.rank == 0:
                store = dist.TCPStore(
                    "127.0.0.1", self.port, is_master=True, timeout=self.patience, wait_for_workers=False
                )
            else:
                self._wait_for_the_first()
                store = dist.TCPStore(self.host, self.port, timeout=self.patience, wait_for_workers=False)
        except dist.DistError as error:
            raise RunError(
                f"the processes of this run can't meet at {self.host}:{self.port} ({_brief(error)}): choose another "
                "MASTER_PORT, the same for all, or end what has it"
            ) from error
        self._missing = []
        self._why = ""
        return dist.PrefixStore("lowland", store)

    def _wait_for_the_first(self) -> None:
        """Until somebody listens there; torch would wait as well, and print why at length."""
        while True:
            try:
                socket.create_connection((self.host, self.port), timeout=1.0).close()
                return
            except OSError as error:
                self._why = f" ({error.strerror or error})"
            self._wait()


def _brief(error: Exception) -> str:
    return str(error).partition(". port")[0].partition("\n")[0]

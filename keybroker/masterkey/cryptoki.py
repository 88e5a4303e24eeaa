"""A PKCS#11 library in this process, and its thread.

A module is initialised once a process, and everything that it does is done in one thread of its own. It need
not know of threads then; whoever waits for one that hangs is told so after a while; and what it leaves in
OpenSSL's queue of errors, which is the thread's, is not taken for an error of our own TLS (SoftHSM2 does so).
What is new in its tokens shows only after it was initialised again, and that ends every session:
``Module.generation`` tells the others, whose handles may mean other objects then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

_WAIT_SECONDS: Final = 10
_T = TypeVar("_T")

_modules: dict[str, Module] = {}
_making = threading.Lock()


class Module:
    """A PKCS#11 library in this process, and its thread.

    Args:
        load: loads and initialises it.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        # a daemon: a module that hangs does not hold up the end of the process
        threading.Thread(target=self._work, name="pkcs11", daemon=True).start()
        self.library: Any = self.call(load)
        self.generation = 0
        self.refused: dict[bytes, Secret] = {}

    def _work(self) -> None:
        while True:
            future, job = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:  # it is the caller's
                future.set_exception(error)

    def call(self, job: Callable[[], _T]) -> _T:
        """Do something in the module's thread; one thing at a time.

        Raises:
            TimeoutError: it takes too long, or something before it does.
        """
        future: Future[_T] = Future()
        self._jobs.put((future, job))
        try:
            return future.result(_WAIT_SECONDS)
        except TimeoutError:
            future.cancel()
            raise

    def again(self) -> None:
        """Initialise it again, which ends all sessions; in its thread."""
        self.generation += 1
        self.library.reinitialize()


def module_at(path: str) -> Module:
    """Return the module at a path, loaded once a process.

    Raises:
        KeybrokerError: CONFIGURATION.
    """
    try:
        import pkcs11
    except ImportError:
        raise KeybrokerError(
            Problem.CONFIGURATION,
            "master key pkcs11: the library python-pkcs11 is not installed",
            hint="/opt/keybroker/bin/pip install --require-hashes -r requirements/pkcs11.txt, in a checkout",
        ) from None
    with _making:
        if path not in _modules:
            try:
                _modules[path] = Module(lambda: pkcs11.lib(path))
            except (pkcs11.PKCS11Error, TimeoutError) as error:
                raise KeybrokerError(
                    Problem.CONFIGURATION,
                    f"PKCS#11 module {path}: cannot be used: {said(error)}",
                    hint="is its package installed, and does module-path name it?",
                ) from error
        return _modules[path]


def said(error: Exception) -> str:
    """Return what a module said: the name of its error, with the words that there are."""
    return f"{type(error).__name__}{f' ({error})' if str(error) else ''}"

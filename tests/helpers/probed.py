"""Steps that end badly, in a module that another process imports in no time."""

import os
import signal
import sys
import time


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def hang():
    time.sleep(60)


def speak():
    print("noise")
    print("noise", file=sys.stderr)
    os.write(1, b"noise")
    return 7


def leave():
    os._exit(3)

"""How the origins here are started and ended by whoever runs them."""

import os
import sys
import threading


def grip_url(port):
    """Says where this program is, and returns where its hub is; ends it with its input."""
    print(port, flush=True)
    url = sys.stdin.readline().strip()
    threading.Thread(target=_end_with_input, daemon=True).start()
    return url


def _end_with_input():
    sys.stdin.read()
    os._exit(0)

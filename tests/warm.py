"""Stands for a run that is forked elsewhere: python -I -S tests/warm.py SOCKET WORDS…, without what takes time.

It passes on its streams, Ctrl-C and SIGTERM, and ends as the run ends. SIGUSR1 is `kill -9` of the run: this process
outlives it, so that whoever waits for this one finds the run gone.
"""

import json
import os
import signal
import socket
import sys

address, *words = sys.argv[1:]
meant = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGUSR1: signal.SIGKILL}
early = []  # signals that came before the run was there
pid = None


def passed_on(number, frame):
    if pid is None:
        early.append(number)
    else:
        os.kill(pid, meant[number])


for number in meant:
    signal.signal(number, passed_on)
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(address)
    line = json.dumps({"run": words, "folder": os.getcwd(), "environment": dict(os.environ)}).encode() + b"\n"
    sent = socket.send_fds(connection, [line], [0, 1, 2])
    connection.sendall(line[sent:])
    answers = connection.makefile()
    pid = int(answers.readline())
    for number in early:
        passed_on(number, None)
    status = int(answers.readline())
if status < 0:
    if -status in meant:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)

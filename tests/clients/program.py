"""The program under test, and the list of what failed."""

import json
import subprocess
import time


class Program:
    def __init__(self, path, folder):
        self.path, self.folder, self.failures = path, folder, []

    def check(self, truth, what):
        print(("ok      " if truth else "FAILED  ") + what, flush=True)
        if not truth:
            self.failures.append(what)

    def run(self, *arguments):
        """Standard output and seconds of a call that must succeed."""
        command = [str(argument) for argument in (self.path, *arguments)]
        begun = time.perf_counter()
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: {done.stderr}")
        return done.stdout, time.perf_counter() - begun

    def json(self, *arguments):
        return json.loads(self.run(*arguments, "--json")[0])

    def end(self):
        raise SystemExit(f"{len(self.failures)} of the checks failed" if self.failures else 0)

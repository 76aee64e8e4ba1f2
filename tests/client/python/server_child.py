# SPDX-License-Identifier: MIT
"""lstm-server as a child of a test, on free ports. Environment: LSTM_SERVER, the binary."""
import os
import pathlib
import re
import subprocess
import threading

ROOT = pathlib.Path(__file__).resolve().parents[3]


class Server:
    """Ready when it is made. Its log is read to its end all the time, so that it never waits for us: `log`, lines as bytes."""

    def __init__(self, *arguments, models="models/repository"):
        self.process = subprocess.Popen([os.environ["LSTM_SERVER"], "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--metrics-listen", "", "--models", models,
                                         "--shards", "2", "--pin-shards", "false", *arguments], cwd=ROOT, stderr=subprocess.PIPE)
        self.address, self.http, self.log = None, None, []
        for line in self.process.stderr:
            self.log.append(line)
            text = line.decode(errors="replace")
            if found := re.search(r"listening on ([0-9.:]+)", text):
                self.address = found[1]
            if found := re.search(r"Open Inference Protocol on http://([0-9.]+):(\d+)/v2", text):
                self.http = found[1], int(found[2])
                break
            if "no HTTP: " in text:
                break
        else:
            raise RuntimeError(f"the server did not start: {b''.join(self.log).decode(errors='replace')}")
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self._reader.start()

    def stop(self):
        """At once. False where it had ended already."""
        alive = self.process.poll() is None
        self.process.kill()
        self._end()
        return alive

    def terminate(self):
        """In order: its exit code."""
        self.process.terminate()
        return self._end()

    def _end(self):
        code = self.process.wait()
        self._reader.join()
        self.process.stderr.close()
        return code

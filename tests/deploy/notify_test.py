# SPDX-License-Identifier: MIT
"""What a service manager hears of a real server. Environment: LSTM_SERVER, the binary."""
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 60


class NotifyTest(unittest.TestCase):
    def serve(self, name, **environment):
        """A manager's socket of that name, and a server that knows it; its own is in the same folder."""
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        manager.settimeout(PATIENCE)
        manager.bind(name.replace("@", "\0"))
        self.addCleanup(manager.close)
        own = tempfile.TemporaryDirectory()
        self.addCleanup(own.cleanup)
        process = subprocess.Popen([os.environ["LSTM_SERVER"], "--listen", f"unix:{own.name}/s", "--http-listen", "", "--metrics-listen", "", "--models", "models/repository"],
                                   cwd=ROOT, stderr=subprocess.DEVNULL, env={**os.environ, "NOTIFY_SOCKET": name, **environment})
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return manager, process, f"{own.name}/s"

    def test_ready_stopping_and_the_watchdog_in_between(self):
        with tempfile.TemporaryDirectory() as folder:
            manager, process, address = self.serve(f"{folder}/notify", WATCHDOG_USEC="30000000")
            self.assertEqual(manager.recv(100), b"READY=1")
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(address)  # it listens
            for _ in range(3):
                self.assertEqual(manager.recv(100), b"WATCHDOG=1")
            process.send_signal(signal.SIGTERM)
            while (said := manager.recv(100)) == b"WATCHDOG=1":
                pass
            self.assertEqual(said, b"STOPPING=1")
            self.assertEqual(process.wait(PATIENCE), 0)

    def test_a_socket_of_no_file_and_a_watchdog_for_somebody_else(self):
        manager, process, _ = self.serve(f"@lstm-notify-{os.getpid()}", WATCHDOG_USEC="30000000", WATCHDOG_PID="1")
        self.assertEqual(manager.recv(100), b"READY=1")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(manager.recv(100), b"STOPPING=1", "nothing in between: the watchdog is another's")

    def test_a_manager_that_is_gone_or_no_manager_at_all_disturbs_nobody(self):
        for name in "/nowhere/notify", "relative", "", "/" + "x" * 200:
            process = subprocess.Popen([os.environ["LSTM_SERVER"], "--listen", "127.0.0.1:0", "--http-listen", "", "--metrics-listen", "", "--models", "models/repository"],
                                       cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "NOTIFY_SOCKET": name, "WATCHDOG_USEC": "nonsense"})
            while "ready after" not in process.stderr.readline():
                self.assertIsNone(process.poll())
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
            process.stderr.close()
            self.assertEqual(process.wait(PATIENCE), 0)


if __name__ == "__main__":
    unittest.main()

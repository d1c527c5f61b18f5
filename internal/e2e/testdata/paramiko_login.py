"""Logs in with paramiko, checks no host key, and runs a command: paramiko_login.py HOST PORT USER COMMAND [PROXYCOMMAND]."""

import os
import select
import socket
import sys

import paramiko


class Proxy(paramiko.ProxyCommand):
    def recv(self, size):
        # paramiko's own goes round in circles once the proxy has ended.
        if not select.select([self.process.stdout], [], [], self.timeout)[0]:
            raise socket.timeout
        return os.read(self.process.stdout.fileno(), size)


host, port, user, command = sys.argv[1:5]
proxy = Proxy(sys.argv[5]) if len(sys.argv) > 5 else None
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
try:
    client.connect(host, int(port), user, sock=proxy, look_for_keys=False)
    sys.stdout.write(client.exec_command(command)[1].read().decode())
finally:
    client.close()
    if proxy:
        proxy.close()
        sys.stderr.write(proxy.process.stderr.read().decode())

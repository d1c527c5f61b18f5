"""Logs in with asyncssh, checks no host key, and runs a command.

asyncssh_login.py HOST PORT USER COMMAND [PROXYCOMMAND]
"""

import asyncio
import sys
import warnings

warnings.simplefilter("ignore")  # about ciphers that nobody uses here

import asyncssh


def overheard(tunnel, silent):
    """Shows what the proxy writes to stderr, which asyncssh takes for a part of what the server sends."""
    received, lost = tunnel.pipe_data_received, tunnel.pipe_connection_lost

    def data(fd, text):
        if fd == 2:
            sys.stderr.write(text.decode())
        received(fd, text)

    def end(fd, exc):
        if fd == 2:
            silent.set()
        lost(fd, exc)

    tunnel.pipe_data_received, tunnel.pipe_connection_lost = data, end
    # Its own close kills the proxy, maybe in the middle of a sentence.
    tunnel.close = lambda: tunnel._stdin.close()
    return tunnel


async def main(host, port, user, command, proxy=()):
    silent = asyncio.Event()
    loop = asyncio.get_running_loop()
    start = loop.subprocess_exec
    loop.subprocess_exec = lambda tunnel, *argv: start(lambda: overheard(tunnel(), silent), *argv)
    try:
        async with asyncssh.connect(
            host, int(port), username=user, known_hosts=None, config=[], proxy_command=proxy
        ) as conn:
            sys.stdout.write((await conn.run(command)).stdout)
    finally:
        if proxy:
            await asyncio.wait_for(silent.wait(), 30)


asyncio.run(main(*sys.argv[1:]))

// Logs in with ssh2, checks no host key, and runs a command:
// ssh2_login.js NODE_MODULES HOST PORT USER COMMAND [PROXYCOMMAND]. The proxy is used as editors use it.
'use strict';

const { spawn } = require('child_process');
const { Duplex } = require('stream');

const [modules, host, port, username, command, proxy] = process.argv.slice(2);
const { Client } = require(modules + '/ssh2');

const options = { host, port: Number(port), username, agent: process.env.SSH_AUTH_SOCK };
if (proxy) {
  const [program, ...args] = proxy.split(' ');
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  options.sock = Duplex.from({ readable: child.stdout, writable: child.stdin });
}

const client = new Client();
client.on('error', (err) => {
  console.error(err.message);
  process.exitCode = 1;
});
client.on('ready', () => {
  client.exec(command, (err, stream) => {
    if (err) throw err;
    stream.on('close', () => client.end());
    stream.stderr.resume();
    stream.pipe(process.stdout);
  });
});
client.connect(options);

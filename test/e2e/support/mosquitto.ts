import { spawn } from 'node:child_process';
import { appendFileSync, chmodSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { CoxProcess, eventually, remove, scratch } from './system.js';

/** Two free neighbouring ports: one for nodes, one for joining. */
export async function freePortPair(): Promise<number> {
  const bind = (port: number) =>
    new Promise<import('node:net').Server | undefined>((done) => {
      const s = createServer();
      s.once('error', () => done(undefined));
      s.listen(port, '127.0.0.1', () => done(s));
    });
  const close = (s: import('node:net').Server) => new Promise((done) => s.close(done));
  for (let i = 0; i < 50; i++) {
    const first = (await bind(0))!;
    const { port } = first.address() as { port: number };
    const second = await bind(port + 1);
    await close(first);
    if (!second) continue;
    await close(second);
    return port;
  }
  throw new Error('no two free ports side by side');
}

/** A broker as a process. */
export interface Mosquitto {
  /** For `cox hub --broker`. */
  url: string;
  /** Where nodes connect; devices that join go to the next one. */
  port: number;
  /** Without warning. */
  kill(): Promise<void>;
  /** After `kill`. */
  start(): Promise<void>;
  stop(): Promise<void>;
}

/** Debian's mosquitto with the configuration that `cox broker mosquitto` writes for the hub of `dataDir`. */
export async function startMosquitto(dataDir: string): Promise<Mosquitto> {
  const out = scratch('mosquitto');
  const port = await freePortPair();
  const where = ['--out', out, '--port', String(port), '--host', '127.0.0.1'];
  const write = new CoxProcess(['broker', 'mosquitto', '--data-dir', dataDir, ...where]);
  if ((await write.exited).code !== 0) throw new Error(write.tail());
  chmodSync(out, 0o755);
  // As root mosquitto would become the user of that name, which may not exist here.
  if (process.getuid?.() === 0) appendFileSync(join(out, 'mosquitto.conf'), '\nuser root\n');
  let end = async (_signal: NodeJS.Signals) => {};
  const start = async () => {
    let output = '';
    const child = spawn('mosquitto', ['-c', join(out, 'mosquitto.conf')], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        PATH: `${process.env['PATH']}:/usr/sbin`,
        OPENSSL_CONF: join(out, 'openssl.cnf'),
      },
    });
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (c) => {
        output = (output + c).slice(-20_000);
      });
    const exited = new Promise<void>((done) => child.once('exit', () => done()));
    end = async (signal) => {
      child.kill(signal);
      await exited;
    };
    await eventually(
      'mosquitto to listen',
      () => {
        if (child.exitCode !== null) throw new Error(`mosquitto ended with ${child.exitCode}`);
        return new Promise<boolean>((done, fail) => {
          const s = connect({ port: port + 1, host: '127.0.0.1', rejectUnauthorized: false }, () => {
            s.destroy();
            done(true);
          });
          s.on('error', fail);
        });
      },
      { context: () => output },
    );
  };
  await start();
  return {
    url: `mqtts://127.0.0.1:${port}`,
    port,
    start,
    kill: () => end('SIGKILL'),
    async stop() {
      await end('SIGTERM');
      remove(out);
    },
  };
}

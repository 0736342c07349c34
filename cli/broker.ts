/** `cox broker mosquitto`: everything that Debian's mosquitto (2.0) needs to serve this hub, in one directory. */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { writeFileAtomic } from '../api/files.js';
import { ROOT } from '../api/wire/topics.js';
import { CRL_FILE, createPki, HUB_CN } from '../hub/pki/pki.js';
import { defaultDataDir, describeFlags, type Flag, parseFlags, UsageError } from './flags.js';

const FLAGS: Record<string, Flag> = {
  'data-dir': { value: 'DIR', help: "the hub's data directory", default: defaultDataDir() },
  out: { value: 'DIR', help: 'where to write the configuration' },
  port: { value: 'P', help: 'port for the hub and for nodes', default: '8883' },
  'join-port': { value: 'P', help: 'port for joining only; default: the one after --port' },
  host: { value: 'NAME', multiple: true, help: 'name or address of the machine that mosquitto runs on' },
};

/** Who may do what. `%u` is the CN of the certificate, `%c` the client id. */
const NODE_ACL = `# Written by "cox broker mosquitto". A node has its own topics and nothing else.
pattern read ${ROOT}/n/%u/d
pattern read ${ROOT}/n/%u/s/d
pattern write ${ROOT}/n/%u/u
pattern write ${ROOT}/n/%u/s/u

user ${HUB_CN}
topic read ${ROOT}/n/+/u
topic read ${ROOT}/n/+/s/u
topic read ${ROOT}/j/+/u
topic write ${ROOT}/n/+/d
topic write ${ROOT}/n/+/s/d
topic write ${ROOT}/j/+/d
`;

const JOIN_ACL = `# Written by "cox broker mosquitto". A device that joins has the two topics of its random client id.
pattern read ${ROOT}/j/%c/d
pattern write ${ROOT}/j/%c/u
`;

const configuration = (
  dir: string,
  port: number,
  joinPort: number,
): string => `# Written by "cox broker mosquitto".
# The protocol keeps nothing in the broker: no persistence, no retained messages, QoS 0.
per_listener_settings true
persistence false
retain_available false
max_packet_size 140000
max_keepalive 1200
log_type error
log_type warning
log_type notice

# The hub and its nodes, with certificates of the hub's CA. The client id becomes the certificate's name, so that no
# node can push another one off.
listener ${port}
cafile ${dir}/ca.crt
certfile ${dir}/server.crt
keyfile ${dir}/server.key
# Certificates that were revoked. mosquitto reads it when it starts; the hub turns those devices away in any case.
crlfile ${dir}/ca.crl
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
use_username_as_clientid true
acl_file ${dir}/nodes.acl

# Devices that join and have no certificate yet. mosquitto turns such clients away where use_identity_as_username is
# set, so they have a listener of their own.
listener ${joinPort}
cafile ${dir}/ca.crt
certfile ${dir}/server.crt
keyfile ${dir}/server.key
tls_version tlsv1.2
require_certificate false
allow_anonymous true
acl_file ${dir}/join.acl
max_connections 64
`;

/**
 * mosquitto has no settings for TLS sessions; OpenSSL reads these for the whole process. Without them each connection
 * is sent two tickets that carry the node's certificate: a reconnect then costs 2.4 KB in place of 1.3.
 */
const OPENSSL = `# Written by "cox broker mosquitto", for the environment variable OPENSSL_CONF of mosquitto.
openssl_conf = openssl

[openssl]
ssl_conf = ssl

[ssl]
system_default = tls

[tls]
MinProtocol = TLSv1.2
# Sessions are kept in mosquitto's memory, and what travels is their number.
Options = -SessionTicket
NumTickets = 1
`;

const dropIn = (dir: string): string => `# Written by "cox broker mosquitto".
[Service]
Environment=OPENSSL_CONF=${dir}/openssl.cnf
ExecStart=
ExecStart=/usr/sbin/mosquitto -c ${dir}/mosquitto.conf
`;

export async function broker(argv: string[]): Promise<number> {
  const usage = `usage: cox broker mosquitto --out DIR [flags]\n\n${describeFlags(FLAGS)}\n`;
  if (argv.includes('--help')) {
    process.stdout.write(usage);
    return 0;
  }
  const flags = parseFlags(argv, FLAGS, 1);
  if (flags.positionals[0] !== 'mosquitto')
    throw new UsageError('only mosquitto is known: cox broker mosquitto --out DIR');
  const out = resolve(flags.required('out'));
  const port = flags.number('port', 1, 65535);
  const joinPort = flags.text('join-port') ? flags.number('join-port', 1, 65535) : port + 1;
  const pki = await createPki(flags.required('data-dir'));
  const hosts = flags.list('host').length ? flags.list('host') : [hostname(), ...pki.serverHosts];
  const server = await pki.issueServerCert('coxswain-broker', hosts);
  mkdirSync(out, { recursive: true, mode: 0o755 });
  writeFileAtomic(join(out, 'ca.crt'), pki.caPem, 0o644);
  const crl = join(pki.dir, CRL_FILE);
  if (!existsSync(crl)) await pki.writeCrl([]);
  writeFileAtomic(join(out, CRL_FILE), readFileSync(crl), 0o644);
  writeFileAtomic(join(out, 'server.key'), server.key, 0o600);
  // With the CA, so that a joining device can compare it with the hash in its token.
  writeFileAtomic(join(out, 'server.crt'), server.cert + pki.caPem, 0o644);
  writeFileAtomic(join(out, 'nodes.acl'), NODE_ACL, 0o644);
  writeFileAtomic(join(out, 'join.acl'), JOIN_ACL, 0o644);
  writeFileAtomic(join(out, 'mosquitto.conf'), configuration(out, port, joinPort), 0o644);
  writeFileAtomic(join(out, 'openssl.cnf'), OPENSSL, 0o644);
  writeFileAtomic(join(out, 'systemd.conf'), dropIn(out), 0o644);
  const host = hosts[0];
  const url = `mqtts://${host}:${port}${joinPort === port + 1 ? '' : `?join=${joinPort}`}`;
  process.stdout.write(
    `wrote ${out}\n\n` +
      `1. If mosquitto runs on another machine, copy the directory there, to the same path.\n` +
      `2. Let mosquitto read its key: chown mosquitto ${out}/server.key\n` +
      `3. OPENSSL_CONF=${out}/openssl.cnf mosquitto -c ${out}/mosquitto.conf\n` +
      `   or as a service: install -D ${out}/systemd.conf /etc/systemd/system/mosquitto.service.d/coxswain.conf\n` +
      `4. cox hub --data-dir ${flags.required('data-dir')} --broker '${url}'\n`,
  );
  return 0;
}

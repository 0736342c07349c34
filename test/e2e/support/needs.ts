import { accessSync, constants, existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

const onPath = (command: string): boolean =>
  [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'].some((dir) => {
    try {
      accessSync(join(dir, command), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });

/** Where `scripts/test.sh` puts the two kubectl versions. */
export const cacheDir = (): string =>
  process.env['COX_TEST_CACHE'] ?? join(process.env['HOME'] ?? '/root', '.cache', 'coxswain');
export const kubectlPath = (minor: '1.32' | '1.36'): string =>
  join(cacheDir(), `kubectl-${minor}`, 'usr', 'bin', 'kubectl');

/** Where `scripts/fetch-clients.sh` puts Helm, an operator in Go and a Python with the Kubernetes client. */
export const clientPath = (name: 'helm' | 'operator' | 'python'): string =>
  join(cacheDir(), 'clients', name === 'python' ? 'venv/bin/python' : name);

/** A part of the machine that some tests need, and how to get it. */
const PARTS = {
  root: { have: () => process.getuid?.() === 0, remedy: 'run the tests as root' },
  containerd: { have: () => onPath('containerd') && onPath('ctr'), remedy: 'apt-get install containerd' },
  runc: { have: () => onPath('runc'), remedy: 'apt-get install runc' },
  cni: {
    have: () => existsSync('/usr/lib/cni/bridge') || existsSync('/opt/cni/bin/bridge'),
    remedy: 'apt-get install containernetworking-plugins iptables',
  },
  iptables: { have: () => onPath('iptables'), remedy: 'apt-get install iptables' },
  iproute2: { have: () => onPath('ip'), remedy: 'apt-get install iproute2' },
  busybox: { have: () => existsSync('/bin/busybox'), remedy: 'apt-get install busybox-static' },
  curl: { have: () => onPath('curl'), remedy: 'apt-get install curl' },
  openssl: { have: () => onPath('openssl'), remedy: 'apt-get install openssl' },
  mosquitto: { have: () => onPath('mosquitto'), remedy: 'apt-get install mosquitto' },
  'docker-registry': { have: () => onPath('docker-registry'), remedy: 'apt-get install docker-registry' },
  skopeo: { have: () => onPath('skopeo'), remedy: 'apt-get install skopeo' },
  umoci: { have: () => onPath('umoci'), remedy: 'apt-get install umoci' },
  'kubectl-1.32': { have: () => existsSync(kubectlPath('1.32')), remedy: 'scripts/test.sh' },
  'kubectl-1.36': { have: () => existsSync(kubectlPath('1.36')), remedy: 'scripts/test.sh' },
  helm: { have: () => existsSync(clientPath('helm')), remedy: 'scripts/fetch-clients.sh' },
  'the operator in Go': {
    have: () => existsSync(clientPath('operator')),
    remedy: 'scripts/fetch-clients.sh',
  },
  "Python's client": { have: () => existsSync(clientPath('python')), remedy: 'scripts/fetch-clients.sh' },
} as const;

export type Part = keyof typeof PARTS;

/**
 * For `describe.skipIf(missing('root', 'containerd'))`: true when a part is not there, after saying which and how to
 * get it. In CI nothing may be missing: it throws, and the test file fails.
 */
export function missing(...parts: Part[]): boolean {
  const absent = parts.filter((p) => !PARTS[p].have());
  if (absent.length === 0) return false;
  const text = absent.map((p) => `${p} (${PARTS[p].remedy})`).join(', ');
  if (process.env['CI']) throw new Error(`missing on this machine: ${text}`);
  console.warn(`SKIPPED for want of ${text}`);
  return true;
}

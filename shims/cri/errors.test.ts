import { describe, expect, it } from 'vitest';
import { isNotFound, pullError, runError, unreachable } from './errors.js';
import { GRPC, GrpcError } from './grpc.js';

const same = (s: string) => s;

describe('pull failures', () => {
  // As containerd 1.6 to 2.x and CRI-O word them.
  const cases: [string, string, RegExp][] = [
    [
      'failed to pull and unpack image "r.example/a:1": failed to resolve reference "r.example/a:1": r.example/a:1: not found',
      'ErrImagePull',
      /no such image or tag/,
    ],
    [
      'failed to resolve reference "r.example/a:1": pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials',
      'ErrImagePull',
      /credentials/,
    ],
    [
      'failed to resolve reference "r.example/a:1": unexpected status from HEAD request to https://r.example/v2/a/manifests/1: 403 Forbidden',
      'ErrImagePull',
      /credentials/,
    ],
    [
      'failed to do request: Head "https://r.example/v2/a/manifests/1": dial tcp: lookup r.example: no such host',
      'RegistryUnavailable',
      /does not resolve/,
    ],
    [
      'failed to do request: Head "https://r.example/v2/": dial tcp 10.0.0.1:443: connect: connection refused',
      'RegistryUnavailable',
      /cannot be reached/,
    ],
    [
      'failed to do request: Head "https://r.example/v2/": dial tcp 10.0.0.1:443: i/o timeout',
      'RegistryUnavailable',
      /cannot be reached/,
    ],
    [
      'failed to do request: Head "https://r.example/v2/": http: server gave HTTP response to HTTPS client',
      'RegistryUnavailable',
      /plain HTTP/,
    ],
    [
      'failed to do request: Head "https://r.example/v2/": x509: certificate signed by unknown authority',
      'RegistryUnavailable',
      /not trusted/,
    ],
    [
      'failed to extract layer sha256:00: write /var/lib/containerd/x: no space left on device: unknown',
      'ErrImagePull',
      /disk is full/,
    ],
    [
      'failed to pull and unpack image "r.example/a:1": no match for platform in manifest: not found',
      'ErrImagePull',
      /no variant for this machine/,
    ],
    ['failed to parse image reference "a b": invalid reference format', 'InvalidImageName', /malformed/],
    ['something nobody has seen before', 'ErrImagePull', /something nobody/],
  ];
  for (const [message, reason, text] of cases)
    it(`${reason}: ${message.slice(-60)}`, () => {
      const e = pullError('r.example/a:1', new GrpcError(GRPC.UNKNOWN, message), 'unix:///x', same);
      expect(e.reason).toBe(reason);
      expect(e.message).toMatch(text);
      expect(e.message).toContain('r.example/a:1');
      expect(e.message).toContain(message);
    });
});

it('what cannot be reached is RuntimeUnavailable, with the remedy', () => {
  const say = (text: string) =>
    runError('CreateContainerError', 'create x', new GrpcError(GRPC.UNAVAILABLE, text), 'unix:///run/c.sock');
  for (const [text, remedy] of [
    ['connect ENOENT /run/c.sock', 'apt-get install containerd'],
    ['connect ECONNREFUSED /run/c.sock', 'systemctl start containerd'],
    ['connect EACCES /run/c.sock', 'as root'],
    ['socket hang up', 'socket hang up'],
  ] as const) {
    expect(say(text)).toMatchObject({
      reason: 'RuntimeUnavailable',
      message: expect.stringContaining(remedy),
    });
    expect(unreachable(new GrpcError(GRPC.UNAVAILABLE, text), 'unix:///run/c.sock')).toContain(
      'unix:///run/c.sock',
    );
  }
});

it('names the remedy of what goes wrong on devices', () => {
  const say = (text: string) =>
    runError('CreatePodSandboxError', 'create x', new GrpcError(GRPC.UNKNOWN, text), 'e').message;
  expect(say('failed to find plugin "bridge" in path [/usr/lib/cni]')).toContain(
    'containernetworking-plugins',
  );
  expect(say('cni plugin not initialized')).toContain('/etc/cni/net.d');
  expect(say('openat2 /sys/fs/cgroup/memory/k8s.io/x/memory.limit_in_bytes: no such file')).toContain(
    'cmdline.txt',
  );
  expect(say('exec /app: exec format error')).toContain(process.arch);
});

it('tells absence from other failures', () => {
  expect(isNotFound(new GrpcError(GRPC.NOT_FOUND, 'x'))).toBe(true);
  expect(isNotFound(new GrpcError(GRPC.UNKNOWN, 'could not find container "x"'))).toBe(true);
  expect(isNotFound(new GrpcError(GRPC.UNKNOWN, 'the disk is full'))).toBe(false);
  expect(isNotFound(new Error('not found'))).toBe(false);
});

import type { X509Certificate } from 'node:crypto';

const SERVER_AUTH = '1.3.6.1.5.5.7.3.1';

/**
 * Whether this is a hub's server at all: a server's certificate of this CA. Names do not count: a hub's addresses change,
 * its CA does not, and only servers get `serverAuth` from it. Nor does time: see {@link expiryProblem}. Returns what is
 * wrong, or undefined.
 */
export function serverProblem(leaf: X509Certificate, ca: X509Certificate): string | undefined {
  if (!leaf.verify(ca.publicKey) || leaf.issuer !== ca.subject)
    return "the server's certificate is not of this hub's CA";
  // Node calls the extended key usages `keyUsage`.
  if (!(leaf.keyUsage ?? []).includes(SERVER_AUTH)) return "the server's certificate is not for servers";
  return undefined;
}

/**
 * Whether the certificate has run out. `knownPast`: a moment that has certainly passed, such as the day on which the hub
 * issued this node's own certificate. A clock that is behind it is wrong (a Pi without a battery boots in 1970), as is
 * one past the CA's end, and validity is then not judged by it. Unix milliseconds.
 *
 * The link does not ask: a device whose clock is some years ahead would be out for ever, and what the hub says there is
 * signed, and the session sealed, whatever the broker's certificate is worth (session.ts).
 */
export function expiryProblem(
  leaf: X509Certificate,
  ca: X509Certificate,
  now: number,
  knownPast: number,
): string | undefined {
  const clockIsWrong = now < knownPast || now > Date.parse(ca.validTo);
  if (!clockIsWrong && now > Date.parse(leaf.validTo))
    return `the server's certificate expired on ${leaf.validTo}; restarting the hub renews it`;
  return undefined;
}

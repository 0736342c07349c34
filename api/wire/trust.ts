import type { X509Certificate } from 'node:crypto';

const SERVER_AUTH = '1.3.6.1.5.5.7.3.1';

/**
 * Whether a hub's server is to be trusted: is the certificate a server's of this CA, at a time that makes sense? Names do
 * not count: a hub's addresses change, its CA does not, and only servers get `serverAuth` from it. `knownPast`: a moment
 * that has certainly passed, such as the day on which the hub issued this node's own certificate. A clock that is
 * behind it is wrong (a Pi without a battery boots in 1970), and validity is then not judged by it. Unix milliseconds.
 * Returns what is wrong, or undefined.
 */
export function serverProblem(
  leaf: X509Certificate,
  ca: X509Certificate,
  now: number,
  knownPast: number,
): string | undefined {
  if (!leaf.verify(ca.publicKey) || leaf.issuer !== ca.subject)
    return "the server's certificate is not of this hub's CA";
  // Node calls the extended key usages `keyUsage`.
  if (!(leaf.keyUsage ?? []).includes(SERVER_AUTH)) return "the server's certificate is not for servers";
  const clockIsWrong = now < knownPast || now > Date.parse(ca.validTo);
  if (!clockIsWrong && now > Date.parse(leaf.validTo))
    return `the server's certificate expired on ${leaf.validTo}; restarting the hub renews it`;
  return undefined;
}

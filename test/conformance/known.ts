/** Conformance tests that are left out, and why. An entry goes when what it names is there. */
export const KNOWN: readonly { tests: string; why: string }[] = [
  {
    tests:
      '\\[sig-network\\] (DNS|HostPort|Networking|ServiceCIDR|Services should (be able to (c|s)|have|serve))',
    why: 'no data plane for Services yet: nothing answers at cluster addresses or DNS names; no ServiceCIDR',
  },
  {
    tests: '\\[sig-network\\] EndpointSlice should support a Service with multiple',
    why: 'asks through a cluster address',
  },
  { tests: '\\[sig-network\\] Proxy version v1 should proxy', why: 'links in pages are not rewritten' },
  { tests: 'Guestbook application|OIDC discovery', why: 'finds others by their names in DNS' },
  { tests: 'ImageVolume', why: 'image volumes are not served' },
];

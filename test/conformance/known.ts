/** Conformance tests that are left out, and why. An entry goes when what it names is there. */
export const KNOWN: readonly { tests: string; why: string }[] = [
  {
    tests: '\\[sig-network\\]',
    why: 'no data plane for Services yet: nothing answers at cluster addresses or DNS names',
  },
];

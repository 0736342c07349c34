import { defineConfig } from 'vitest/config';

/** Two projects: `unit` sits beside the code and needs nothing but Node; `e2e` drives built binaries with real parts. */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['{api,hub,agent,shims,cli}/**/*.test.ts', 'test/sim/**/*.test.ts'],
          testTimeout: 30_000,
          globalSetup: ['scripts/schemas.mjs'],
        },
      },
      {
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts'],
          testTimeout: 180_000,
          hookTimeout: 180_000,
          fileParallelism: false,
          globalSetup: [],
        },
      },
    ],
  },
});

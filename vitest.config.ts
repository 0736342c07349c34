import { defineConfig } from 'vitest/config';

/**
 * Three projects: `unit` sits beside the code and needs nothing but Node; `sim` runs the whole system under faults from
 * seeds (docs/simulator.md); `e2e` drives built binaries with real parts.
 */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: [
            '{api,hub,agent,shims,cli}/**/*.test.ts',
            'test/sim/{link,hostile,golden,versions,away,streams}.test.ts',
            'test/sim/world/*.test.ts',
          ],
          testTimeout: 30_000,
          globalSetup: ['scripts/schemas.mjs'],
        },
      },
      {
        test: {
          name: 'sim',
          include: ['test/sim/*.test.ts'],
          exclude: ['test/sim/{link,hostile,golden,versions,away,streams}.test.ts'],
          testTimeout: 300_000,
          fileParallelism: false,
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

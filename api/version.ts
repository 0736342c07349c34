import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The Kubernetes minor whose API this is, and our own version: `v1.36.0+coxswain0.1.0`. */
export function version(): string {
  // The source tree and dist/ differ in depth.
  for (const up of ['..', '../..']) {
    try {
      const { name, version } = JSON.parse(
        readFileSync(join(import.meta.dirname, up, 'package.json'), 'utf8'),
      );
      if (name === 'coxswain') return `v1.36.0+coxswain${version}`;
    } catch {
      // Not this one.
    }
  }
  return 'v1.36.0+coxswain';
}

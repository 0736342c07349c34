/** Short forms in which the tables of default roles are written. */
import type { PolicyRule } from 'kubernetes-types/rbac/v1.js';

export const AUTHENTICATION = 'authentication.k8s.io';
export const AUTHORIZATION = 'authorization.k8s.io';
export const CERTIFICATES = 'certificates.k8s.io';

export const READ = 'get list watch';
export const WRITE = 'create delete deletecollection patch update';
export const READ_WRITE = 'create delete deletecollection get list patch update watch';

const words = (text: string): string[] => text.split(' ');

/** Verbs on resources of some groups, by words; `core` is the group without a name. */
export const on = (groups: string, resources: string, verbs: string, names?: string): PolicyRule => ({
  apiGroups: words(groups).map((g) => (g === 'core' ? '' : g)),
  resources: words(resources),
  ...(names ? { resourceNames: words(names) } : {}),
  verbs: words(verbs),
});

/** To read URLs that are no resources. */
export const urls = (paths: string): PolicyRule => ({ nonResourceURLs: words(paths), verbs: ['get'] });

export const EVENTS = on('core events.k8s.io', 'events', 'create patch update');

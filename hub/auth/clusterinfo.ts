/**
 * What whoever comes to a cluster may read without being anybody: where its API is and what its CA is (kubeadm's
 * `cluster-info`). A bootstrap token tells whether it is true; see controllers/bootstraptokens.ts.
 */
import type { ConfigMap } from 'kubernetes-types/core/v1.js';
import type { Role, RoleBinding } from 'kubernetes-types/rbac/v1.js';
import { configMaps, roleBindings, roles } from '../../api/kinds/index.js';
import { RBAC_GROUP } from '../../api/kinds/rbac.js';
import { isApiError } from '../../api/meta/errors.js';
import type { Client } from '../client.js';

const NAMESPACE = 'kube-public';
const NAME = 'cluster-info';
/** As kubeadm calls them. */
const ROLE = 'kubeadm:bootstrap-signer-clusterinfo';

const kubeconfig = (server: string, caPem: string): string =>
  [
    'apiVersion: v1',
    'clusters:',
    '- cluster:',
    `    certificate-authority-data: ${Buffer.from(caPem).toString('base64')}`,
    `    server: ${server}`,
    '  name: ""',
    'contexts: null',
    'current-context: ""',
    'kind: Config',
    'preferences: {}',
    'users: null',
    '',
  ].join('\n');

/** Makes what is missing and brings the address up to date. `server`: e.g. `https://192.0.2.1:6443`. */
export async function publishClusterInfo(client: Client, server: string, caPem: string): Promise<void> {
  const metadata = { namespace: NAMESPACE, name: ROLE };
  const role: Role = {
    metadata,
    rules: [{ apiGroups: [''], resources: ['configmaps'], resourceNames: [NAME], verbs: ['get'] }],
  };
  const binding: RoleBinding = {
    metadata,
    roleRef: { apiGroup: RBAC_GROUP, kind: 'Role', name: ROLE },
    subjects: [{ apiGroup: RBAC_GROUP, kind: 'User', name: 'system:anonymous' }],
  };
  const info: ConfigMap = {
    metadata: { namespace: NAMESPACE, name: NAME },
    data: { kubeconfig: kubeconfig(server, caPem) },
  };
  const there = async (make: Promise<unknown>): Promise<boolean> => {
    try {
      await make;
      return false;
    } catch (e) {
      if (isApiError(e, 'AlreadyExists')) return true;
      throw e;
    }
  };
  if (await there(client.create(configMaps, info)))
    // Writes nothing where nothing has changed.
    await client.patch(configMaps, { namespace: NAMESPACE, name: NAME }, { data: info.data });
  await there(client.create(roles, role));
  await there(client.create(roleBindings, binding));
}
